"""Report generators of both families: losses, caches, batches, grounding, checkpoints."""

import os
import subprocess
import sys
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, GPT2Config, GPT2LMHeadModel, TextIteratorStreamer, pipeline

from modeling_cogaze import (
    CoGazeConfig,
    CoGazeForConditionalGeneration,
    CoGazeForPreTraining,
    EgmaConfig,
    EgmaForConditionalGeneration,
    EgmaForPreTraining,
)
from processing import CoGazeProcessor, EgmaProcessor
from processing.tokenization import build_tokenizer
from tests import small

REPORTS = [
    "There is a small left pleural effusion. The heart is enlarged.",
    "No pneumothorax.",
    "The lungs are clear. No pleural effusion or pneumothorax is seen. Heart size is normal.",
]
FAMILIES = {
    "cogaze": (CoGazeConfig, CoGazeForPreTraining, CoGazeForConditionalGeneration, CoGazeProcessor),
    "egma": (EgmaConfig, EgmaForPreTraining, EgmaForConditionalGeneration, EgmaProcessor),
}
SIZES = {"cogaze": small.COGAZE, "egma": small.EGMA}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(REPORTS * 3, 330)


def make_config(family, tokenizer, **overrides):
    return FAMILIES[family][0].tiny(**SIZES[family] | {"vocab_size": len(tokenizer)} | overrides)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pretrained(family, tokenizer, tmp_path_factory):
    """A pretraining checkpoint, with its processor."""
    folder = tmp_path_factory.mktemp(family)
    torch.manual_seed(0)
    config = make_config(family, tokenizer)
    FAMILIES[family][1](config).save_pretrained(folder)
    FAMILIES[family][3].for_model(tokenizer, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(family, pretrained, tokenizer):
    torch.manual_seed(1)
    # Wide weights: else all random decoders repeat one token.
    return FAMILIES[family][2].from_pretraining(pretrained, tokenizer, initializer_range=0.4).eval()


@pytest.fixture(scope="module")
def processor(family, pretrained):
    return FAMILIES[family][3].from_pretrained(pretrained)


@pytest.fixture(scope="module")
def batch(processor):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)) for _ in REPORTS]
    return processor(
        images=pictures,
        view_position=["PA", "", "LATERAL"],
        indication=["Fever and cough.", "", "Chest pain in a woman after a fall."],
        history=["", "", "Smoker."],
        findings=REPORTS,
        report_labels=True,
    )


def read_by_model(batch) -> dict:
    return {name: value for name, value in batch.items() if name != "labels"}


def test_loss_is_that_of_a_step_by_step_decode(model, batch):
    labels = batch["labels"]
    with torch.no_grad():
        loss = model(**batch).loss
        encoded = model.encode(**read_by_model(batch))
        cache, log_probs = None, []
        for step in range(labels.shape[1] - 1):
            token = labels[:, step : step + 1].clamp(min=0)
            outputs = model(decoder_input_ids=token, encoder_outputs=encoded, past_key_values=cache, use_cache=True)
            cache = outputs.past_key_values
            log_probs.append(outputs.logits[:, -1].log_softmax(dim=-1))
    targets = labels[:, 1:]
    own = torch.stack(log_probs, dim=1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(loss, -own[targets != -100].mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("search", [{}, {"num_beams": 4}, {"num_beams": 3, "num_return_sequences": 3}])
def test_search_without_cache_finds_the_same(model, batch, search):
    inputs = read_by_model(batch)
    cached = model.generate(**inputs, max_new_tokens=16, **search)
    assert torch.equal(cached, model.generate(**inputs, max_new_tokens=16, use_cache=False, **search))
    assert len(set(cached.flatten().tolist())) > 4


def test_the_same_image_in_any_batch_gives_the_same_report(model, batch):
    inputs = read_by_model(batch)
    together = model.generate(**inputs, max_new_tokens=12)
    for row in range(3):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        if "context_attention_mask" in alone:
            length = int(alone["context_attention_mask"].sum())
            alone |= {name: value[:, :length] for name, value in alone.items() if name.startswith("context") and length}
        found = model.generate(**alone, max_new_tokens=12)[0]
        assert torch.equal(found, together[row, : len(found)])


def test_attention_implementations_agree(model, pretrained, family, tokenizer, batch, tmp_path):
    model.save_pretrained(tmp_path)
    eager = FAMILIES[family][2].from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert (eager.decoder.config._attn_implementation, model.decoder.config._attn_implementation) == ("eager", "sdpa")
    with torch.no_grad():
        torch.testing.assert_close(eager(**batch).logits, model(**batch).logits, rtol=1e-4, atol=1e-4)


def test_the_encoder_runs_once(model, processor, batch, family):
    runs = []
    encoder = getattr(model, family).vision_model
    hook = encoder.register_forward_hook(lambda module, inputs, outputs: runs.append(len(inputs or [0])))
    try:
        model.generate(**read_by_model(batch), num_beams=3, max_new_tokens=8)
        assert len(runs) == 1
        model.generate(**read_by_model(batch), max_new_tokens=8, return_grounding=True, processor=processor)
        assert len(runs) == 2
    finally:
        hook.remove()


def test_references_and_labels_do_not_leak(model, processor, batch, tokenizer):
    inputs = read_by_model(batch)
    references = {
        "report_input_ids": torch.full((3, 5), 7),
        "report_attention_mask": torch.ones(3, 5, dtype=torch.long),
        "input_ids": torch.full((3, 5), 7),
        "attention_mask": torch.ones(3, 5, dtype=torch.long),
        "labels": batch["labels"],
        "study_ids": torch.arange(3),
    }
    expected = model.generate(**inputs, max_new_tokens=8)
    assert torch.equal(model.generate(**inputs, **references, max_new_tokens=8), expected)
    with pytest.raises(ValueError, match="findigns"):
        model.generate(**inputs, findigns=1)


def test_streaming(model, batch, tokenizer):
    alone = {name: value[:1] for name, value in read_by_model(batch).items()}
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    thread = Thread(target=model.generate, kwargs={**alone, "max_new_tokens": 12, "streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    expected = tokenizer.decode(model.generate(**alone, max_new_tokens=12)[0], skip_special_tokens=True)
    assert "".join(pieces) == expected
    assert len(pieces) > 1


def test_sampling_is_random_and_repeatable(model, batch):
    inputs = read_by_model(batch)

    def sample(seed):
        torch.manual_seed(seed)
        return model.generate(**inputs, do_sample=True, temperature=3.0, max_new_tokens=12)

    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


def test_only_the_decoder_is_new_in_a_pretraining_checkpoint(pretrained, family, tokenizer):
    config_class, _, generator, _ = FAMILIES[family]
    config = config_class.from_pretrained(pretrained).add_decoder(tokenizer)
    model, report = generator.from_pretrained(pretrained, config=config, output_loading_info=True)
    assert all(name.startswith(("decoder.", "memory_projection.")) for name in report["missing_keys"])
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    weights = model.decoder.state_dict()
    assert weights["lm_head.weight"].data_ptr() == weights["transformer.wte.weight"].data_ptr()
    for name, value in load_file(pretrained / "model.safetensors").items():
        if name in model.state_dict():
            assert torch.equal(model.state_dict()[name], value), name


def test_a_pretrained_decoder_keeps_its_weights(pretrained, family, tokenizer, tmp_path):
    torch.manual_seed(3)
    small = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=48, n_layer=1, n_head=2, n_positions=64))
    small.save_pretrained(tmp_path)
    model = FAMILIES[family][2].from_pretraining(pretrained, tokenizer, decoder=tmp_path)
    assert isinstance(model.memory_projection, torch.nn.Linear)
    weights = model.decoder.state_dict()
    for name, value in small.state_dict().items():
        assert torch.equal(weights[name][: len(value)], value), name
    assert weights["transformer.wte.weight"].shape == (len(tokenizer), 48)
    assert model.config.decoder_config.bos_token_id == tokenizer.bos_token_id


def test_what_is_frozen_gets_no_gradient(family, tokenizer, batch):
    config = make_config(family, tokenizer, freeze_vision_encoder=True).add_decoder(tokenizer)
    model = FAMILIES[family][2](config)
    model(**batch).loss.backward()
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert "vision_model" not in trained and "transformer" in trained
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    # Without a context, DDP still waits for the text encoder's gradients.
    model.zero_grad()
    model(**{name: value for name, value in batch.items() if not name.startswith("context")}).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    model = FAMILIES[family][2](make_config(family, tokenizer, freeze_encoder=True).add_decoder(tokenizer)).train()
    assert not getattr(model, family).training
    model(**batch).loss.backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} <= {
        "decoder",
        "memory_projection",
    }


def test_a_loss_from_encoded_images_is_that_of_the_images(model, batch):
    with torch.no_grad():
        encoded = model.encode(**read_by_model(batch))
        stored = model(encoder_outputs=(encoded.last_hidden_state,), labels=batch["labels"])
        torch.testing.assert_close(stored.loss, model(**batch).loss)


def test_grounding(model, processor, batch, family):
    inputs = read_by_model(batch)
    options = {"max_new_tokens": 14, "num_beams": 2, "num_return_sequences": 2}
    grounded = model.generate(**inputs, **options, return_grounding=True, processor=processor)
    assert torch.equal(grounded.sequences, model.generate(**inputs, **options))
    texts = processor.decode_reports(grounded.sequences)
    assert [grounded.sentence_report_index.tolist().count(row) for row in range(6)] == [
        len(found) for found in processor.locate_sentences(grounded.sequences)
    ]
    base = getattr(model, family)
    view = {"view_position_ids": batch["view_position_ids"]} if family == "cogaze" else {}
    tokens = processor.tokenize_sentences(grounded.sentences)
    expected = base.get_gaze_maps(
        batch["pixel_values"], **tokens, image_index=grounded.sentence_report_index // 2, **view
    )
    torch.testing.assert_close(grounded.gaze_maps, expected)
    entropy = -(expected * expected.log()).sum(dim=-1)
    torch.testing.assert_close(grounded.map_confidence, 1 - entropy / np.log(expected.shape[1]))
    boxes, scores = processor.sentence_boxes(expected, grounded.sentences)
    assert len(grounded.boxes) == len(boxes) == len(grounded.sentences)
    torch.testing.assert_close(grounded.boxes, boxes)
    torch.testing.assert_close(grounded.box_scores, scores)

    for row, sentence, confidence in zip(
        grounded.sentence_report_index.tolist(), grounded.sentences, grounded.text_confidence, strict=True
    ):
        assert sentence in " ".join(texts[row].split())
        _, begin, end = next(
            found for found in processor.locate_sentences(grounded.sequences[row : row + 1])[0] if found[0] == sentence
        )
        alone = {name: value[row // 2 : row // 2 + 1] for name, value in inputs.items()}
        sequence = grounded.sequences[row : row + 1]
        logits = model(**alone, decoder_input_ids=sequence[:, :end]).logits[0].softmax(dim=-1)
        own = [logits[place - 1, sequence[0, place]] for place in range(begin, end)]
        assert confidence.item() == pytest.approx(torch.stack(own).mean().item(), abs=1e-4)
    with pytest.raises(ValueError, match="processor"):
        model.generate(**inputs, return_grounding=True)


def test_a_report_without_a_sentence_has_no_map(model, processor, batch, tokenizer):
    encoded = model.encode(**read_by_model(batch))
    sequences = torch.full((3, 3), tokenizer.eos_token_id)
    grounded = model.ground(sequences, encoded, processor)
    assert grounded.sentences == [] and grounded.gaze_maps.shape[0] == len(grounded.text_confidence) == 0
    assert grounded.boxes == grounded.box_scores == []


def test_the_pipeline_writes_a_report(model, processor, batch, tokenizer):
    write = pipeline("image-text-to-text", model=model, processor=processor)
    picture = Image.effect_noise((80, 70), 60).convert("RGB")
    found = write(picture, text="", indication="Fever.", max_new_tokens=12)[0]["generated_text"]
    inputs = processor(images=picture, indication="Fever.")
    expected = processor.decode_reports(model.generate(**inputs, max_new_tokens=12))[0]
    assert found.strip() == expected


CHILD = """
import sys
for package in ("modeling_cogaze", "processing"):
    sys.modules[package] = None
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, inputs, results = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
grounded = model.generate(
    **load_file(inputs), num_beams=2, max_new_tokens=12, return_grounding=True, processor=processor
)
save_file({"sequences": grounded.sequences.contiguous(), "gaze_maps": grounded.gaze_maps}, results)
"""


def test_a_checkpoint_opens_without_the_packages(model, processor, batch, family, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert type(loaded) is FAMILIES[family][2]
    save_file(read_by_model(batch), tmp_path / "inputs")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "model", tmp_path / "inputs", tmp_path / "results"],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grounded = model.generate(
        **read_by_model(batch), num_beams=2, max_new_tokens=12, return_grounding=True, processor=processor
    )
    results = load_file(tmp_path / "results")
    assert torch.equal(results["sequences"], grounded.sequences)
    torch.testing.assert_close(results["gaze_maps"], grounded.gaze_maps)


def test_wrong_decoders_are_refused(tokenizer, family):
    config, model = make_config(family, tokenizer), FAMILIES[family][2]
    with pytest.raises(ValueError, match="decoder_config: missing"):
        model(config)
    with pytest.raises(ValueError, match="without cross-attention"):
        model(config.add_decoder(tokenizer, add_cross_attention=False))
    llama = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    with pytest.raises(ValueError, match="llama has no cross-attention"):
        model(config.add_decoder(tokenizer, **llama, num_attention_heads=2))
    with pytest.raises(ValueError, match="labels and decoder_input_ids"):
        model(config.add_decoder(tokenizer))(pixel_values=torch.zeros(1, 3, 64, 64))
