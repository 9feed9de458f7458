"""Data of the downstream tasks: splits that have what a task needs, and batches."""

import json
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from processing.datasets.overlaps import warn_of_overlaps
from processing.datasets.records import label_names

from ..data.collation import Preparation
from ..data.loading import load_data
from .subsets import check_patients_apart, missing_classes, stratified_patients

# Records' columns that no downstream head reads; findings would be what the classes were read from.
UNUSED = ("findings", "impression", "gaze")


class Task(Protocol):
    """What is particular to a task."""

    name: str
    head: str  # the model's attribute
    names: list[str]  # of the chosen classes
    models: dict[str, type[PreTrainedModel]]  # by family
    needs_negatives: bool
    unused: tuple[str, ...]  # columns of a record

    def positives(self, dataset: Dataset) -> tuple[list[str], np.ndarray]:
        """Names of the classes, and (N, C) bool which images show them."""

    def choose(self, names: list[str], known: list[str]) -> None:
        """`names`, in this order, are learnt of what `positives` knows."""

    def prepare(self, record: dict) -> dict:
        """A record with the classes' labels or masks."""

    def build(self, arguments, processor, positives: np.ndarray) -> PreTrainedModel:
        """The model that fine-tuning's arguments ask for; training images show the chosen classes so, (N, C)."""

    def summarise(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Per image, what scores are computed from: (B, ...) predictions and references."""

    def thresholds(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        """What is chosen on the validation images."""

    def scores(
        self, predictions: np.ndarray, references: np.ndarray, thresholds=None, names: list[str] | None = None
    ) -> dict[str, float]:
        """Metrics of `names`, by default all classes; without thresholds, for choosing the epoch."""


@dataclass
class Splits:
    """Data by split, the images' classes (N, C), and the classes that a split lacks, with what it has."""

    names: list[str]
    data: dict[str, Dataset]
    positives: dict[str, np.ndarray]
    left_out: dict[str, dict[str, str]]

    @property
    def scored(self) -> list[str]:
        """Classes that the test can score."""
        return [name for name in self.names if name not in self.left_out["test"]]


@dataclass
class TaskPreparation(Preparation):
    """A record as the task's processor call wants it."""

    task: Task | None = None
    gaze_fraction: float = 0.0

    @property
    def fingerprint(self) -> str:
        return json.dumps([self.task.name, self.task.names, self.use_context])

    def __call__(self, record: dict) -> dict:
        return self.task.prepare(super().__call__(record))


def load_splits(
    task: Task,
    specs: dict[str, dict | str | None],
    labels: list[str] | None = None,
    validation_fraction: float = 0.1,
    on_missing_class: str = "raise",
    minimum_positives: int = 1,
) -> Splits:
    """Train, validation and test, without the columns that a head must not read, and their classes.

    Args:
        specs: "train", "validation" and "test" as for `load_data`; without validation, that share of train's patients.
        labels: the classes asked for, by default all.
        on_missing_class: "raise", or "skip": leave out what a split lacks.
        minimum_positives: positives, and negatives, that a class must have in the test to be scored.
    Raises:
        ValueError: no data set that can be counted; a patient in two splits; an unknown class; one that a split lacks.
    """
    data = {split: load_data(spec, f"{split}_data") for split, spec in specs.items() if spec is not None}
    warn_of_overlaps({f"{split}_data": dataset for split, dataset in data.items()})
    found = {}
    for split, dataset in data.items():
        if not isinstance(dataset, Dataset):
            raise ValueError(f"{split}_data: shards are read as a stream; give the data set itself.")
        if label_names(dataset) != label_names(data["train"]):
            raise ValueError(f"{split}_data: its label names differ from those of train_data.")
        found[split] = task.positives(dataset)
    # Masks tell of their classes by being there: another split may know of one that train lacks.
    known = list(dict.fromkeys(name for own, _ in found.values() for name in own))
    asked = chosen_names(labels, known)
    positives = {split: _columns(own, rows, asked) for split, (own, rows) in found.items()}
    if "validation" not in data:
        train = data["train"]
        rows = stratified_patients(positives["train"], train["patient_id"], validation_fraction)
        others = np.setdiff1d(np.arange(len(train)), rows)
        if not len(others):
            raise ValueError(f"validation_fraction: {validation_fraction} leaves nothing to train on.")
        data["validation"], data["train"] = train.select(rows), train.select(others)
        positives["validation"], positives["train"] = positives["train"][rows], positives["train"][others]

    drawn = specs.get("validation") is None
    left_out = {"train": missing_classes(positives["train"], asked, negatives=task.needs_negatives)}
    _refuse(left_out["train"], "train", on_missing_class)
    names = [name for name in asked if name not in left_out["train"]]
    if not names:
        raise ValueError("train_data: it has no class that can be learnt.")
    task.choose(names, known)
    positives = {split: _columns(asked, rows, names) for split, rows in positives.items()}
    for split, minimum in (("validation", 1), ("test", minimum_positives)):
        left_out[split] = missing_classes(positives[split], names, minimum, task.needs_negatives)
        _refuse(left_out[split], split, on_missing_class, drawn and split == "validation")
        if len(left_out[split]) == len(names):
            raise ValueError(f"{split}_data: it has no class that can be scored.")
    check_patients_apart({split: dataset["patient_id"] for split, dataset in data.items()})
    for split, dataset in data.items():
        data[split] = dataset.remove_columns([name for name in (*UNUSED, *task.unused) if name in dataset.column_names])
    return Splits(names, data, positives, left_out)


def refuse_emptied(task: Task, splits: Splits, split: str, minimum_positives: int = 1) -> None:
    """
    Raises:
        ValueError: a class that `split` lacks now, though it did not when it was loaded; names it, with counts.
    """
    minimum = minimum_positives if split == "test" else 1
    missing = missing_classes(splits.positives[split], splits.names, minimum, task.needs_negatives)
    lacking = [f"{name!r} has {count}" for name, count in missing.items() if name not in splits.left_out[split]]
    if lacking:
        raise ValueError(
            f"{split}_data: of the usable records, {'; '.join(lacking)}. Choose other classes by --labels."
        )


def labelled_share(
    task: Task, fraction: float, train: Dataset, positives: np.ndarray, seed: int
) -> tuple[Dataset, np.ndarray]:
    """The images of a stratified share of the patients, and their classes.

    Raises:
        ValueError: a class that the share leaves empty; names it, with counts.
    """
    rows = stratified_patients(positives, train["patient_id"], fraction, seed)
    share = train.select(rows)
    lacking = missing_classes(positives[rows], task.names, negatives=task.needs_negatives)
    if lacking:
        found = "; ".join(f"{name!r} has {count}" for name, count in lacking.items())
        raise ValueError(
            f"label_fraction: {fraction:g} leaves {len(set(share['patient_id']))} patients; of their images, {found}. "
            "Take a larger fraction, or fewer classes with --labels."
        )
    return share, positives[rows]


def chosen_names(
    asked: list[str] | None, known: list[str], argument: str = "labels", whose: str = "the data set's"
) -> list[str]:
    """The names `known` that are asked for, in that order and in their spelling; None: all.

    Raises:
        ValueError: a name that is not among them; names the argument, and whose they are.
    """
    if asked is None:
        return known
    by_name = {name.casefold(): name for name in known}
    unknown = [name for name in asked if name.casefold() not in by_name]
    if unknown:
        raise ValueError(f"{argument}: {unknown[0]!r} is none of {whose}: {', '.join(known)}.")
    return [by_name[name.casefold()] for name in asked]


def _columns(own: list[str], rows: np.ndarray, names: list[str]) -> np.ndarray:
    """`rows` (N, C) of the classes `own` as (N, len(names)); a class that is not among them has no positives."""
    place = {name: column for column, name in enumerate(own)}
    empty = np.zeros(len(rows), bool)
    return np.stack([rows[:, place[name]] if name in place else empty for name in names], axis=1)


def _refuse(missing: dict[str, str], split: str, on_missing_class: str, drawn: bool = False) -> None:
    if missing and on_missing_class == "raise":
        lacking = "; ".join(f"{name!r} has {count}" for name, count in missing.items())
        which = f"{split}_fraction: in the part of train's patients that it drew," if drawn else f"{split}_data:"
        raise ValueError(f"{which} {lacking}. Choose other classes with --labels, or set --on_missing_class skip.")
    for name, count in missing.items():
        print(f"{split}: class {name!r} is left out, it has {count}.")
