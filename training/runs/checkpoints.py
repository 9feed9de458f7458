"""Checkpoints that survive a kill and a full disk: renamed when whole, and looked at before training goes on."""

import errno
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .files import read_json

# In the output folder, while a checkpoint is written.
ASIDE = ".saving"
# What PyTorch and safetensors say where they do not pass the error's number on.
_FULL = ("No space left", "os error 28", "file write failed", "unexpected pos")


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints in an output folder, whole or not, the newest first."""
    found = {}
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdigit() and path.is_dir():
            found[int(step)] = path
    return [found[step] for step in sorted(found, reverse=True)]


def newest_whole(folder: str | Path) -> Path | None:
    """The newest checkpoint in `folder` that is whole; what is passed over is printed with the reason."""
    for checkpoint in checkpoints(folder):
        reason = flaw(checkpoint)
        if reason is None:
            return checkpoint
        print(f"Passed over {checkpoint}: {reason}.")
    return None


def flaw(checkpoint: Path) -> str | None:
    """What keeps training from going on from a checkpoint, such as a file that was cut off; None where nothing does."""
    try:
        read_json(checkpoint / TRAINER_STATE_NAME)
    except (OSError, ValueError):
        return f"{TRAINER_STATE_NAME} is missing or cut off"
    weights = sorted(checkpoint.glob("*.safetensors"))
    if not weights:
        return "it has no weights"
    for path in weights:
        try:
            with safe_open(path, "pt"):  # compares the file's length with its header
                pass
        except (SafetensorError, OSError):
            return f"{path.name} is cut off"
    for path in (checkpoint / OPTIMIZER_NAME, checkpoint / SCHEDULER_NAME, *checkpoint.glob("rng_state*.pth")):
        if not zipfile.is_zipfile(path):  # PyTorch's form, whose table of contents comes last
            return f"{path.name} is missing or cut off"
    if not any(checkpoint.glob("rng_state*.pth")):
        return "rng_state.pth is missing"
    return None


def sweep(folder: str | Path) -> None:
    """Delete what a killed run left of a checkpoint that it was writing."""
    shutil.rmtree(Path(folder) / ASIDE, ignore_errors=True)


def put_in_place(written: Path, checkpoint: Path) -> None:
    """Give a checkpoint its name at once; one of that name is replaced."""
    if checkpoint.exists():
        os.replace(checkpoint, written.with_name("replaced"))
    os.replace(written, checkpoint)
    shutil.rmtree(written.parent, ignore_errors=True)


@contextmanager
def said_where_full(folder: str | Path, what: str) -> Iterator[None]:
    """Sweep `folder`, and say in words that its disk is full, where writing `what` fails for that.

    Raises:
        OSError: ENOSPC.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        sweep(folder)
        if getattr(error, "errno", None) == errno.ENOSPC or any(sign in str(error) for sign in _FULL):
            raise OSError(
                errno.ENOSPC,
                f"output_dir: the disk of {folder} is full, {what} was not saved; what was saved before is whole. Make "
                "room and go on with --resume_from_checkpoint True",
            ) from error
        raise
