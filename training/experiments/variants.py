"""Variants of a training, each trained and scored once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import TrainingArguments

from ..evaluation.scorers import Scorer, load_scorer
from ..pretraining.training import PretrainArguments, pretrain
from ..runs.command_line import parse_arguments
from ..runs.files import read_json, write_json
from ..runs.settings import EACH_EPOCH, SETTINGS_FILE, comparable_settings, hold_to_settings


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
    kinds = (PretrainArguments, TrainingArguments)
    arguments, training = parse_arguments(kinds, flags, defaults=EACH_EPOCH)
    settings = comparable_settings(arguments, training) | {"seed": training.seed}

    def scored() -> dict:
        return score(load_scorer(str(folder), device="cuda" if torch.cuda.is_available() else "cpu"))

    return train_and_score(folder, settings, lambda resume: pretrain([*flags, *resume]), scored)


def train_and_score(folder: Path, settings: dict, train: Callable[[list[str]], object], score: Callable[[], dict]):
    """Train into `folder` and score what came out, each once; returns and writes `metrics.json`.

    Args:
        settings: what results hang on.
        train: given the flags that go on from an earlier part, if there was one; leaves `training.json` when done.
    Raises:
        ValueError: the folder holds a run of other settings.
    """
    hold_to_settings(folder / SETTINGS_FILE, settings)
    if (folder / "metrics.json").is_file():
        return read_json(folder / "metrics.json")
    if not (folder / "training.json").is_file():
        train(["--resume_from_checkpoint", "True"] if any(folder.glob("checkpoint-*")) else [])
    minutes = read_json(folder / "training.json")["train_runtime"] / 60
    write_json(folder / "metrics.json", score() | {"training_minutes": minutes})
    return read_json(folder / "metrics.json")
