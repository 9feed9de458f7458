"""Variants of a pretraining, each trained and scored once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import TrainingArguments

from . import pretrain
from .arguments import comparable_settings, parse_arguments, refuse_other_settings
from .files import read_json, write_json
from .scorers import Scorer, load_scorer

SETTINGS = "settings.json"


def pretrain_and_score(folder: Path, flags: Sequence[str], score: Callable[[Scorer], dict]) -> dict:
    """Pretrain into `folder` and score what came out; returns and writes `metrics.json`.

    What is finished is not run again, and a training that was cut off goes on from its last checkpoint;
    "training_minutes" are those of its last part.

    Args:
        flags: of training/pretrain.py, without `--output_dir`.
        score: the metrics of a checkpoint.
    Raises:
        ValueError: the folder holds a run of other settings.
    """
    flags = [*flags, "--output_dir", str(folder)]
    kinds = (pretrain.PretrainArguments, TrainingArguments)
    arguments, training = parse_arguments(kinds, flags, defaults=pretrain.EACH_EPOCH)
    settings = comparable_settings(arguments, training) | {"seed": training.seed}
    if (folder / SETTINGS).is_file():
        refuse_other_settings(folder, read_json(folder / SETTINGS), settings, ", or delete that one")
    else:
        write_json(folder / SETTINGS, settings)
    if (folder / "metrics.json").is_file():
        return read_json(folder / "metrics.json")
    # The last file that a training writes.
    if not (folder / "training.json").is_file():
        resume = ["--resume_from_checkpoint", "True"] if any(folder.glob("checkpoint-*")) else []
        pretrain.main([*flags, *resume])
    metrics = score(load_scorer(str(folder), device="cuda" if torch.cuda.is_available() else "cpu"))
    minutes = read_json(folder / "training.json")["train_runtime"] / 60
    write_json(folder / "metrics.json", metrics | {"training_minutes": minutes})
    return read_json(folder / "metrics.json")
