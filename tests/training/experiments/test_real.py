import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from processing.datasets.sources.nih import MINI_COLUMNS, load_nih
from training.experiments import real
from training.runs.files import slug

SIZES = {"train": 60, "val": 44}


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    """The table and pictures of NIH's miniature: old patients have pneumonia, and bright pictures; one has a hernia."""
    root = tmp_path_factory.mktemp("real") / "nih_mini"
    root.mkdir()
    for split, size in SIZES.items():
        rows = []
        for index in range(size):
            ill = index % 2 == 0
            generator = np.random.default_rng(index + 1000 * (split == "val"))
            name = f"{split}_{index:03d}.jpg"
            Image.fromarray(generator.integers(0, 120, (64, 64), np.uint8) + np.uint8(100 * ill)).save(root / name)
            finding = "Pneumonia" if ill else "No Finding"
            if split == "val" and index == 0:
                finding = "Pneumonia|Hernia"
            age = 40 + 20 * ill + generator.integers(0, 25)
            rows.append([name, finding, f"{split}{index // 2}", age, "F" if index % 3 else "M", "PA"])
        with open(root / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([MINI_COLUMNS, *rows])
    return root


@pytest.fixture(scope="module")
def output(radiographs, tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    flags = ["--root", str(radiographs), "--checkpoint", tiny_checkpoint, "--output_dir", str(folder), "--seeds", "1"]
    flags += ["--timm_model", "test_resnet", "--num_train_epochs", "1", "--bootstrap", "20", "--report_to", "none"]
    flags += ["--disable_tqdm", "True", "--use_cpu", "True"]
    return folder, real.main(flags), flags


def test_models_stand_beside_the_baseline_on_the_same_images(output, radiographs):
    folder, results, _ = output
    pneumonia = results["pneumonia"]
    assert pneumonia == json.loads((folder / "pneumonia.json").read_text())
    assert set(pneumonia["models"]) == {*real.MODELS, real.BASELINE}
    for model in real.MODELS:
        summary = json.loads((folder / "pneumonia" / slug(model) / "metrics.json").read_text())
        assert pneumonia["models"][model]["scores"]["macro_auroc"]["value"] == pytest.approx(
            summary["scores"]["macro_auroc"]["value"]
        )
        assert pneumonia["models"][model]["seeds"] == 1
        # Epochs are chosen on train's patients, and val is the test.
        assert summary["images"]["train"] + summary["images"]["validation"] == SIZES["train"]
        assert summary["images"]["test"] == SIZES["val"] and summary["test_positives"] == {"Pneumonia": 22}
    of = {model: pneumonia["models"][model]["scores"]["macro_auroc"]["value"] for model in real.MODELS}
    above = pneumonia["above_scratch"][real.PRETRAINED]["macro_auroc"]
    assert above["value"] == pytest.approx(of[real.PRETRAINED] - of[real.SCRATCH])
    assert above["interval"][0] <= above["interval"][1]


def test_classes_without_training_or_with_few_test_images_are_left_out_by_name(output):
    folder, results, _ = output
    labels = results["14 labels"]
    assert labels["labels"] == ["Pneumonia"] and "Hernia" in labels["left_out"]["train"]
    table = (folder / "table.md").read_text()
    assert "Hernia (0 positives" in table and "Pneumonia 22 positives" in table and "Not for clinical use" in table


def test_the_baseline_reads_age_and_nothing_of_the_picture(radiographs):
    train, test = (load_nih(radiographs, table=f"{split}.csv", columns=MINI_COLUMNS) for split in ("train", "val"))
    targets = np.array([[index % 2 == 0] for index in range(60)])
    scores = real.baseline_scores(train, targets, test)
    age = np.array(test["patient_age"])
    truth = np.arange(44) % 2 == 0
    assert roc_auc_score(truth, scores[:, 0]) == pytest.approx(roc_auc_score(truth, age), abs=0.05)


def test_what_is_finished_is_not_run_again(output, monkeypatch):
    folder, results, flags = output
    monkeypatch.setattr("training.downstream.finetuning._run_once", None)
    again = real.main([*flags, "--models", real.SCRATCH])
    assert again["pneumonia"]["models"][real.SCRATCH] == results["pneumonia"]["models"][real.SCRATCH]


def test_missing_folders_are_named(tmp_path, tiny_checkpoint):
    with pytest.raises(ValueError, match="root: there is no"):
        real.main(["--root", str(tmp_path / "none"), "--checkpoint", tiny_checkpoint])
    with pytest.raises(ValueError, match="checkpoint: there is no folder"):
        real.main(["--root", str(tmp_path), "--checkpoint", str(tmp_path / "none")])
