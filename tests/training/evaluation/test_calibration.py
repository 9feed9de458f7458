"""Calibration on plain arrays, and its command on a classifier of two shapes."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error
from transformers import AutoModelForImageClassification, AutoProcessor, pipeline

from modeling_cogaze import CoGazeConfig, CoGazeForImageClassification
from tests import small
from tests.training import shapes
from training import calibrate
from training.downstream import data as downstream_data
from training.downstream.finetuning import label_fields
from training.downstream.tasks import ClassificationTask
from training.metrics.calibration import expected_calibration_error, fit_temperatures, nll, reliability


def drawn(temperatures, count=20000, seed=0):
    """Logits (N, C) that are too large by `temperatures`, and targets drawn from the true probabilities."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 2, (count, len(temperatures)))
    targets = (generator.random(logits.shape) < expit(logits)).astype(float)
    return logits * temperatures, targets


def test_temperatures_are_recovered():
    logits, targets = drawn([3.0, 0.5])
    np.testing.assert_allclose(fit_temperatures(logits, targets, per_label=True), [3.0, 0.5], rtol=0.06)
    both = fit_temperatures(*drawn([2.0, 2.0]))
    assert both[0] == both[1] == pytest.approx(2.0, rel=0.04)


def test_the_fit_is_the_least_likelihood_of_a_grid():
    logits, targets = drawn([3.0, 0.5], count=200)
    grid = np.geomspace(0.05, 20, 2001)
    of_all = grid[np.argmin([nll(logits / t, targets) for t in grid])]
    assert fit_temperatures(logits, targets)[0] == pytest.approx(of_all, rel=5e-3)
    for column, found in enumerate(fit_temperatures(logits, targets, per_label=True)):
        own = [nll(logits[:, column] / t, targets[:, column]) for t in grid]
        assert found == pytest.approx(grid[np.argmin(own)], rel=5e-3)


def test_separable_labels_have_finite_temperatures():
    targets = np.array([[0.0], [1.0]])
    assert 0.05 <= fit_temperatures(2 * targets - 1, targets)[0] < 0.1
    assert fit_temperatures(1 - 2 * targets, targets) == pytest.approx(20)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_that_of_torchmetrics(bins):
    logits, targets = drawn([2.0], count=500)
    probabilities = expit(logits)
    expected = binary_calibration_error(torch.tensor(probabilities[:, 0]), torch.tensor(targets[:, 0]).int(), bins)
    assert expected_calibration_error(probabilities, targets, bins) == pytest.approx(expected.item(), abs=1e-6)


def test_reliability_counts_every_prediction_once():
    mean, positive, share = reliability(np.array([0.0, 0.05, 1.0, 0.95]), np.array([0, 1, 1, 1]), bins=10)
    assert share.tolist() == [0.5, *[0] * 8, 0.5]
    assert [mean[0], positive[0], mean[-1], positive[-1]] == pytest.approx([0.025, 0.5, 0.975, 1])
    assert np.isnan(mean[1:-1]).all() and np.isnan(positive[1:-1]).all()


@pytest.fixture(scope="module")
def data():
    return {split: shapes.records(split) for split in ("validation", "test")}


@pytest.fixture
def loaded(data, monkeypatch):
    monkeypatch.setattr(calibrate, "load_data", lambda spec, argument: data[json.loads(spec)["name"]])
    return data


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint, tmp_path_factory):
    """A linear probe of random features, far too sure of itself."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = CoGazeConfig.tiny(vocab_size=300, **small.COGAZE, **label_fields(["Mass", "Fracture"]))
    model = CoGazeForImageClassification(config)
    processor, train = AutoProcessor.from_pretrained(tiny_checkpoint), shapes.records("train")
    with torch.no_grad():
        features = model.cogaze.get_image_features(
            processor(images=train["image"][:])["pixel_values"]
        ).pooler_output.numpy()
        scale = features.std(axis=0)
        for column, excess in enumerate((3, 12)):
            targets = np.isin(np.array(train["labels"])[:, column], (1, 2))
            probe = LogisticRegression(C=0.1).fit(features / scale, targets)
            model.classifier.linear.weight[column] = torch.tensor(excess * probe.coef_[0] / scale)
            model.classifier.linear.bias[column] = excess * float(probe.intercept_[0])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


FLAGS = ["--no_context", "False", "--validation_data", '{"name": "validation"}', "--test_data", '{"name": "test"}']


def test_validation_images_that_fine_tuning_drew_are_drawn_again(classifier, data, tmp_path, monkeypatch):
    known = data | {"train": shapes.records("train")}
    for module in ("training.calibrate", "training.downstream.data"):
        monkeypatch.setattr(f"{module}.load_data", lambda spec, argument: known[json.loads(spec)["name"]])
    folder = tmp_path / "calibrated"
    shutil.copytree(classifier, folder)
    settings = {"train_data": '{"name": "train"}', "validation_data": None, "test_data": '{"name": "test"}'}
    settings |= {"validation_fraction": 0.25, "labels": ["Mass", "Fracture"], "on_missing_class": "raise"}
    settings |= {"minimum_positives": 1, "no_context": False}
    (folder / "metrics.json").write_text(json.dumps({"settings": settings}))
    result = calibrate.main(["--checkpoint", str(folder)])
    splits = downstream_data.load_splits(
        ClassificationTask(), {name: settings[f"{name}_data"] for name in ("train", "test")}, None, 0.25, "skip"
    )
    given = known | {"validation": splits.data["validation"]}
    monkeypatch.setattr(calibrate, "load_data", lambda spec, argument: given[json.loads(spec)["name"]])
    assert len(set(splits.data["validation"]["patient_id"])) == 6
    assert calibrate.main(["--checkpoint", str(folder), *FLAGS])["temperatures"] == result["temperatures"]


@pytest.mark.parametrize("per_label", [False, True])
def test_temperatures_are_saved_with_the_model(classifier, loaded, tmp_path, per_label):
    folder = tmp_path / "calibrated"
    shutil.copytree(classifier, folder)
    (folder / "metrics.json").write_text(json.dumps({"thresholds": {"Mass": 0.2, "Fracture": 0.7}}))
    flags = ["--checkpoint", str(folder), *FLAGS] + ["--per_label"] * per_label
    result = calibrate.main(flags)
    temperatures = np.array(list(result["temperatures"].values()))
    assert (per_label or len(set(temperatures)) == 1) and temperatures.max() > 1.5
    assert result["after"]["nll"] < result["before"]["nll"]
    assert json.loads((folder / "calibration.json").read_text()) == json.loads(json.dumps(result))
    assert (folder / "calibration.png").read_bytes().startswith(b"\x89PNG") and not list(folder.glob(".config-*"))
    assert load_file(folder / "model.safetensors").keys() == load_file(classifier / "model.safetensors").keys()

    before, after = (AutoModelForImageClassification.from_pretrained(path) for path in (classifier, folder))
    assert after.config.logit_temperature == temperatures.tolist() and before.config.logit_temperature is None
    same = {"logit_temperature": None, "_name_or_path": None}
    assert before.config.to_dict() | same == after.config.to_dict() | same
    processor = AutoProcessor.from_pretrained(folder)
    pixels = processor(images=loaded["test"]["image"][:])["pixel_values"]
    with torch.no_grad():
        raw, calibrated = before(pixels).logits, after(pixels).logits
    torch.testing.assert_close(calibrated, raw / torch.tensor(temperatures).float())
    for column, name in enumerate(("Mass", "Fracture")):
        targets = np.isin(np.array(loaded["test"]["labels"])[:, column], (1, 2))
        assert roc_auc_score(targets, raw[:, column]) == roc_auc_score(targets, calibrated[:, column])
        decided = calibrated[:, column].sigmoid() > result["thresholds"][name]
        assert decided.equal(raw[:, column].sigmoid() > {"Mass": 0.2, "Fracture": 0.7}[name])
    scores = pipeline("image-classification", model=str(folder))(loaded["test"][0]["image"])
    expected = calibrated[0].sigmoid().tolist()
    assert {each["label"]: each["score"] for each in scores} == pytest.approx(
        dict(zip(("Mass", "Fracture"), expected, strict=True)), abs=1e-5
    )
    # A second time the same is found: what had been saved is not counted again.
    assert calibrate.main(flags)["temperatures"] == pytest.approx(result["temperatures"], rel=1e-3)
    # Nor is there a need to say what fine-tuning has said.
    names = {"validation_data": '{"name": "validation"}', "test_data": '{"name": "test"}', "no_context": False}
    (folder / "metrics.json").write_text(json.dumps({"settings": names}))
    again = calibrate.main([part for part in flags if part not in FLAGS])
    assert again["temperatures"] == pytest.approx(result["temperatures"], rel=1e-3) and again["thresholds"] is None


def test_what_cannot_be_calibrated_is_refused(classifier, tiny_checkpoint, loaded, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="checkpoint: .* lacks classifier"):
        calibrate.main(["--checkpoint", tiny_checkpoint, *FLAGS])
    with pytest.raises(ValueError, match="checkpoint: no folder"):
        calibrate.main(["--checkpoint", str(tmp_path / "none"), *FLAGS])
    with pytest.raises(ValueError, match="is in validation as well"):
        calibrate.main(["--checkpoint", str(classifier), *FLAGS[:5], '{"name": "validation"}'])
    with pytest.raises(ValueError, match="no_context: .*metrics.json does not say"):
        calibrate.main(["--checkpoint", str(classifier), *FLAGS[2:]])
    with pytest.raises(ValueError, match="validation_data: .* give --validation_data"):
        calibrate.main(["--checkpoint", str(classifier), *FLAGS[:2]])
    others = shapes.records("validation", ["Mass", "Hernia"])
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="data: they lack .* 'Fracture'"):
        patch.setitem(loaded, "validation", others)
        calibrate.main(["--checkpoint", str(classifier), *FLAGS])
    unlabelled = shapes.records("validation", labels=lambda index: [0, index % 2, 0])
    monkeypatch.setitem(loaded, "validation", unlabelled)
    with pytest.raises(ValueError, match="validation_data: 'Mass' has 0 positives"):
        calibrate.main(["--checkpoint", str(classifier), *FLAGS])
