import csv
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

from processing.datasets import load
from processing.datasets.records import facts_of
from processing.datasets.sources.nih import MINI_COLUMNS, load_nih
from processing.datasets.sources.nih_sample import LISTS
from training.experiments.baselines import demographics_scores
from training.experiments.plan import EXPERIMENTS, read_experiment
from training.experiments.real import KEPT
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


SCRATCH, TIMM, BASELINE = "random weights", "timm, random weights", "view, age and sex alone"
ARMS = ("real alone", "both")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The shipped table with a smaller timm network and two arms."""
    values = yaml.safe_load((EXPERIMENTS / "real.yaml").read_text())
    values["tables"]["pneumonia"]["rows"][TIMM]["changes"]["timm_model"] = "test_resnet"
    kept = {"zero-shot": ARMS}
    for key in ("pneumonia", "14 labels"):
        kept[key] = (*ARMS, SCRATCH, TIMM, BASELINE)
    for key, rows in kept.items():
        values["tables"][key]["rows"] = {row: values["tables"][key]["rows"][row] for row in rows}
    values["tables"]["zero-shot"]["rows"]["both"].pop("scoring")
    file = tmp_path_factory.mktemp("table") / "real.yaml"
    file.write_text(json.dumps(values))
    return file


@pytest.fixture(scope="module")
def shrunk(table, tiny_run, tmp_path_factory):
    """It with twelve rendered studies and a model of seconds."""
    values = json.loads(table.read_text())
    zero_shot = values["tables"]["zero-shot"]
    phantom = json.loads(tiny_run["train_data"])
    for row in zero_shot["rows"].values():
        for entry in row["changes"]["train_data"]:
            if entry["name"] == "phantom":
                entry |= phantom
    small = {"model_overrides": json.loads(tiny_run["model_overrides"]), "vocab_size": 400, "records_per_epoch": 64}
    zero_shot["changes"] = small | {"validation_data": phantom | {"size": 4}}
    zero_shot["rows"]["real alone"]["changes"].pop("records_per_epoch")
    file = tmp_path_factory.mktemp("shrunk") / "real.yaml"
    file.write_text(json.dumps(values))
    return file


@pytest.fixture(scope="module")
def output(shrunk, radiographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    further = ["--num_train_epochs", "1", "--report_to", "none", "--disable_tqdm", "True", "--use_cpu", "True"]
    options = {"experiment": str(shrunk), "output_dir": str(folder), "seeds": [0, 1]}
    options |= {"bootstrap": 20, "further": further}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGAZE_REAL_DATA", str(radiographs.parent))
        yield folder, run_experiment(**options), options


def scores_of(table: dict, kind: str = "scores") -> dict:
    return {row["name"]: from_json(row[kind]) for row in table["rows"]}


def test_the_shipped_table_plans_every_arm_with_its_fine_tunings(radiographs, monkeypatch):
    monkeypatch.setenv("COGAZE_REAL_DATA", str(radiographs.parent))
    planned = read_experiment("real")
    zero_shot, pneumonia, labels = planned.tables
    assert len(zero_shot.rows) == 7 and all(len(row.runs) == 3 for row in zero_shot.rows)
    by_name = {row.name: row for row in zero_shot.rows}
    for row in pneumonia.rows[:5]:
        assert [run.start for run in row.runs] == by_name[row.name].runs
        assert [run.settings["seed"] for run in row.runs] == [0, 1, 2]
    assert [row.name for row in labels.rows] == [row.name for row in pneumonia.rows]


@pytest.mark.slow
def test_zero_shot_is_paired_over_patients_and_seeds(output):
    folder, tables, _ = output
    assert json.loads((folder / "metrics.json").read_text())["tables"] == json.loads(json.dumps(tables))
    scores, above = scores_of(tables["zero-shot"]), scores_of(tables["zero-shot"], "above_reference")
    truth = np.arange(44) % 2 == 0
    for arm in ARMS:
        kept = [load_file(folder / "zero-shot" / slug(arm) / f"seed-{seed}" / KEPT) for seed in (0, 1)]
        assert all((each["ill"] == truth).all() and each["compared"].all() for each in kept)
        each = [roc_auc_score(truth, own["pneumonia"]) for own in kept]
        found = scores[arm]["real_pneumonia_auroc"]
        assert found.value == pytest.approx(np.mean(each)) and found.std == pytest.approx(np.std(each, ddof=1))
        assert "real_auroc/Pneumonia" in scores[arm] and "real_auroc/Hernia" not in scores[arm]
    difference = above["both"]["real_pneumonia_auroc"]
    expected = scores["both"]["real_pneumonia_auroc"].value - scores["real alone"]["real_pneumonia_auroc"].value
    assert difference.value == pytest.approx(expected) and difference.interval[0] <= difference.interval[1]
    assert not above["real alone"] and (folder / "real.png").stat().st_size > 10_000


@pytest.mark.slow
def test_models_stand_beside_the_baseline_on_the_same_images(output):
    folder, tables, _ = output
    scores, above = scores_of(tables["pneumonia"]), scores_of(tables["pneumonia"], "above_reference")
    assert list(scores) == [*ARMS, SCRATCH, TIMM, BASELINE]
    for model in (SCRATCH, TIMM):
        summary = json.loads((folder / "pneumonia" / slug(model) / "metrics.json").read_text())
        assert scores[model]["macro_auroc"].value == pytest.approx(summary["scores"]["macro_auroc"]["value"])
        # Epochs are chosen on train's patients, and val is the test.
        assert summary["images"]["train"] + summary["images"]["validation"] == SIZES["train"]
        assert summary["images"]["test"] == SIZES["val"] and summary["test_positives"] == {"Pneumonia": 22}
    each = [
        json.loads((folder / "pneumonia" / "both" / f"from-{place}" / "metrics.json").read_text()) for place in (0, 1)
    ]
    own = [summary["scores"]["macro_auroc"]["value"] for summary in each]
    assert scores["both"]["macro_auroc"].value == pytest.approx(np.mean(own))
    for model in ("both", BASELINE):
        difference = above[model]["macro_auroc"]
        expected = scores[model]["macro_auroc"].value - scores[TIMM]["macro_auroc"].value
        assert difference.value == pytest.approx(expected) and difference.interval[0] <= difference.interval[1]
    assert not above[TIMM]


@pytest.mark.slow
def test_classes_without_training_or_with_few_test_images_are_left_out_by_name(output):
    folder, tables, _ = output
    labels = tables["14 labels"]
    scored = {name for name in scores_of(labels)[BASELINE] if name.startswith("auroc/")}
    assert scored == {"auroc/Pneumonia"} and "Hernia" in labels["left_out"]["train"]
    table = (folder / "table.md").read_text()
    assert "Hernia (0 positives" in table and "Pneumonia 22" in table and "Not for clinical use" in table
    assert "above timm, random weights" in table and " M |" in table


@pytest.mark.slow
def test_what_is_finished_is_not_run_again(output, monkeypatch):
    _, tables, options = output
    monkeypatch.setattr("training.downstream.finetuning._run_once", None)
    again = run_experiment(**options, only=[SCRATCH])
    (row,) = again["pneumonia"]["rows"]
    assert row["scores"] == next(row for row in tables["pneumonia"]["rows"] if row["name"] == SCRATCH)["scores"]


def test_without_the_radiographs_it_says_where_to_get_them(shrunk, tmp_path, monkeypatch):
    monkeypatch.setenv("COGAZE_REAL_DATA", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="NIH ChestX-ray14 can be had at https"):
        run_experiment(str(shrunk), output_dir=str(tmp_path / "out"))
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds neither train.csv nor Data_Entry_2017"):
        load("nih_sample", tmp_path / "none", split="train")


def test_the_listed_images_are_taken_from_the_published_set(tmp_path):
    listed = {split: (LISTS / f"{split}.txt").read_text().split() for split in ("train", "val")}
    assert [len(names) for names in listed.values()] == [560, 161]
    patients = [{name.split("_")[0] for name in names} for names in listed.values()]
    assert not patients[0] & patients[1]
    rows, columns = [], [*MINI_COLUMNS.values()]
    for name in (listed["train"][0], listed["val"][0], "00030805_000"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f"{name}.png")
        rows.append([f"{name}.png", "Pneumonia", name.split("_")[0], 50, "F", "PA"])
    with open(tmp_path / "Data_Entry_2017.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    for split in ("train", "val"):
        found = load("nih_sample", tmp_path, split=split)
        assert found["image_id"] == [listed[split][0]] and facts_of(found)["name"] == "nih_sample"


def test_the_baseline_reads_age_and_nothing_of_the_picture(radiographs):
    train, test = (load_nih(radiographs, table=f"{split}.csv", columns=MINI_COLUMNS) for split in ("train", "val"))
    targets = np.array([[index % 2 == 0] for index in range(60)])
    scores = demographics_scores(train, targets, test)
    age = np.array(test["patient_age"])
    truth = np.arange(44) % 2 == 0
    assert roc_auc_score(truth, scores[:, 0]) == pytest.approx(roc_auc_score(truth, age), abs=0.05)
