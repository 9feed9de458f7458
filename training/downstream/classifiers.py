"""Fine-tuned classifiers, for what is asked of them after the test: calibration and saliency."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import AutoModelForImageClassification, AutoProcessor

import modeling_cogaze  # noqa: F401  (registers the Auto classes)
from processing.datasets.records import label_names, label_targets

from ..data.collation import Collator
from ..runs.files import read_json
from .data import load_splits
from .tasks import ClassificationTask


class Classifier:
    """A classifier of independent labels with its processor.

    Args:
        use_context: as in its fine-tuning.
    Raises:
        ValueError: one of exclusive classes.
    """

    def __init__(self, model, processor, use_context: bool = True, batch_size: int = 32):
        if model.config.problem_type == "single_label_classification":
            raise ValueError("checkpoint: its classes are exclusive; this is for independent labels.")
        self.model = model.eval()
        self.processor = processor
        self.use_context = use_context
        self.batch_size = batch_size
        self.names = [model.config.id2label[column] for column in range(model.config.num_labels)]

    @property
    def temperatures(self) -> np.ndarray:
        """(C,) that the logits are divided by; ones for a model that has not been calibrated."""
        return np.array(self.model.config.logit_temperature or [1.0] * len(self.names))

    def inputs(self, records: list[dict]) -> dict[str, torch.Tensor]:
        """The model's inputs, without labels."""
        collate = Collator(self.processor, self._prepared, model=self.model)
        return {name: tensor.to(self.model.device) for name, tensor in collate(records).items()}

    def _prepared(self, record: dict) -> dict:
        without = {"findings": "", "gaze": [], "labels": []}
        return record | without | ({} if self.use_context else {"indication": "", "history": ""})

    @torch.no_grad()
    def logits(self, dataset) -> np.ndarray:
        """(N, C) before they are divided by the temperatures."""
        found = [self.model(**inputs).logits.double().cpu().numpy() for inputs in self._batches(dataset)]
        return np.concatenate(found) * self.temperatures

    def _batches(self, dataset) -> Iterator[dict[str, torch.Tensor]]:
        for start in tqdm(range(0, len(dataset), self.batch_size), desc="Classifying", leave=False, disable=None):
            stop = min(start + self.batch_size, len(dataset))
            yield self.inputs([dataset[row] for row in range(start, stop)])

    def targets(self, dataset) -> np.ndarray:
        """(N, C) of 0 and 1: uncertain is positive, not mentioned negative.

        Raises:
            ValueError: a label of the model's that the data set does not have.
        """
        known = {name.casefold(): column for column, name in enumerate(label_names(dataset))}
        lacking = [name for name in self.names if name.casefold() not in known]
        if lacking:
            there = ", ".join(label_names(dataset))
            raise ValueError(f"data: they lack the classifier's label {lacking[0]!r}; they have {there}.")
        columns = [known[name.casefold()] for name in self.names]
        return label_targets(dataset["labels"][:])[:, columns]


def open_classifier(checkpoint: str, device: str = "cpu", **options) -> Classifier:
    """`Classifier` of what `finetune_classification.py` wrote; all parameters can be differentiated by.

    Raises:
        ValueError: a checkpoint without a classifier.
    """
    model, report = AutoModelForImageClassification.from_pretrained(
        checkpoint, freeze_encoder=False, freeze_vision_encoder=False, output_loading_info=True
    )
    if report["missing_keys"]:
        raise ValueError(
            f"checkpoint: {checkpoint} lacks {sorted(report['missing_keys'])[0]}; give what finetune_classification.py "
            "wrote, such as outputs/finetune-classification-phantom/seed-0."
        )
    return Classifier(model.to(device), AutoProcessor.from_pretrained(checkpoint), **options)


def finetune_record(checkpoint: str | Path) -> dict:
    """What fine-tuning wrote beside the model, such as "settings" and "thresholds"; empty where there is nothing."""
    path = Path(checkpoint) / "metrics.json"
    return read_json(path) if path.is_file() else {}


def as_in_finetuning(checkpoint: str | Path, name: str, given=None, flag: str | None = None):
    """An argument's value: what is given, else what fine-tuning had.

    Args:
        flag: the argument's name, where it is not fine-tuning's `name`.
    Raises:
        ValueError: neither is there; names the argument.
    """
    if given is not None:
        return given
    value = finetune_record(checkpoint).get("settings", {}).get(name)
    if value is None:
        file = Path(checkpoint) / "metrics.json"
        raise ValueError(f"{flag or name}: {file} does not say fine-tuning's {name}; give --{flag or name}.")
    return value


def drawn_validation(checkpoint: str | Path) -> Dataset | None:
    """The validation images that fine-tuning drew from train's patients; None where it was given some."""
    settings = finetune_record(checkpoint).get("settings", {})
    if "validation_fraction" not in settings or settings.get("validation_data") is not None:
        return None
    splits = load_splits(
        ClassificationTask(),
        {split: settings[f"{split}_data"] for split in ("train", "test")},
        settings["labels"],
        settings["validation_fraction"],
        settings["on_missing_class"],
        settings["minimum_positives"],
    )
    return splits.data["validation"]


__all__ = ["Classifier", "as_in_finetuning", "drawn_validation", "finetune_record", "open_classifier"]
