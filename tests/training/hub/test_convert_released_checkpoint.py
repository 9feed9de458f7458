"""Converted checkpoints give what the released models give, which `tests.training.released` computes by itself."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForPreTraining,
    AutoProcessor,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
)

from modeling_cogaze import (
    CoGazeForConditionalGeneration,
    CoGazeForPreTraining,
    CoGazePrefixForConditionalGeneration,
    EgmaForPreTraining,
)
from processing.tokenization import build_tokenizer, cogaze_tokenizer
from tests.training import released
from training.convert_released_checkpoint import main

VIEWS = {"LATERAL": 2, "AP": 0, "unk": 1, "PA": 3}
VISION_WIDTH = 24
CONTEXT, REPORT = [7, 1, 30, 12], [9, 4, 200, 41, 2]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What a user has beside the released files: the frozen encoder, a tokenizer, the view positions."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=VISION_WIDTH, num_hidden_layers=1, num_attention_heads=2, image_size=28, use_mask_token=True
    )
    Dinov2Model(config).save_pretrained(folder / "rad-dino")
    build_tokenizer(["no effusion", "the lungs are clear"], 300).save_pretrained(folder / "gpt2")
    (folder / "views.json").write_text(json.dumps(VIEWS))
    return folder


@pytest.fixture(scope="module")
def vocab(parts):
    return len(cogaze_tokenizer(build_tokenizer(["no effusion", "the lungs are clear"], 300)))


def convert(parts, folder, weights, *more, **beside) -> int:
    """Saves the released file as its authors do, and converts it to `folder`."""
    file = folder.with_suffix(".pt")
    content = {"state_dict": dict(weights), "optimizer_state": {"state": {}, "param_groups": []}, "epoch": 3}
    torch.save(content | beside, file)
    named = {
        "checkpoint": file,
        "output_dir": folder,
        "view_positions": parts / "views.json",
        "vision_encoder": parts / "rad-dino",
        "tokenizer": parts / "gpt2",
    }
    return main([str(part) for name, value in named.items() for part in (f"--{name}", value)] + list(map(str, more)))


@pytest.fixture(scope="module")
def pretraining(parts, vocab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "pretraining"
    weights = released.pretraining_weights(vocab, len(VIEWS), VISION_WIDTH)
    assert convert(parts, folder, weights) == 0
    return weights, folder


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def tokens(parts, pixels):
    """What the frozen encoder gives: its class token and patches after the last LayerNorm."""
    with torch.no_grad():
        return Dinov2Model.from_pretrained(parts / "rad-dino").eval()(pixels).last_hidden_state[0]


@torch.no_grad()
@pytest.mark.parametrize("view", ["PA", "AP", "LATERAL", ""])
@pytest.mark.parametrize("context", [CONTEXT, None])
def test_latents_are_the_released_models(pretraining, pixels, tokens, view, context):
    weights, folder = pretraining
    model = AutoModel.from_pretrained(folder).eval()
    row = VIEWS[view or "unk"]
    ids = None if context is None else torch.tensor(context)
    latents, context_latents = released.cogaze(weights, tokens, row, ids)
    views = torch.tensor([model.config.view_positions.index(view)])
    outputs = model(pixels, views, None if context is None else ids[None])
    torch.testing.assert_close(outputs.vision_latents[0], latents, **CLOSE)
    torch.testing.assert_close(outputs.context_latents[0], context_latents, **CLOSE)
    torch.testing.assert_close(outputs.patch_features[0], released.vision_features(weights, tokens, row)[1:], **CLOSE)


@torch.no_grad()
def test_reports_heads_and_gaze_are_the_released_models(pretraining, pixels, tokens):
    weights, folder = pretraining
    model = AutoModelForPreTraining.from_pretrained(folder).eval()
    assert type(model) is CoGazeForPreTraining
    text = released.text_features(weights, torch.tensor(REPORT))
    latents, _ = released.cogaze(weights, tokens, VIEWS["PA"], torch.tensor(CONTEXT))
    outputs = model(
        pixels,
        torch.tensor([model.config.view_positions.index("PA")]),
        torch.tensor([CONTEXT]),
        report_input_ids=torch.tensor([REPORT]),
        transcript_input_ids=torch.tensor([REPORT]),
        transcript_image_index=torch.tensor([0]),
    )
    for logits, features, head in (
        (outputs.vision_logits, latents.mean(dim=0), "vision_classifier"),
        (outputs.report_logits, text.mean(dim=0), "report_classifier"),
    ):
        expected = weights[f"{head}.classifier.weight"] @ features + weights[f"{head}.classifier.bias"]
        torch.testing.assert_close(logits[0], expected, **CLOSE)
    cosine = torch.cosine_similarity(latents.mean(dim=0), text.mean(dim=0), dim=0)
    torch.testing.assert_close(outputs.logits_per_image[0, 0], cosine * torch.tensor(2.5).exp(), **CLOSE)
    patches = released.vision_features(weights, tokens, VIEWS["PA"])[1:]
    gaze = torch.cosine_similarity(patches, text[:1]) * torch.tensor(3.5).exp()
    torch.testing.assert_close(outputs.gaze_logits[0], gaze, **CLOSE)


def test_sizes_names_and_processor_follow_from_the_files(pretraining, vocab):
    _, folder = pretraining
    config = AutoModel.from_pretrained(folder).config
    assert config.view_positions == ["", "AP", "LATERAL", "PA"]
    assert (config.perceiver_depth, config.num_latents, config.perceiver_heads) == (2, 5, 2)
    assert config.text_config.num_hidden_layers == 2 and config.text_config.vocab_size == vocab
    assert config.freeze_vision_encoder and not config.vision_config.use_mask_token
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.view_positions == config.view_positions and tuple(processor.grid_size) == config.grid_size
    training = json.loads((folder / "training.json").read_text())
    assert training["converted_from"] == "pretraining.pt" and training["pretrained"] == ["rad-dino"]


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_report_models_predict_what_the_released_decoder_predicts(parts, vocab, pixels, tokens, tmp_path, tied):
    weights = released.report_weights(vocab, len(VIEWS), VISION_WIDTH)
    prefix = "language_model.encoder_decoder.decoder."
    if tied:
        weights[f"{prefix}lm_head.weight"] = weights[f"{prefix}transformer.wte.weight"]
    assert convert(parts, tmp_path / "reports", weights) == 0
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "reports").eval()
    assert type(model) is CoGazeForConditionalGeneration
    memory = torch.cat(released.cogaze(weights, tokens, VIEWS["AP"], torch.tensor(CONTEXT)))
    expected = released.gpt2(weights, prefix, torch.tensor(REPORT), memory)
    outputs = model(pixels, torch.tensor([1]), torch.tensor([CONTEXT]), decoder_input_ids=torch.tensor([REPORT]))
    torch.testing.assert_close(outputs.logits[0], expected, **CLOSE)
    assert model.generation_config.num_beams == 10


@pytest.fixture(scope="module")
def llama(parts):
    folder = parts / "llama"
    tokenizer = build_tokenizer(["no effusion", "the lungs are clear"], 300)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=40,
        intermediate_size=60,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@torch.no_grad()
@pytest.mark.parametrize("rank", [4, 0])
def test_adapter_and_lora_go_before_a_language_model(parts, llama, vocab, pixels, tokens, tmp_path, rank):
    weights = released.cogaze_weights(vocab, len(VIEWS), VISION_WIDTH)
    weights.linear("adapter", released.WIDTH, 40)
    language_model = LlamaForCausalLM.from_pretrained(llama).eval()
    beside = {"lora_state_dict": None, "lora_config": None}
    if rank:  # as the released code does
        settings = LoraConfig(
            r=rank, lora_alpha=6, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM"
        )
        language_model = get_peft_model(language_model, settings).eval()
        for name, parameter in language_model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
        beside["lora_state_dict"] = get_peft_model_state_dict(language_model)
        beside["lora_config"] = language_model.peft_config["default"].to_dict()
    assert convert(parts, tmp_path / "llm", weights, "--language_model", llama, **beside) == 0

    latents = torch.cat(released.cogaze(weights, tokens, VIEWS["PA"], torch.tensor(CONTEXT)))
    prefix = latents @ weights["adapter.weight"].T + weights["adapter.bias"]
    before, after = torch.tensor([[3, 8]]), torch.tensor([[5, 6, 7]])
    embed = language_model.get_input_embeddings()
    expected = language_model(inputs_embeds=torch.cat([embed(before), prefix[None], embed(after)], dim=1)).logits

    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "llm").eval()
    assert type(model) is CoGazePrefixForConditionalGeneration
    assert model.config.num_image_tokens == len(latents) and model.config.lora_rank == rank
    prompt = torch.cat([before, torch.full((1, len(latents)), model.config.image_token_id), after], dim=1)
    view = torch.tensor([model.config.encoder_config.view_positions.index("PA")])
    outputs = model(prompt, pixel_values=pixels, view_position_ids=view, context_input_ids=torch.tensor([CONTEXT]))
    torch.testing.assert_close(outputs.logits, expected, **CLOSE)
    processor = AutoProcessor.from_pretrained(tmp_path / "llm")
    assert processor.image_token_id == model.config.image_token_id


@torch.no_grad()
def test_egma_weights_give_patches_pooled_image_and_sentences(parts, tmp_path):
    vocab = len(build_tokenizer(["no effusion", "the lungs are clear"], 300))
    weights = released.egma_weights(vocab)
    torch.save(dict(weights), tmp_path / "egma.bin")
    argv = ["--checkpoint", tmp_path / "egma.bin", "--output_dir", tmp_path / "egma", "--tokenizer", parts / "gpt2"]
    assert main([*map(str, argv), "--image_size", "16"]) == 0
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "egma").eval()
    assert type(model) is EgmaForPreTraining and model.config.vision_config.depths == [1, 2]
    pixels = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(3))
    patches, pooled = released.swin(weights, "vision_model.model.", pixels, window=2)
    image, patch_features = model.egma.encode_image(pixels[None])
    project = weights["vision_model.projection_head.weight"].T
    torch.testing.assert_close(image[0], pooled @ project, **CLOSE)
    torch.testing.assert_close(patch_features[0], patches @ project, **CLOSE)
    states = torch.stack(released.bert(weights, "text_model.model.", torch.tensor(REPORT))[-4:])
    sentence = states.mean(dim=(0, 1)) @ weights["text_model.projection_head.weight"].T
    torch.testing.assert_close(model.egma.get_text_features(torch.tensor([REPORT])).pooler_output[0], sentence, **CLOSE)
    assert model.egma.logit_scale.item() == pytest.approx(2.7)


def test_unused_tensors_are_named_and_unknown_ones_refused(parts, vocab, tmp_path, capsys):
    weights = released.pretraining_weights(vocab, len(VIEWS), VISION_WIDTH)
    assert convert(parts, tmp_path / "a", weights) == 0
    said = capsys.readouterr().out
    for name in ("perceiver.latents", "text_encoder.cls.predictions.bias", "text_encoder.bert.embeddings.position_ids"):
        assert f"unused: {name}" in said
    weights["val_metrics.total"] = torch.zeros(1)
    assert convert(parts, tmp_path / "b", weights) == 1
    assert "1 tensors are unknown, the first val_metrics.total" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert convert(parts, tmp_path / "b", weights, "--ignore", "val_metrics.") == 0
    assert "unused: val_metrics.total" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda w: w.pop("perceiver.layers.1.0.fn.to_q.weight"), "would be perceiver.layers.1.cross_attention.q_proj"),
        (lambda w: w.pop("latent_type_embed.image"), "lacks latent_type_embed.image"),
        (lambda w: w.pop("text_encoder.bert.encoder.layer.1.output.dense.bias"), "missing keys of BertModel"),
        (lambda w: w.update(logit_scale=torch.zeros(2)), "logit_scale has shape (2,); () was expected"),
        (
            lambda w: w.update({"report_classifier.classifier.weight": torch.zeros(13, released.WIDTH)}),
            "report_classifier.classifier.weight has shape (13, 128); (14, 128) was expected",
        ),
        (
            lambda w: w.update({"text_encoder.bert.encoder.layer.1.intermediate.dense.bias": torch.zeros(3)}),
            "mismatched keys of BertModel",
        ),
        (lambda w: w.clear(), "its state_dict is empty"),
    ],
)
def test_incomplete_or_ill_shaped_files_are_refused(parts, vocab, tmp_path, capsys, spoil, reason):
    weights = released.pretraining_weights(vocab, len(VIEWS), VISION_WIDTH)
    spoil(weights)
    assert convert(parts, tmp_path / "out", weights) == 1
    assert reason in capsys.readouterr().err


def test_view_positions_must_fit(parts, vocab, pretraining, tmp_path, capsys):
    weights = released.pretraining_weights(vocab, len(VIEWS), VISION_WIDTH)
    for views, reason in (
        ({"PA": 0, "AP": 1}, "view_positions: 2 names for 4 rows"),
        ({"PA": 1, "AP": 2}, "does not map names to the numbers from 0 on"),
        (["PA"], "does not map names to the numbers from 0 on"),
    ):
        (tmp_path / "views.json").write_text(json.dumps(views))
        assert convert(parts, tmp_path / "out", weights, "--view_positions", tmp_path / "views.json") == 1
        assert reason in capsys.readouterr().err
    # Without a name for an unknown view, its embedding is the mean of all.
    (tmp_path / "views.json").write_text(json.dumps({"PA": 3, "AP": 0, "LL": 1, "LATERAL": 2}))
    assert convert(parts, tmp_path / "out", weights, "--view_positions", tmp_path / "views.json") == 0
    model = AutoModel.from_pretrained(tmp_path / "out")
    rows = weights["image_projector.add_pos_embed.pos_embed"][:, 0]
    assert model.config.view_positions == ["", "AP", "LL", "LATERAL", "PA"]
    torch.testing.assert_close(model.image_projector.view_position_embedding.weight[0], rows.mean(dim=0))


def test_files_that_hold_code_are_not_opened(parts, tmp_path, capsys):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("opened").touch, ())

    torch.save({"state_dict": {"x": Payload()}}, tmp_path / "bad.pt")
    argv = ["--checkpoint", str(tmp_path / "bad.pt"), "--output_dir", str(tmp_path / "out")]
    assert main(argv) == 1 and "is not opened" in capsys.readouterr().err
    assert not (tmp_path / "opened").exists()
    assert main(["--checkpoint", str(tmp_path / "none.pt"), *argv[2:]]) == 1
    assert "checkpoint: no file" in capsys.readouterr().err
