"""What a kill or a full disk leaves: checkpoints that are whole, and a run that goes on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.training_runs import assert_same_weights, flags
from training.pretraining.training import pretrain
from training.runs.checkpoints import ASIDE, checkpoints, flaw, newest_whole
from training.runs.settings import hold_to_settings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A run of four steps in two epochs, saved at every step, with augmentation."""
    folder = tmp_path_factory.mktemp("steps")
    changes = {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_total_limit": 10,
        "per_device_train_batch_size": 6,
        "crop": 0.8,
        "autocontrast": 0.5,
        "context_dropout": 0.5,
        "output_dir": folder,
    }
    pretrain(flags(tiny_run, **changes))
    return folder, changes


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_run_resumed_within_an_epoch_is_the_one_that_was_not_cut_off(run, tiny_run, tmp_path, step, accumulated):
    folder, changes = run
    if accumulated > 1:
        changes = changes | {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
        pretrain(flags(tiny_run, **changes | {"output_dir": tmp_path / "whole"}))
        folder = tmp_path / "whole"
    shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    pretrain(flags(tiny_run, **changes | {"output_dir": tmp_path, "resume_from_checkpoint": "True"}))
    assert_same_weights(folder / "checkpoint-4", tmp_path / "checkpoint-4")


def test_nothing_is_left_aside_and_the_best_checkpoint_has_its_name(run):
    folder, _ = run
    assert not (folder / ASIDE).exists()
    assert [path.name for path in checkpoints(folder)] == [f"checkpoint-{step}" for step in (4, 3, 2, 1)]
    assert all(flaw(path) is None for path in checkpoints(folder))
    assert all(ASIDE not in (path / "trainer_state.json").read_text() for path in checkpoints(folder))


@pytest.mark.parametrize(
    "name", ["trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
@pytest.mark.parametrize("kept", [None, 0.5])
def test_a_checkpoint_that_was_cut_off_is_passed_over(run, tmp_path, capsys, name, kept):
    folder, _ = run
    for step in (1, 2):
        shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    path = tmp_path / "checkpoint-2" / name
    content = path.read_bytes()
    path.unlink()
    if kept:
        path.write_bytes(content[: int(kept * len(content))])
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-1"
    printed = capsys.readouterr().out
    assert "Passed over" in printed and "checkpoint-2" in printed


def test_what_a_killed_save_left_is_swept_and_a_run_without_a_whole_checkpoint_begins_again(run, tiny_run, tmp_path):
    folder, changes = run
    (tmp_path / ASIDE / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "checkpoint-1").mkdir()
    pretrain(flags(tiny_run, **changes | {"output_dir": tmp_path, "resume_from_checkpoint": "True"}))
    assert not (tmp_path / ASIDE).exists()
    assert_same_weights(folder / "checkpoint-4", tmp_path / "checkpoint-4")


FULL_DISK = """
mount -t tmpfs -o size={size}k none {folder} && exec "$@"
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs a mount of its own",
)
def test_a_full_disk_is_said_in_words(run, tiny_run, tmp_path):
    whole, changes = run
    size = sum(path.stat().st_size for path in (whole / "checkpoint-1").iterdir()) // 1024
    folder = tmp_path / "small"
    folder.mkdir()
    own = flags(tiny_run, **changes | {"output_dir": folder / "out"})
    script = FULL_DISK.format(size=int(1.6 * size) + 100, folder=folder)
    script = script.replace('exec "$@"', f'"$@"; code=$?; ls -A {folder}/out; exit $code')
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-m", "training.pretrain", *own]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode != 0
    assert f"the disk of {folder}/out is full, checkpoint-2 was not saved" in found.stderr
    assert "checkpoint-1" in found.stdout and "checkpoint-2" not in found.stdout and ASIDE not in found.stdout


def test_settings_of_before_are_known_by_their_new_names(tmp_path):
    (tmp_path / "settings.json").write_text('{"init_from": "a", "seed": 0}')
    hold_to_settings(tmp_path / "settings.json", {"checkpoint": "a", "seed": 0})
    with pytest.raises(ValueError, match="checkpoint = 'a', now it is 'b'"):
        hold_to_settings(tmp_path / "settings.json", {"checkpoint": "b", "seed": 0})
