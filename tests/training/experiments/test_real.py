import csv
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.metrics import roc_auc_score

from processing.datasets.sources.nih import MINI_COLUMNS, load_nih
from training.experiments.baselines import demographics_scores
from training.experiments.plan import EXPERIMENTS
from training.experiments.running import run_experiment
from training.metrics.scores import from_json
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


PRETRAINED, SCRATCH, TIMM = "pretrained on rendered radiographs", "random weights", "timm, random weights"
BASELINE = "view, age and sex alone"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The shipped table with a smaller timm network."""
    values = yaml.safe_load((EXPERIMENTS / "real.yaml").read_text())
    values["tables"]["pneumonia"]["rows"][TIMM]["changes"]["timm_model"] = "test_resnet"
    file = tmp_path_factory.mktemp("table") / "real.yaml"
    file.write_text(json.dumps(values))
    return file


@pytest.fixture(scope="module")
def output(table, radiographs, tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    further = ["--num_train_epochs", "1", "--report_to", "none", "--disable_tqdm", "True", "--use_cpu", "True"]
    options = {"experiment": str(table), "checkpoint": [tiny_checkpoint], "output_dir": str(folder), "seeds": [0]}
    options |= {"bootstrap": 20, "further": further}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGAZE_REAL_DATA", str(radiographs.parent))
        yield folder, run_experiment(**options), options


def scores_of(table: dict, kind: str = "scores") -> dict:
    return {row["name"]: from_json(row[kind]) for row in table["rows"]}


def test_models_stand_beside_the_baseline_on_the_same_images(output):
    folder, tables, _ = output
    assert json.loads((folder / "metrics.json").read_text())["tables"] == json.loads(json.dumps(tables))
    scores, above = scores_of(tables["pneumonia"]), scores_of(tables["pneumonia"], "above_reference")
    assert list(scores) == [PRETRAINED, SCRATCH, TIMM, BASELINE]
    for model in (PRETRAINED, SCRATCH, TIMM):
        summary = json.loads((folder / "pneumonia" / slug(model) / "metrics.json").read_text())
        assert scores[model]["macro_auroc"].value == pytest.approx(summary["scores"]["macro_auroc"]["value"])
        assert scores[model]["macro_auroc"].interval == pytest.approx(summary["scores"]["macro_auroc"]["interval"])
        # Epochs are chosen on train's patients, and val is the test.
        assert summary["images"]["train"] + summary["images"]["validation"] == SIZES["train"]
        assert summary["images"]["test"] == SIZES["val"] and summary["test_positives"] == {"Pneumonia": 22}
    for model in (PRETRAINED, BASELINE):
        difference = above[model]["macro_auroc"]
        expected = scores[model]["macro_auroc"].value - scores[SCRATCH]["macro_auroc"].value
        assert difference.value == pytest.approx(expected) and difference.interval[0] <= difference.interval[1]
    assert not above[SCRATCH]


def test_classes_without_training_or_with_few_test_images_are_left_out_by_name(output):
    folder, tables, _ = output
    labels = tables["14 labels"]
    scored = {name for name in scores_of(labels)[BASELINE] if name.startswith("auroc/")}
    assert scored == {"auroc/Pneumonia"} and "Hernia" in labels["left_out"]["train"]
    table = (folder / "table.md").read_text()
    assert "Hernia (0 positives" in table and "Pneumonia 22" in table and "Not for clinical use" in table
    assert "above random weights" in table and " M |" in table


def test_what_is_finished_is_not_run_again(output, monkeypatch):
    _, tables, options = output
    monkeypatch.setattr("training.downstream.finetuning._run_once", None)
    again = run_experiment(**options, only=[SCRATCH])
    (row,) = again["pneumonia"]["rows"]
    assert row["scores"] == tables["pneumonia"]["rows"][1]["scores"]


def test_a_missing_checkpoint_is_named(table, tmp_path):
    with pytest.raises(ValueError, match="checkpoint: there is no folder"):
        run_experiment(str(table), checkpoint=[str(tmp_path / "none")])
    with pytest.raises(ValueError, match="starts from one; give --checkpoint"):
        run_experiment(str(table))


def test_the_baseline_reads_age_and_nothing_of_the_picture(radiographs):
    train, test = (load_nih(radiographs, table=f"{split}.csv", columns=MINI_COLUMNS) for split in ("train", "val"))
    targets = np.array([[index % 2 == 0] for index in range(60)])
    scores = demographics_scores(train, targets, test)
    age = np.array(test["patient_age"])
    truth = np.arange(44) % 2 == 0
    assert roc_auc_score(truth, scores[:, 0]) == pytest.approx(roc_auc_score(truth, age), abs=0.05)
