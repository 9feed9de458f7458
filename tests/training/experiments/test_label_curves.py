"""Label curves on pictures of two shapes."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.training.shapes import SIZES, records
from tests.training.training_runs import flags
from training.experiments import label_curves as run_label_curves
from training.runs.settings import refuse_other_settings


@pytest.fixture
def arguments(tiny_checkpoint, tmp_path, monkeypatch):
    known = {split: records(split) for split in SIZES}
    monkeypatch.setattr("training.downstream.data.load_data", lambda spec, argument: known[json.loads(spec)["name"]])
    own = {f"{split}_data": json.dumps({"name": split}) for split in SIZES} | {"checkpoint": tiny_checkpoint}
    own |= {"output_dir": tmp_path, "bootstrap": 10, "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    return [*flags(own), "--labels", "Mass", "Fracture", "--fractions", "0.5", "1", "--epochs", "2", "1"]


@pytest.mark.parametrize("task", run_label_curves.TASKS)
def test_each_start_has_a_point_per_share(arguments, tmp_path, capsys, task):
    result = run_label_curves.main([task, *arguments])
    folder = tmp_path / task
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(result))
    for points in result["curves"].values():
        assert [point["label_fraction"] for point in points] == [0.5, 1.0]
        assert all(0 <= point["scores"][result["metric"]]["value"] <= 1 for point in points)
    assert (
        len({(folder / f"{start}-1" / "metrics.json").read_text() for start in ("pretrained", "random-weights")}) == 2
    )
    for own, scratch in zip(result["curves"]["pretrained"], result["curves"]["random weights"], strict=True):
        above, (mean, of_scratch) = (
            own["scores"]["above_scratch"],
            (point["scores"][result["metric"]]["value"] for point in (own, scratch)),
        )
        assert above["value"] == pytest.approx(mean - of_scratch) and above["interval"][0] <= above["interval"][1]
        assert scratch["scores"]["above_scratch"]["value"] == 0
    table = (folder / "table.md").read_text()
    assert table in capsys.readouterr().out and "| 50% |" in table and "| 100% |" in table
    # The checkpoint's pretraining has seen labels.
    assert "| pretrained † | above random weights | random weights |" in table
    assert (folder / "curves.png").stat().st_size > 1000


def test_what_is_finished_is_not_run_again_and_another_checkpoint_is_not_mixed_in(arguments, tiny_checkpoint, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    own = ["classification", *arguments, "--checkpoint", str(checkpoint)]
    first = run_label_curves.main(own)
    weights = tmp_path / "classification" / "pretrained-1" / "seed-0" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert run_label_curves.main(own) == first
    assert weights.stat().st_mtime_ns == written
    tensors = {name: tensor + 1 for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="was made with checkpoint_weights"):
        run_label_curves.main(own)


def test_several_checkpoints_stand_beside_random_weights(arguments, tiny_checkpoint, tmp_path):
    other = tmp_path / "without labels"
    shutil.copytree(tiny_checkpoint, other)
    both = ["classification", *arguments, "--fractions", "1", "--epochs", "1", "--checkpoint", tiny_checkpoint]
    result = run_label_curves.main([*both, str(other)])
    names = [Path(tiny_checkpoint).name, "without labels", "random weights"]
    assert list(result["curves"]) == names
    same, again, _ = (result["curves"][name][0]["scores"]["macro_auroc"] for name in names)
    assert same == again
    with pytest.raises(ValueError, match="two folders are called"):
        run_label_curves.main([*both, tiny_checkpoint])


def test_shares_and_epochs_belong_together(arguments):
    with pytest.raises(ValueError, match="epochs: 1 numbers for 2 fractions"):
        run_label_curves.main(["classification", *arguments, "--epochs", "1"])


def test_a_setting_that_was_not_there_before_is_another(tmp_path):
    with pytest.raises(ValueError, match="was made with num_beams = None, now it is 4"):
        refuse_other_settings(tmp_path, {"seed": 0}, {"seed": 0, "num_beams": 4})
