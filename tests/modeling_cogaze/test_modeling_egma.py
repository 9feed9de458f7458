import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForZeroShotImageClassification,
    BertConfig,
    BertModel,
    SwinConfig,
    SwinModel,
)

from modeling_cogaze import EgmaConfig, EgmaForPreTraining, EgmaForZeroShotImageClassification, EgmaModel

VOCABULARY = 300
BACKBONES = {
    "swin": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 64},
    "resnet": {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8, "image_size": 64},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 64},
    "vit": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64},
    "clip_vision_model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64},
    "dinov2": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56},
}


def small_config(**overrides) -> EgmaConfig:
    return EgmaConfig.tiny(**{"vocab_size": VOCABULARY, "vision_config": {"image_size": 64}} | overrides)


def make_batch(config, gaze=True, rows=8, seed=0) -> dict[str, torch.Tensor]:
    """Image 0 has a reading of two sentences (one looked nowhere) and its transcript, image 1 one sentence, image 2 a
    report of three sentences, image 3 nothing; rows are those of images 0 to 2, cut to `rows`."""
    generator = torch.Generator().manual_seed(seed)
    patches = config.grid_size[0] * config.grid_size[1]
    targets = torch.rand(8, patches, generator=generator) * (torch.rand(8, patches, generator=generator) < 0.3)
    targets[[1, 5, 6, 7]] = 0
    lengths = torch.tensor([4, 9, 9, 5, 6, 7, 3, 8])
    batch = {
        "pixel_values": torch.randn(4, 3, *config.image_size, generator=generator),
        "transcript_input_ids": torch.randint(1, VOCABULARY, (8, 9), generator=generator),
        "transcript_attention_mask": (torch.arange(9) < lengths[:, None]).long(),
        "transcript_image_index": torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]),
        "transcript_is_full": torch.tensor([False, False, True, False, True, False, False, False]),
        "gaze_targets": targets if gaze else torch.zeros_like(targets),
        "study_ids": torch.tensor([1, 1, 2, 3]),
    }
    return {name: value[:rows] if name.startswith(("transcript", "gaze")) else value for name, value in batch.items()}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EgmaForPreTraining(small_config()).eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_any_vision_backbone_trains(name):
    torch.manual_seed(0)
    config = small_config(vision_config={"model_type": name, **BACKBONES[name]})
    model = EgmaForPreTraining(config).train()
    outputs = model(**make_batch(config))
    outputs.loss.backward()
    rows, columns = config.grid_size
    assert outputs.gaze_logits.shape == (8, rows * columns)
    idle = [name for name, p in model.named_parameters() if p.grad is None and "mask_token" not in name]
    assert not idle
    for encoder in (model.egma.vision_model, model.egma.text_model):
        assert any((p.grad.abs() > 0).any() for p in encoder.parameters() if p.grad is not None)


def test_swin_patches_are_taken_before_the_final_norm():
    torch.manual_seed(0)
    config = small_config(vision_config={"model_type": "swin", **BACKBONES["swin"]})
    model = EgmaModel(config).eval()
    torch.nn.init.zeros_(model.vision_model.layernorm.weight)
    pooled, patches = model.encode_image(torch.randn(1, 3, 64, 64))
    assert pooled.abs().max() < 1e-6 and patches.abs().max() > 0.1


@pytest.mark.parametrize("losses", [["clip"], ["mlce"], ["egf"], ["egm"], ["egf", "egm"], ["clip", "egf", "egm"]])
@pytest.mark.parametrize("batch", ["gaze", "no gaze", "no text"])
def test_every_ablation_trains_on_every_batch(losses, batch):
    torch.manual_seed(0)
    model = EgmaForPreTraining(small_config(losses=losses)).train()
    inputs = make_batch(model.config, gaze=batch == "gaze", rows=0 if batch == "no text" else 8)
    outputs = model(**inputs)
    outputs.loss.backward()
    # Every parameter has a gradient, or DDP would wait for it.
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert {name for name in losses} == {name[5:] for name in outputs if name.startswith("loss_")}
    if batch == "no text" or (batch == "no gaze" and losses == ["mlce"]):
        assert outputs.loss.item() == 0
    else:
        assert outputs.loss.item() == pytest.approx(sum(outputs[f"loss_{name}"].item() for name in losses), rel=1e-5)
        assert outputs.loss.item() > 0


def test_losses_are_those_of_the_equations_file(model):
    from modeling_cogaze.losses_egma import egf_loss, egm_loss, gaze_strengths

    batch = make_batch(model.config)
    with torch.no_grad():
        outputs = model(**batch)
        _, patches = model.egma.encode_image(batch["pixel_values"])
        rows = model.egma.get_text_features(
            batch["transcript_input_ids"], batch["transcript_attention_mask"]
        ).pooler_output
    unit = torch.nn.functional.normalize
    targets = batch["gaze_targets"].clone()
    targets[1] = targets[2]  # looked nowhere: its reading's transcript
    order = torch.tensor([[0, 1, -1], [3, -1, -1], [5, 6, 7], [-1, -1, -1]])
    mask = order >= 0
    sentences, strengths = unit(rows, dim=-1)[order], gaze_strengths(targets)[order]
    inputs = unit(patches, dim=-1), sentences, mask, strengths, 1 / 0.07
    assert outputs.loss_egf.item() == pytest.approx(egf_loss(*inputs).item(), rel=1e-4)
    assert outputs.loss_egm.item() == pytest.approx(egm_loss(*inputs).item(), rel=1e-4)


def test_hybrid_targets_make_texts_of_a_study_positives():
    torch.manual_seed(0)
    single = EgmaForPreTraining(small_config(losses=["clip"])).eval()
    hybrid = EgmaForPreTraining(small_config(losses=["clip"], contrastive_targets="hybrid")).eval()
    hybrid.load_state_dict(single.state_dict())
    batch = make_batch(single.config)
    assert single(**batch).loss.item() != pytest.approx(hybrid(**batch).loss.item(), abs=1e-4)
    batch["study_ids"] = torch.arange(4)
    assert single(**batch).loss.item() == pytest.approx(hybrid(**batch).loss.item(), abs=1e-6)


def test_padding_changes_nothing(model):
    batch = make_batch(model.config)
    padded = dict(batch)
    padded["transcript_input_ids"] = torch.nn.functional.pad(batch["transcript_input_ids"], (0, 5), value=7)
    padded["transcript_attention_mask"] = torch.nn.functional.pad(batch["transcript_attention_mask"], (0, 5))
    with torch.no_grad():
        assert model(**padded).loss.item() == pytest.approx(model(**batch).loss.item(), abs=1e-5)


def test_one_image_is_the_same_alone_and_in_a_batch(model):
    batch = make_batch(model.config)
    names = ("transcript_input_ids", "transcript_attention_mask", "transcript_image_index", "transcript_is_full")
    alone = {name: batch[name][:3] for name in names}
    with torch.no_grad():
        many = model.egma(batch["pixel_values"], **{name: batch[name] for name in names})
        one = model.egma(batch["pixel_values"][:1], **alone)
    torch.testing.assert_close(one.image_embeds[0], many.image_embeds[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(one.text_embeds[0], many.text_embeds[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(one.logits_per_image[0, 0], many.logits_per_image[0, 0], atol=1e-4, rtol=0)
    assert many.text_embeds[3].abs().max() == 0


@pytest.mark.parametrize("similarity", ["global", "fine_grained"])
def test_zero_shot_scores_are_similarities_of_single_sentences(similarity):
    torch.manual_seed(0)
    model = EgmaForZeroShotImageClassification(small_config(similarity=similarity)).eval()
    batch = make_batch(model.config)
    prompts = batch["transcript_input_ids"][:2], batch["transcript_attention_mask"][:2]
    with torch.no_grad():
        logits = model(prompts[0], batch["pixel_values"], prompts[1]).logits_per_image
        image, patches = model.egma.encode_image(batch["pixel_values"])
        text = model.egma.get_text_features(*prompts).pooler_output
    cosine = torch.cosine_similarity(patches[:, :, None], text, dim=-1)  # (B, P, L)
    expected = (cosine.mean(dim=1) + cosine.amax(dim=1)) / 2
    if similarity == "global":
        expected = torch.cosine_similarity(image[:, None], text, dim=-1)
    torch.testing.assert_close(logits, expected / 0.07, atol=1e-3, rtol=0)


def test_gaze_maps_are_distributions(model):
    batch = make_batch(model.config)
    maps = model.egma.get_gaze_maps(
        batch["pixel_values"], batch["transcript_input_ids"], image_index=batch["transcript_image_index"]
    )
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(8))
    with pytest.raises(ValueError, match="image_index: 8 sentences for 4 images"):
        model.egma.get_gaze_maps(batch["pixel_values"], batch["transcript_input_ids"])


def test_scale_is_clamped():
    model = EgmaModel(small_config())
    for value, scale in ((-3.0, 1), (9.0, 100), (2.0, torch.tensor(2.0).exp().item())):
        torch.nn.init.constant_(model.logit_scale, value)
        assert model.scale.item() == pytest.approx(scale)


def test_frozen_vision_encoder_stays_as_it_is():
    model = EgmaForPreTraining(small_config(freeze_vision_encoder=True)).train()
    assert not model.egma.vision_model.training
    model(**make_batch(model.config)).loss.backward()
    assert all(p.grad is None for p in model.egma.vision_model.parameters())
    assert model.egma.vision_projection.weight.grad.abs().sum() > 0


def test_base_is_the_papers():
    config = EgmaConfig.base()
    with torch.device("meta"):
        model = EgmaForPreTraining(config)
    assert config.grid_size == (7, 7) and config.image_size == (224, 224) and config.projection_dim == 512
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in model.egma.named_children()}
    assert count["vision_model"] == pytest.approx(27.5e6, rel=0.01)
    assert count["text_model"] == 28996 * 768 + 514 * 768 + 2 * 768 + 6 * 7_087_872
    assert count["vision_projection"] == count["text_projection"] == 768 * 512


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"losses": ["egf", "mse"]}, "losses"),
        ({"losses": []}, "losses"),
        ({"label_sentence_weight": 1.5}, "label_sentence_weight"),
        ({"pooled_text_layers": 3}, "pooled_text_layers"),
    ],
)
def test_wrong_config_values_are_named(fields, message):
    with pytest.raises(Exception, match=message):
        small_config(**fields)


def test_from_encoders_copies_pretrained_weights(tmp_path):
    vision = SwinModel(SwinConfig(**BACKBONES["swin"]))
    text = BertModel(BertConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, num_attention_heads=2))
    vision.save_pretrained(tmp_path / "vision")
    text.save_pretrained(tmp_path / "text")
    model = EgmaForPreTraining.from_encoders(tmp_path / "vision", tmp_path / "text", config=small_config())
    assert model.config.text_config.num_hidden_layers == 2
    for key, value in vision.state_dict().items():
        torch.testing.assert_close(model.egma.vision_model.state_dict()[key], value)
    word = "embeddings.word_embeddings.weight"
    torch.testing.assert_close(model.egma.text_model.state_dict()[word], text.state_dict()[word])


def test_checkpoint_opens_with_every_auto_class(model, tmp_path):
    model.save_pretrained(tmp_path)
    batch = make_batch(model.config)
    prompts = {"input_ids": batch["transcript_input_ids"], "attention_mask": batch["transcript_attention_mask"]}
    assert isinstance(AutoConfig.from_pretrained(tmp_path), EgmaConfig)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert isinstance(again, EgmaForPreTraining)
    with torch.no_grad():
        assert again(**batch).loss.item() == model(**batch).loss.item()
        encoder = AutoModel.from_pretrained(tmp_path)
        assert isinstance(encoder, EgmaModel)
        features = encoder.get_image_features(batch["pixel_values"]).pooler_output
        torch.testing.assert_close(features, model.egma.get_image_features(batch["pixel_values"]).pooler_output)
        zero_shot = AutoModelForZeroShotImageClassification.from_pretrained(tmp_path)
        assert zero_shot(pixel_values=batch["pixel_values"], **prompts).logits_per_image.shape == (4, 8)


def test_checkpoint_opens_without_the_project(model, tmp_path):
    model.save_pretrained(tmp_path / "checkpoint")
    script = f"""
import json, sys, torch
from transformers import AutoModel, AutoModelForZeroShotImageClassification
path = {str(tmp_path / "checkpoint")!r}
model = AutoModel.from_pretrained(path, trust_remote_code=True).eval()
zero_shot = AutoModelForZeroShotImageClassification.from_pretrained(path, trust_remote_code=True).eval()
pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
ids = torch.arange(1, 7)[None]
assert "modeling_cogaze" not in sys.modules
with torch.no_grad():
    values = model.get_image_features(pixels).pooler_output[0], zero_shot(ids, pixels).logits_per_image[0]
print(json.dumps([value.tolist() for value in values]))
"""
    run = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert run.returncode == 0, run.stderr
    features, logits = json.loads(run.stdout.splitlines()[-1])
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.egma.get_image_features(pixels).pooler_output[0]
        image, patches = model.egma.encode_image(pixels)
        text = model.egma.get_text_features(torch.arange(1, 7)[None]).pooler_output
        expected_logits = model.egma.similarity(image, patches, text)[0] * model.egma.scale
    assert features == pytest.approx(expected.tolist(), abs=1e-5)
    assert logits == pytest.approx(expected_logits.tolist(), abs=1e-3)


def test_two_processes_train_like_one_with_the_joined_batch(tmp_path):
    """One step of SGD under DDP, two images a process and not the same number of sentences, against one process."""
    script = tmp_path / "step.py"
    script.write_text(
        f"""
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path[:0] = {[str(p) for p in sys.path if p]!r}
from tests.modeling_cogaze.test_modeling_egma import distributed_step
dist.init_process_group("gloo")
assert dist.get_world_size() == 2
rank = dist.get_rank()
model = distributed_step(rank, DistributedDataParallel)
if rank == 0:
    torch.save(model.state_dict(), {str(tmp_path / "two.pt")!r})
dist.destroy_process_group()
"""
    )
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    for name, value in distributed_step(None).state_dict().items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4)


def distributed_step(rank, wrap=lambda model: model):
    torch.manual_seed(0)
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    losses = ["clip", "mlce", "egf", "egm"]
    model = EgmaForPreTraining(small_config(losses=losses, contrastive_targets="hybrid", text_config=dropout)).train()
    batch = make_batch(model.config)
    if rank is not None:
        mine = batch["transcript_image_index"] // 2 == rank
        batch = {
            name: value[mine] if name.startswith(("transcript", "gaze")) else value[2 * rank : 2 * rank + 2]
            for name, value in batch.items()
        }
        batch["transcript_image_index"] -= 2 * rank
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped = wrap(model)  # kept: a DDP wrapper that is gone by the backward pass synchronises nothing
    wrapped(**batch).loss.backward()
    optimizer.step()
    return model
