"""Pictures: that they are drawn, and that the maps on them are what they are called."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from modeling_cogaze import CoGazeConfig, CoGazeForImageClassification, EgmaConfig, EgmaForImageClassification
from processing.datasets.records import describe
from tests import small
from training import draw
from training.downstream.classifiers import open_classifier
from training.downstream.finetuning import label_fields
from training.evaluation.scorers import load_scorer
from training.figures import features
from training.figures.saliency import activation_maps, latent_attention, pooling_attention

TRANSFORMER = {"image_size": 64, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BACKBONES = {
    "convnext": small.ENCODERS["vision_config"],
    "resnet": {"model_type": "resnet", "image_size": 64, "embedding_size": 8, "hidden_sizes": [8, 16, 16]}
    | {"depths": [1, 1, 1], "layer_type": "basic"},
    "swin": {"model_type": "swin", "image_size": 64, "patch_size": 8, "embed_dim": 8, "depths": [1, 1]}
    | {"num_heads": [1, 2], "window_size": 4},
    "dinov2": {"model_type": "dinov2", **TRANSFORMER},
    "registers": {"model_type": "dinov2_with_registers", "num_register_tokens": 3, **TRANSFORMER},
}


def build(family="cogaze", backbone="convnext", **fields):
    torch.manual_seed(0)
    fields |= {"vocab_size": 300, "vision_config": BACKBONES[backbone], "text_config": small.ENCODERS["text_config"]}
    if family == "egma":
        config = EgmaConfig.tiny(projection_dim=32, pooled_text_layers=1, **fields)
        return EgmaForImageClassification(config).eval()
    return CoGazeForImageClassification(CoGazeConfig.tiny(**small.COGAZE | fields)).eval()


@pytest.fixture(scope="module")
def inputs():
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": pixels}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("family", ["cogaze", "egma"])
def test_activation_maps_of_any_backbone(family, backbone, inputs):
    """One image alone and in a batch are equal, labels differ, and something speaks for one label at least."""
    model = build(family, backbone, num_labels=3)
    by_label = [activation_maps(model, inputs, torch.tensor([column] * 2)) for column in range(3)]
    for maps in by_label:
        assert all(found.shape == (2, *model.config.grid_size) and (found >= 0).all() for found in maps)
    grad_cam, hires_cam = (np.stack(maps) for maps in zip(*by_label, strict=True))
    for maps in (grad_cam, hires_cam):
        assert (maps.max(axis=(0, 2, 3)) > 0).all() and maps.std(axis=0).max() > 0
    mixed = activation_maps(model, inputs, torch.tensor([2, 0]))
    alone = activation_maps(model, {"pixel_values": inputs["pixel_values"][1:]}, torch.tensor([0]))
    for maps, both, one in zip((grad_cam, hires_cam), mixed, alone, strict=True):
        np.testing.assert_allclose(both, [maps[2, 0], maps[0, 1]], rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(one[0], both[1], rtol=1e-3, atol=1e-7)


def test_activation_maps_are_the_papers_equations(inputs):
    model, kept = build(num_labels=2), []
    last = model.cogaze.vision_model.encoder.stages[-1]
    with last.register_forward_hook(lambda module, args, output: kept.append(output)):
        logits = model(**inputs).logits
    (features,) = kept
    (gradients,) = torch.autograd.grad(logits[:, 1].sum(), features)
    weighted = (gradients.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).relu()
    by_place = (gradients * features).sum(dim=1).relu()
    grad_cam, hires_cam = activation_maps(model, inputs, torch.tensor([1, 1]))
    np.testing.assert_allclose(grad_cam, weighted.detach(), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(hires_cam, by_place.detach(), rtol=1e-4, atol=1e-8)


def test_latents_attention_is_the_last_reading_of_the_image(inputs):
    model = build(num_labels=2)
    context = {"context_input_ids": torch.tensor([[5, 6, 7]] * 2), "context_attention_mask": torch.ones(2, 3).long()}
    without, with_context = latent_attention(model, inputs), latent_attention(model, inputs | context)
    assert without.shape == with_context.shape == (2, 4, 4)
    assert (with_context.sum(axis=(1, 2)) < 1).all()  # the global token takes the rest
    assert np.abs(without - with_context).max() > 1e-6
    with torch.no_grad():
        model.cogaze.perceiver.layers[-1].cross_attention.k_proj.weight.zero_()
    np.testing.assert_allclose(latent_attention(model, inputs | context), np.full((2, 4, 4), 1 / 17), rtol=1e-5)


@pytest.mark.parametrize("family", ["cogaze", "egma"])
def test_pooling_attention_is_each_labels_own(family, inputs):
    model = build(family, classifier_pooling="attention", num_labels=3)
    (weights,) = model(**inputs, output_attentions=True).attentions
    found = pooling_attention(model, inputs, torch.tensor([2, 0]))
    np.testing.assert_allclose(found[0].ravel(), weights[0, 2, -16:].detach(), rtol=1e-6)
    np.testing.assert_allclose(found[1].ravel(), weights[1, 0, -16:].detach(), rtol=1e-6)


@pytest.fixture
def classifier(tiny_checkpoint, tmp_path):
    """All its encoders frozen, as a linear probe leaves it."""
    names = label_fields(["Pleural Effusion", "Edema", "Support Devices"])
    frozen = {"freeze_encoder": True, "freeze_vision_encoder": True, "classifier_pooling": "attention"}
    build(**names, **frozen).save_pretrained(tmp_path / "classifier")
    AutoProcessor.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


@pytest.fixture
def phantom(small_phantom, monkeypatch):
    monkeypatch.setattr(draw, "load_data", lambda spec, argument: small_phantom)
    return small_phantom


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_saliency_is_drawn_for_images_that_have_the_label(classifier, phantom, tmp_path):
    opened = open_classifier(str(classifier))
    having = int(opened.targets(phantom)[:, 2].sum())
    assert having > 1
    flags = ["saliency", "--checkpoint", str(classifier), "--label", "support devices"]
    with pytest.raises(ValueError, match="no_context: .*metrics.json does not say"):
        draw.main([*flags, "--output_dir", str(tmp_path / "none")])
    flags += ["--no_context", "False", "--data", '{"name": "phantom"}']
    draw.main([*flags, "--output_dir", str(tmp_path / "two"), "--rows", "2"])
    draw.main([*flags, "--output_dir", str(tmp_path / "one"), "--image_ids", phantom[0]["image_id"]])
    (width, height), (same_width, lower) = (size_of(tmp_path / name / "saliency.png") for name in ("two", "one"))
    assert width == same_width and lower < height
    for changes, message in (
        (["--label", "Hernia"], "label: 'Hernia' is none of the classifier's"),
        (["--image_ids", "nobody"], "image_ids: 'nobody'"),
    ):
        with pytest.raises(ValueError, match=message):
            draw.main([*flags, "--output_dir", str(tmp_path / "none"), *changes])
    healthy = phantom.select(np.flatnonzero(opened.targets(phantom)[:, 2] == 0))
    with pytest.raises(ValueError, match="none of its .* images has 'Support Devices'"):
        draw.draw_saliency(opened, healthy, "Support Devices", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists() and not (tmp_path / "none").exists()


def test_calibration_is_drawn(classifier, phantom, tmp_path):
    settings = {"no_context": False, "test_data": {"name": "phantom"}}
    (classifier / "metrics.json").write_text(json.dumps({"settings": settings}))
    draw.main(["calibration", "--checkpoint", str(classifier), "--output_dir", str(tmp_path)])
    assert min(size_of(tmp_path / "calibration.png")) > 300


def test_features_are_drawn_with_and_without_context(tiny_checkpoint, phantom, tmp_path):
    """A class that its images alone have: purity counts neighbours of other patients."""
    scorer = load_scorer(tiny_checkpoint)
    purity = draw.draw_features(scorer, _alternating(phantom), tmp_path / "features.png", ["a", "b"])
    assert list(purity) == list(features.PANELS.values()) and min(size_of(tmp_path / "features.png")) > 300
    for scores in purity.values():
        assert 0 <= scores["p@10"] <= 1 and scores["gallery"] == len(phantom)
    embeds = np.eye(2)[np.arange(len(phantom)) % 2]
    scorer.embed_images = lambda dataset, condition: embeds
    patients = [f"p{row}" for row in range(len(phantom))]
    apart = _alternating(phantom).remove_columns("patient_id").add_column("patient_id", patients)
    purity = draw.draw_features(scorer, describe(apart, label_names=["a", "b"]), tmp_path / "features.png")
    others = len(phantom) // 2 - 1
    assert purity["image alone"]["p@10"] == pytest.approx(min(10, others) / 10)
    with pytest.raises(ValueError, match="labels: 11"):
        draw.draw_features(scorer, phantom, tmp_path / "none.png", ["a"] * 11)


def _alternating(dataset):
    labels = [[1, 0] if row % 2 == 0 else [0, 1] for row in range(len(dataset))]
    return describe(dataset.remove_columns("labels").add_column("labels", labels), label_names=["a", "b"])


def test_gaze_is_drawn_with_and_without_localised_findings(tiny_checkpoint, phantom, tmp_path):
    draw.main(["gaze", "--checkpoint", tiny_checkpoint, "--output_dir", str(tmp_path), "--rows", "2"])
    scorer = load_scorer(tiny_checkpoint)
    draw.draw_gaze(scorer, phantom.remove_columns("regions"), tmp_path / "others.png", rows=2)
    assert size_of(tmp_path / "gaze.png")[0] == size_of(tmp_path / "others.png")[0] > 600
    unsaid = phantom.map(
        lambda record: {"regions": [region | {"sentence": None} for region in record["regions"]]},
        features=phantom.features,
    )
    assert all(region["sentence"] is None for row in unsaid for region in row["regions"])
    draw.draw_gaze(scorer, unsaid, tmp_path / "unsaid.png", rows=2)
    silent = phantom.remove_columns("gaze").add_column("gaze", [[]] * len(phantom))
    with pytest.raises(ValueError, match="data: none of its images has gaze"):
        draw.draw_gaze(scorer, silent, tmp_path / "none.png")


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit, match="2"):
        draw.main(["portrait"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in draw.COMMANDS)


def test_maps_of_given_sentences_are_drawn_on_images_without_gaze(tiny_checkpoint, phantom, tmp_path, monkeypatch):
    silent = phantom.remove_columns("gaze").add_column("gaze", [[]] * len(phantom))
    monkeypatch.setattr(draw, "load_data", lambda spec, argument: silent)
    asked = ["gaze", "--checkpoint", tiny_checkpoint, "--output_dir", str(tmp_path), "--rows", "2"]
    sentences = ["--sentences", "There is a pleural effusion.", "The heart is enlarged."]
    draw.main([*asked, *sentences])
    width, _ = size_of(tmp_path / "gaze.png")
    draw.main([*asked, *sentences[:2]])
    assert size_of(tmp_path / "gaze.png")[0] < width
    with pytest.raises(ValueError, match="label: 'gout' is none of"):
        draw.main([*asked, *sentences, "--label", "gout"])
