"""How a run of each stage is carried out: trained once, scored once, gone on with where it was cut off."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from transformers import AutoConfig

import modeling_cogaze  # noqa: F401  (registers the Auto classes)

from ..data.loading import load_data
from ..downstream.training import finetune_classification, finetune_segmentation
from ..metrics.scores import to_json
from ..pretraining.training import pretrain
from ..pretraining.training import settings_of as pretraining_settings
from ..reports.training import settings_of as report_settings
from ..reports.training import train_report_generator
from ..runs.files import read_json, write_json
from ..runs.settings import SETTINGS_FILE, hold_to_settings
from .plan import Run
from .scoring import most_frequent_report, report_scores, score_dual_encoder, score_reports

SCORING_FILE = "scoring.json"


def carry_out(run: Run, further: Sequence[str] = ()) -> dict:
    """The metrics of a run, after those of what it starts from.

    Args:
        further: flags of the trainings' commands.
    Returns:
        "scores" as `metrics.scores.to_json` keeps them, and facts: "measured_on", and of trainings "label_supervised"
        and "training_minutes".
    Raises:
        ValueError: a stage that is not known; a folder that holds a run of other settings.
    """
    if run.stage not in STAGES:
        raise ValueError(f"stage: {run.stage!r} is none of {', '.join(STAGES)}.")
    if isinstance(run.start, Run):
        carry_out(run.start, further)
    return STAGES[run.stage](run, () if run.is_head else further)


def _pretrain(run: Run, further: Sequence[str]) -> dict:
    return _train_and_score(run, further, pretrain, pretraining_settings, score_dual_encoder)


def _train_reports(run: Run, further: Sequence[str]) -> dict:
    return _train_and_score(run, further, train_report_generator, report_settings, score_reports)


def _train_and_score(run: Run, further: Sequence[str], command: Callable, settings_of: Callable, score: Callable):
    """`metrics.json` of a run; "training_minutes" are those of its last part."""
    folder = run.folder
    flags = [*run.flags, *further, "--output_dir", str(folder)]
    settings = settings_of(flags)
    hold_to_settings(folder / SETTINGS_FILE, settings)
    # What it is scored on, apart from what it is trained by.
    hold_to_settings(folder / SCORING_FILE, run.scoring)
    if not (folder / "metrics.json").is_file():
        if not (folder / "training.json").is_file():
            cut_off = any(folder.glob("checkpoint-*"))
            command([*flags, "--resume_from_checkpoint", "True"] if cut_off else flags)
        minutes = read_json(folder / "training.json")["train_runtime"] / 60
        metrics = score(folder, run.scoring, settings)
        facts = {"training_minutes": minutes, "label_supervised": _saw_labels(str(folder))}
        write_json(folder / "metrics.json", metrics | facts)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return read_json(folder / "metrics.json")


def _finetune(command: Callable, run: Run, further: Sequence[str]) -> dict:
    found = command([*run.flags, *further, "--resume_from_checkpoint", "True", "--output_dir", str(run.folder)])
    pretrained = run.checkpoint is not None and not run.settings.get("from_scratch")
    return found | {
        "label_supervised": pretrained and _saw_labels(run.checkpoint),
        "training_minutes": float(np.mean([each["minutes"] for each in found["seeds"]])),
        "parameters": found["seeds"][0]["parameters"],
    }


def _write_again(run: Run, further: Sequence[str]) -> dict:
    """Reports of the generator that it starts from, written otherwise."""
    settings = read_json(Path(run.checkpoint) / SETTINGS_FILE)
    return _score_once(run, lambda: score_reports(run.folder, run.scoring, settings, run.checkpoint))


def _most_frequent_report(run: Run, further: Sequence[str]) -> dict:
    """Had every study been given the most frequent report that the generator it starts from was trained on."""
    settings = read_json(Path(run.checkpoint) / SETTINGS_FILE)

    def score() -> dict:
        lines = (Path(run.checkpoint) / "reports.jsonl").read_text(encoding="utf-8").splitlines()
        rows = most_frequent_report(list(map(json.loads, lines)), load_data(settings["train_data"], "train_data"))
        return {"scores": to_json(report_scores(rows, run.scoring.get("bootstrap", 1000)).values())}

    return _score_once(run, score)


def _demographics(run: Run, further: Sequence[str]) -> dict:
    """Of the labels and data of the fine-tuning that it starts from; `summary.compare` scores it."""
    found = read_json(Path(run.checkpoint) / "metrics.json")
    return {name: found[name] for name in ("task", "labels", "left_out", "measured_on", "seeds")} | {"scores": {}}


def _score_once(run: Run, score: Callable[[], dict]) -> dict:
    hold_to_settings(run.folder / SCORING_FILE, run.scoring)
    if not (run.folder / "metrics.json").is_file():
        write_json(run.folder / "metrics.json", score())
    return read_json(run.folder / "metrics.json")


def _saw_labels(checkpoint: str) -> bool:
    """L_cls has seen the labels of the training images."""
    return bool(getattr(AutoConfig.from_pretrained(checkpoint), "use_classification", False))


STAGES: dict[str, Callable[[Run, Sequence[str]], dict]] = {
    "pretrain": _pretrain,
    "report": _train_reports,
    "classification": partial(_finetune, finetune_classification),
    "segmentation": partial(_finetune, finetune_segmentation),
    "reports written again": _write_again,
    "most frequent report": _most_frequent_report,
    "view, age and sex": _demographics,
}
