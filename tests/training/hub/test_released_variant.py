"""The released variant: losses and gradients of converted checkpoints, and each of its fields, against plain loops."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModelForPreTraining, AutoProcessor, Dinov2Config, Dinov2Model

from modeling_cogaze import CoGazeConfig, EgmaConfig
from modeling_cogaze.losses_cogaze import class_balanced_weights, soft_gaze_loss
from modeling_cogaze.losses_egma import (
    egm_loss,
    fine_grained_contrastive_loss,
    gaze_label_loss,
    gaze_strengths,
    pad_sentences,
)
from processing import CoGazeProcessor
from processing.prompts import RELEASED_PROMPTS, encode_prompt
from processing.tokenization import build_tokenizer, cogaze_tokenizer
from tests.hub import Hub
from tests.training import released, released_losses
from training.convert_released_checkpoint import main
from training.hub.released_weights import checkpoint_file

ROOT = Path(__file__).resolve().parents[3]
VIEWS = {"LATERAL": 2, "AP": 0, "unk": 1, "PA": 3}
VISION_WIDTH = 24
# Studies 5, 6 and 5; the second has no context, the third image no fixation in any of its sentences.
CONTEXTS, REPORTS = [[7, 1, 30], [], [4, 9, 9, 11, 3]], [[9, 4, 200, 41], [5, 6, 8, 7], [9, 4, 200, 41]]
STUDIES, VIEW_NAMES = [5, 6, 5], ["PA", "", "AP"]
SENTENCES = [[3, 8, 2], [11, 5, 7, 1], [60, 2], [9, 9], [21, 4, 4], [33, 31], [1, 2, 3], [8]]
IMAGE_INDEX = [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=VISION_WIDTH, num_hidden_layers=1, num_attention_heads=2, image_size=42)
    Dinov2Model(config).save_pretrained(folder / "rad-dino")
    build_tokenizer(["no effusion", "the lungs are clear"], 300).save_pretrained(folder / "gpt2")
    (folder / "views.json").write_text(json.dumps(VIEWS))
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["no effusion", "the lungs are clear"], 300)


def convert(parts, folder, weights, *more):
    """A model of those tensors; opened as anyone would."""
    torch.save({"state_dict": {name: value.detach() for name, value in weights.items()}}, folder.with_suffix(".pt"))
    named = {"checkpoint": folder.with_suffix(".pt"), "output_dir": folder, "tokenizer": parts / "gpt2"}
    named |= {"view_positions": parts / "views.json", "vision_encoder": parts / "rad-dino"}
    assert main([str(part) for name, value in named.items() for part in (f"--{name}", value)] + list(more)) == 0
    return AutoModelForPreTraining.from_pretrained(folder).eval().double()


def gaze(patches):
    """Seconds of looking: sentences without a fixation among others, and an image without any."""
    generator = torch.Generator().manual_seed(4)
    targets = torch.rand(len(SENTENCES), patches, generator=generator, dtype=torch.float64)
    targets[torch.rand(targets.shape, generator=generator) < 0.4] = 0
    targets[[1, 6, 7]] = 0
    targets[4] = targets[4].clamp(min=1e-3)  # below half a grey level, and there all the same
    return targets


def padded(rows):
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return ids, mask


def leaves(weights):
    return {
        name: value.double().requires_grad_() if value.is_floating_point() else value for name, value in weights.items()
    }


def assert_gradients_are(model, weights, as_model):
    """The released tensors' gradients, put through the conversion themselves, are the model's."""
    grads = {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in weights.items()}
    expected = dict(as_model(grads).named_parameters())
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not name.startswith("cogaze.vision_model."):
            torch.testing.assert_close(parameter.grad, expected[name].double(), rtol=1e-5, atol=1e-7, msg=name)
            compared += parameter.grad.abs().max() > 0
    assert compared > 40


def test_cogazes_losses_and_gradients_are_the_released_codes(parts, tokenizer, tmp_path):
    counts = [3, 0, 10, 500, 20000, 1, 9, 80, 7000, 4, 2, 66, 5, 100000]
    weights = leaves(released.pretraining_weights(len(cogaze_tokenizer(tokenizer)), len(VIEWS), VISION_WIDTH))
    model = convert(parts, tmp_path / "cogaze", weights)
    model.config.positives_per_class = counts  # the data's, which no checkpoint holds
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(3, 3, 42, 42, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (3, 14), generator=generator).double()
    with torch.no_grad():
        tokens = Dinov2Model.from_pretrained(parts / "rad-dino").eval().double()(pixels).last_hidden_state
    targets = gaze(tokens.shape[1] - 1)

    views = [VIEWS[name or "unk"] for name in VIEW_NAMES]
    contexts = [torch.tensor(ids) if ids else None for ids in CONTEXTS]
    images = torch.stack(
        [released.cogaze(weights, *each)[0].mean(dim=0) for each in zip(tokens, views, contexts, strict=True)]
    )
    reports = torch.stack([released.text_features(weights, torch.tensor(ids)).mean(dim=0) for ids in REPORTS])
    patches = [released.vision_features(weights, *each)[1:] for each in zip(tokens, views, strict=True)]
    spoken = torch.stack([released.text_features(weights, torch.tensor(ids))[0] for ids in SENTENCES])
    similarity = torch.stack(
        [normalize(s, dim=-1) @ normalize(patches[i], dim=-1).T for s, i in zip(spoken, IMAGE_INDEX, strict=True)]
    )
    heads = [f"{kind}_classifier.classifier" for kind in ("vision", "report")]
    logits = [
        x @ weights[f"{h}.weight"].T + weights[f"{h}.bias"] for x, h in zip((images, reports), heads, strict=True)
    ]
    expected = {
        "contrastive": released_losses.contrast(images, reports, STUDIES, weights["logit_scale"].exp()),
        "classification": sum(released_losses.balanced_bce(each, labels, counts) for each in logits) / 2,
        "gaze": released_losses.cogaze_gaze(
            similarity * weights["logit_scale_gaze"].exp(), targets, torch.tensor(IMAGE_INDEX)
        ),
    }
    sum(expected.values()).backward()

    outputs = model(
        pixels,
        torch.tensor([model.config.view_positions.index(name) for name in VIEW_NAMES]),
        *padded(CONTEXTS),
        *padded(REPORTS),
        *padded(SENTENCES),
        torch.tensor(IMAGE_INDEX),
        targets,
        labels,
        torch.tensor(STUDIES),
    )
    for name, value in expected.items():
        assert outputs[f"loss_{name}"].item() == pytest.approx(value.item(), abs=1e-6), name
    assert outputs.loss.item() == pytest.approx(sum(expected.values()).item(), abs=1e-6)
    outputs.loss.backward()
    assert_gradients_are(model, weights, lambda grads: convert(parts, tmp_path / "gradients", grads))


@pytest.mark.parametrize("losses", [["egf"], ["egf", "egm"]])
def test_egmas_losses_and_gradients_are_the_released_codes(parts, tokenizer, tmp_path, losses):
    weights = released.egma_weights(len(tokenizer))
    for side in (1, 2):  # what an official state dict holds besides, and its code makes no use of
        weights.linear(f"vision_model.projection_head{side}", 24, 16, bias=False)
    weights.add("word_local_atten_layer.in_proj_weight", 48, 16)
    weights = leaves(weights)
    model = convert(parts, tmp_path / "egma", weights, "--image_size", "16")
    model.config.losses = losses
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    project = weights["vision_model.projection_head.weight"].T
    patches = [
        normalize(released.swin(weights, "vision_model.model.", each, window=2)[0] @ project, dim=-1) for each in pixels
    ]
    targets, index = gaze(len(patches[0])), torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    states = [torch.stack(released.bert(weights, "text_model.model.", torch.tensor(ids))[-4:]) for ids in SENTENCES]
    features = (
        torch.stack([state.mean(dim=(0, 1)) for state in states]) @ weights["text_model.projection_head.weight"].T
    )
    sentences = [normalize(features, dim=-1)[index == i] for i in range(3)]
    by_image = [targets[index == i] for i in range(3)]
    scale = weights["logit_scale"].exp()
    expected = released_losses.egma_labels(patches, sentences, by_image, scale)
    expected = expected + released_losses.egma_contrast(patches, sentences, scale)
    if "egm" in losses:
        expected = expected + released_losses.egma_mapping(patches, sentences, by_image, scale)
    expected.backward()

    ids, mask = padded(SENTENCES)
    outputs = model(pixels, ids, mask, index, gaze_targets=targets)
    assert outputs.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    outputs.loss.backward()
    as_model = lambda grads: convert(parts, tmp_path / "gradients", grads, "--image_size", "16")  # noqa: E731
    assert_gradients_are(model, weights, as_model)


@pytest.mark.parametrize("seed", range(3))
def test_each_field_of_the_gaze_loss_is_the_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = 3 * torch.randn(len(SENTENCES), 12, generator=generator, dtype=torch.float64)
    targets, index = gaze(12), torch.tensor(IMAGE_INDEX)
    fields = {"weight": 0.2, "patch_rows": "resharpen", "cut": 0.0, "keep_empty_rows": True, "count_empty_images": True}
    expected = released_losses.cogaze_gaze(similarity, targets, index)
    torch.testing.assert_close(soft_gaze_loss(similarity, targets, index, **fields), expected)
    # Every field is needed: with the paper's in its place the loss is another.
    for name in fields:
        others = {key: value for key, value in fields.items() if key != name}
        assert (soft_gaze_loss(similarity, targets, index, **others) - expected).abs() > 1e-6, name


def test_a_class_without_positives_outweighs_all_others():
    weights = class_balanced_weights([3, 0, 5000], epsilon=1e-8)
    assert weights[1] == pytest.approx(3, abs=1e-3) and weights.sum() == pytest.approx(3)


@pytest.mark.parametrize("seed", range(3))
def test_each_field_of_egmas_losses_is_the_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    counts, scale = [3, 1, 4], 1 / 0.07
    patches = normalize(torch.randn(3, 6, 5, generator=generator, dtype=torch.float64), dim=-1)
    features = normalize(torch.randn(8, 5, generator=generator, dtype=torch.float64), dim=-1)
    index, targets = torch.arange(3).repeat_interleave(torch.tensor(counts)), gaze(6)
    every = torch.ones(8, dtype=torch.bool)
    sentences = pad_sentences(features, index, every, 3, 4)
    strengths = pad_sentences(gaze_strengths(targets, 0.0), index, every, 3, 4)
    mask = torch.arange(4) < torch.tensor(counts)[:, None]
    rows = [features[index == i] for i in range(3)], [targets[index == i] for i in range(3)]

    def is_the_loops(loss, arguments, fields, expected):
        torch.testing.assert_close(loss(*arguments, **fields), expected)
        for name in fields:
            others = {key: value for key, value in fields.items() if key != name}
            assert (loss(*arguments, **others) - expected).abs() > 1e-6, name

    scores = scale * sentences @ patches.mT
    is_the_loops(
        gaze_label_loss,
        (scores, strengths, mask),
        {"sentence_weight": 0.8, "keep_empty_sentences": True},
        released_losses.egma_labels(patches, *rows, scale),
    )
    is_the_loops(
        fine_grained_contrastive_loss,
        (patches, sentences, mask, scale),
        {"softmax_over": "texts", "zero_padding": True},
        released_losses.egma_contrast(patches, rows[0], scale),
    )
    is_the_loops(
        egm_loss,
        (patches, sentences, mask, strengths, scale),
        {
            "sentence_weight": 0.3,
            "threshold": 2 / 7,
            "binary": False,
            "blend": "mean",
            "normalize": False,
            "softmax_over": "both",
            "match_single": True,
        },
        released_losses.egma_mapping(patches, *rows, scale),
    )


@pytest.mark.parametrize("config_class", [CoGazeConfig, EgmaConfig])
def test_a_variant_becomes_plain_fields(config_class, tmp_path):
    fields = config_class.variant_fields("released")
    config = config_class.named("tiny", variant="released", gaze_cut=0.1)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert "variant" not in written and written["gaze_cut"] == 0.1
    assert {name: written[name] for name in fields if name != "gaze_cut"} == {
        name: value for name, value in fields.items() if name != "gaze_cut"
    }
    # By hand in a file that has none of its fields.
    paper = config_class.named("tiny").to_dict()
    (tmp_path / "config.json").write_text(
        json.dumps({name: value for name, value in paper.items() if name not in fields} | {"variant": "released"})
    )
    opened = AutoConfig.from_pretrained(tmp_path)
    assert {name: getattr(opened, name) for name in fields} == fields and not hasattr(opened, "variant")
    # A config from before has no such fields and stays the paper's.
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in paper.items() if k not in fields}))
    opened = AutoConfig.from_pretrained(tmp_path)
    assert {name: getattr(opened, name) for name in fields} == {name: getattr(config_class(), name) for name in fields}
    for wrong in (lambda: config_class.named("tiny", variant="draft"), lambda: config_class(variant="released")):
        with pytest.raises(ValueError, match="variant: "):
            wrong()


def test_the_converter_chooses_the_variant_and_its_processor(parts, tokenizer, tmp_path):
    size = len(cogaze_tokenizer(tokenizer)), len(VIEWS), VISION_WIDTH
    for variant, lengths in (("released", 300), ("paper", 200)):
        model = convert(parts, tmp_path / variant, released.pretraining_weights(*size), "--variant", variant)
        assert model.config.gaze_loss_weight == {"released": 0.2, "paper": 0.8}[variant]
        processor = AutoProcessor.from_pretrained(tmp_path / variant)
        assert processor.max_report_length == lengths and processor.max_context_length == 300
        assert processor.gaze_maps == {"released": "rendered", "paper": "exact"}[variant]
        end = processor.encode_reports(["no effusion"])[0, -2:].tolist()
        blank = processor.tokenizer(" ", add_special_tokens=False)["input_ids"][-1]
        assert end[-1] == processor.tokenizer.eos_token_id and (end[0] == blank) is (variant == "released")
    weights = released.report_weights(*size)
    torch.save({"state_dict": dict(weights)}, tmp_path / "report.pt")
    named = {"checkpoint": tmp_path / "report.pt", "output_dir": tmp_path / "report", "tokenizer": parts / "gpt2"}
    named |= {"view_positions": parts / "views.json", "vision_encoder": parts / "rad-dino", "report_kind": "structured"}
    assert main([str(part) for name, value in named.items() for part in (f"--{name}", value)]) == 0
    processor = AutoProcessor.from_pretrained(tmp_path / "report")
    assert (processor.max_report_length, processor.context_format) == (200, "plain")
    assert processor.report_kind == "structured"


# With a connection, then without one.
FETCH = """
import sys
import huggingface_hub.constants
from training.hub.released_weights import checkpoint_file
for offline in (False, True):
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    for name in sys.argv[1:]:
        try:
            print(checkpoint_file(name).read_bytes().decode())
        except ValueError as error:
            print(error)
"""


@pytest.mark.slow
def test_a_checkpoint_comes_from_the_hub_by_name(tmp_path):
    names = ["org/one", "org/two:b/last.pt", "org/two", "org/none", "org/one:other.pt"]

    with Hub() as hub:
        for name, files in (("org/one", ["README.md", "best.pt"]), ("org/two", ["a.bin", "b/last.pt"])):
            hub.create(name).commit("Add", {file: hub.keep(f"{name} {file}".encode()) for file in files})
        environment = hub.environment(tmp_path / "home", PYTHONPATH=str(ROOT))
        run = subprocess.run([sys.executable, "-c", FETCH, *names], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    said = run.stdout.splitlines()
    online, offline = said[: len(names)], said[len(names) :]
    assert len(offline) == len(names)
    assert online[:2] == offline[:2] == ["org/one best.pt", "org/two b/last.pt"]
    assert online[2] == "checkpoint: org/two holds 2 weight files (a.bin, b/last.pt); name one as org/two:FILE."
    for answer in (*online[3:], *offline[3:]):
        assert answer.startswith("checkpoint: org/") and "download it elsewhere and give its path" in answer
    # What is no name of the Hub is a path.
    assert checkpoint_file("some/folder/best.pt") == Path("some/folder/best.pt")


def test_released_prompts_have_the_layout_of_the_released_code(tokenizer):
    prompt = RELEASED_PROMPTS["free_text"]
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    parts = {"similar_report": "Clear {diseases}.", "diseases": ["Edema", "Fracture"]}
    ids = encode_prompt(tokenizer, "free_text", "<image>", **parts, max_prompt_length=900, template=prompt)
    text = " ".join(tokenizer.decode(ids).split())  # this tokenizer puts spaces around special tokens
    assert "1. Image: <image> 2. Similar report: Clear {diseases}. 3. Predicted diseases: Edema, Fracture" in text
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>")
    # A structured report is asked for by the image alone, and the user's turn is left open.
    assert (
        RELEASED_PROMPTS["structured"].endswith("Image: {image}<|start_header_id|>assistant<|end_header_id|>\n\n")
        and "{similar_report}" not in RELEASED_PROMPTS["structured"]
    )


def test_rendered_gaze_maps_are_cut_on_pixels(parts, tokenizer):
    fixation = {"x": 21.0, "y": 21.0, "begin": 0.0, "end": 1.0, "sigma_x": 3.0, "sigma_y": 3.0, "shown": None}
    reading = {"sentences": [{"text": "Clear.", "begin": 0.0, "end": 1.0}], "fixations": [fixation]}
    config = CoGazeConfig.tiny(vision_config={"model_type": "dinov2", "image_size": 42, "patch_size": 6})
    maps = {}
    for kind in ("exact", "rendered"):
        processor = CoGazeProcessor.for_model(cogaze_tokenizer(tokenizer), config, gaze_maps=kind)
        maps[kind] = processor(image_size=[(42, 42)], gaze=[reading])["gaze_targets"][0].reshape(7, 7).numpy()
    # Plainly: each pixel's share of the Gaussian, against half a grey level of the brightest.
    edges = np.array([math.erf((edge - 21) / (3 * math.sqrt(2))) for edge in range(43)])
    pixels = np.outer(np.diff(edges), np.diff(edges))
    grey = np.floor(255 * pixels / pixels.max() + 0.5) / 255
    np.testing.assert_allclose(maps["rendered"], grey.reshape(7, 6, 7, 6).mean(axis=(1, 3)), atol=1e-6)
    # What 8 bit show of single pixels and what they would of patches is not the same.
    assert (maps["rendered"] > 0).sum() != (maps["exact"] > 0.5 / 255 * maps["exact"].max()).sum()
    with pytest.raises(ValueError, match="gaze_maps: 'sharp'"):
        CoGazeProcessor.for_model(cogaze_tokenizer(tokenizer), config, gaze_maps="sharp")
