"""Label curves on pictures of two shapes."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.training.shapes import SIZES, records
from tests.training.training_runs import flags
from training.experiments.plan import EXPERIMENTS
from training.experiments.running import run_experiment
from training.metrics.scores import from_json

METRICS = {"classification": "macro_auroc", "segmentation": "dice_lesion"}


@pytest.fixture
def options(tiny_checkpoint, tmp_path, monkeypatch):
    """The shipped table, of half of the patients and of all."""
    known = {split: records(split) for split in SIZES}
    monkeypatch.setattr("training.downstream.data.load_data", lambda spec, argument: known[json.loads(spec)["name"]])
    values = yaml.safe_load((EXPERIMENTS / "label_curves.yaml").read_text())
    half, whole = values["tables"].pop("0.1"), values["tables"]["1"]
    del values["tables"]["0.01"], values["presets"]["segmentation"]["tables"]
    half["changes"], whole["changes"]["num_train_epochs"] = {"label_fraction": 0.5, "num_train_epochs": 2}, 1
    values["tables"] = {"0.5": half, "1": whole}
    (tmp_path / "curves.yaml").write_text(json.dumps(values))
    own = {f"{split}_data": json.dumps({"name": split}) for split in SIZES}
    own |= {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    return {
        "experiment": str(tmp_path / "curves.yaml"),
        "checkpoint": [tiny_checkpoint],
        "output_dir": str(tmp_path),
        "bootstrap": 10,
        "further": [*flags(own), "--labels", "Mass", "Fracture"],
    }


@pytest.mark.parametrize("task", METRICS)
def test_each_start_has_a_point_per_share(options, tmp_path, capsys, task):
    tables = run_experiment(**options, preset=task)
    folder, metric = tmp_path / task, METRICS[task]
    assert list(tables) == ["0.5", "1"]
    for table in tables.values():
        own, scratch = table["rows"]
        assert [own["name"], scratch["name"]] == ["pretrained", "random weights"]
        scores = [from_json(row["scores"])[metric] for row in (own, scratch)]
        assert all(0 <= score.value <= 1 for score in scores)
        difference = from_json(own["above_reference"])[metric]
        assert difference.value == pytest.approx(scores[0].value - scores[1].value)
        assert difference.interval[0] <= difference.interval[1] and not scratch["above_reference"]
        # The checkpoint's pretraining has seen labels.
        assert own["label_supervised"] and not scratch["label_supervised"]
    weights = {(folder / "1" / start / "metrics.json").read_text() for start in ("pretrained", "random-weights")}
    assert len(weights) == 2
    table = (folder / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "## 100 % of the labels" in table and "| pretrained † |" in table and "above random weights" in table
    assert Image.open(folder / "curves.png").size[0] > 400


def test_what_is_finished_is_not_run_again_and_another_checkpoint_is_not_mixed_in(options, tiny_checkpoint, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    options |= {"preset": "classification", "checkpoint": [str(checkpoint)], "only": ["1"]}
    first = run_experiment(**options)
    weights = tmp_path / "classification" / "1" / "pretrained" / "seed-0" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert run_experiment(**options) == first
    assert weights.stat().st_mtime_ns == written
    tensors = {name: tensor + 1 for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="was made with checkpoint_weights"):
        run_experiment(**options)


def test_several_checkpoints_stand_beside_random_weights(options, tiny_checkpoint, tmp_path):
    other = tmp_path / "without labels"
    shutil.copytree(tiny_checkpoint, other)
    options |= {"preset": "classification", "checkpoint": [tiny_checkpoint, str(other)], "only": ["1"]}
    rows = run_experiment(**options)["1"]["rows"]
    assert [row["name"] for row in rows] == [Path(tiny_checkpoint).name, "without labels", "random weights"]
    assert rows[0]["scores"] == rows[1]["scores"]
    with pytest.raises(ValueError, match="two folders are called"):
        run_experiment(**options | {"checkpoint": [tiny_checkpoint] * 2})
