"""Temperatures of a fine-tuned classifier, what they change, and how they are kept."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from datasets import Dataset
from scipy.special import expit, logit
from transformers import AutoConfig

from ..downstream.classifiers import Classifier
from ..downstream.subsets import check_patients_apart, missing_classes
from ..metrics.calibration import calibration_scores, fit_temperatures


@dataclass
class Calibration:
    """Temperatures (C,) of the labels `names`, and the test images' uncalibrated logits and targets, (N, C)."""

    names: list[str]
    temperatures: np.ndarray
    logits: np.ndarray
    targets: np.ndarray

    def scores(self) -> dict:
        """ "temperatures" by label, and `calibration_scores` "before" and "after"."""
        return {
            "temperatures": dict(zip(self.names, self.temperatures.tolist(), strict=True)),
            "before": calibration_scores(self.logits, self.targets, self.names),
            "after": calibration_scores(self.logits / self.temperatures, self.targets, self.names),
        }

    def thresholds(self, chosen: Mapping[str, float] | None) -> dict[str, float] | None:
        """Thresholds that were chosen on uncalibrated probabilities, as they are now; None where there are none."""
        at = dict(zip(self.names, self.temperatures, strict=True))
        return {name: float(expit(logit(value) / at[name])) for name, value in chosen.items()} if chosen else None


def calibrate(classifier: Classifier, validation: Dataset, test: Dataset, per_label: bool = False) -> Calibration:
    """Fit temperatures on `validation`, and look at `test`.

    Raises:
        ValueError: a patient in both; a label that the validation images all have, or none has, or do not know.
    """
    data = {"validation": validation, "test": test}
    check_patients_apart({split: dataset["patient_id"] for split, dataset in data.items()})
    targets = {split: classifier.targets(dataset) for split, dataset in data.items()}
    for name, count in missing_classes(targets["validation"], classifier.names).items():
        raise ValueError(f"validation_data: {name!r} has {count}; take more images.")
    temperatures = fit_temperatures(classifier.logits(validation), targets["validation"], per_label)
    return Calibration(classifier.names, temperatures, classifier.logits(test), targets["test"])


def save_temperatures(folder: Path, temperatures: np.ndarray) -> None:
    """Put `logit_temperature` into the config in `folder`."""
    save_config_fields(folder, logit_temperature=temperatures.tolist())


def save_config_fields(folder: Path, **values) -> None:
    """Put fields into the config in `folder`; each file changes as a whole or not at all."""
    config = AutoConfig.from_pretrained(folder)
    for name, value in values.items():
        setattr(config, name, value)
    with TemporaryDirectory(dir=folder, prefix=".config-") as written:
        config.save_pretrained(written)
        # The config last: code that does not know its field would leave it out without a word.
        for path in sorted(Path(written).iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, folder / path.name)
