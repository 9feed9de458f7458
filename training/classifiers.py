"""Fine-tuned classifiers, for what is asked of them after the test: calibration and saliency."""

from collections.abc import Iterator

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForImageClassification, AutoProcessor

import modeling_cogaze  # noqa: F401  (registers the Auto classes)
from processing.datasets.records import label_names, label_targets

from .downstream_data import FinetuneCollator, chosen_names


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
        collate = FinetuneCollator(self.processor, self._prepared, self.model)
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
        for start in tqdm(range(0, len(dataset), self.batch_size), desc="Classifying", leave=False):
            stop = min(start + self.batch_size, len(dataset))
            yield self.inputs([dataset[row] for row in range(start, stop)])

    def targets(self, dataset) -> np.ndarray:
        """(N, C) of 0 and 1: uncertain is positive, not mentioned negative.

        Raises:
            ValueError: a label of the model's that the data set does not have.
        """
        known = label_names(dataset)
        columns = [known.index(name) for name in chosen_names(self.names, known)]
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


__all__ = ["Classifier", "open_classifier"]
