"""What fine-tuning does for classes, and what for masks."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import AutoModelForPreTraining, TimmWrapperConfig, TimmWrapperForImageClassification

from modeling_cogaze import (
    CoGazeForImageClassification,
    CoGazeForSemanticSegmentation,
    EgmaForImageClassification,
    EgmaForSemanticSegmentation,
)
from modeling_cogaze.losses_cogaze import class_balanced_focal_loss
from processing.datasets.records import label_names, label_targets
from processing.targets import region_masks

from ..metrics.downstream import classification_scores, dice_scores, f1_thresholds
from .finetuning import FinetuneArguments, build_model, label_fields


@dataclass
class ClassificationArguments(FinetuneArguments):
    init_from_disease_head: bool = field(
        default=False, metadata={"help": "start the classifier from the pretraining's disease head, by label names"}
    )
    timm_model: str | None = field(
        default=None,
        metadata={"help": "a timm architecture with random weights, on the same pixels, in place of the checkpoint's"},
    )


class ClassificationTask:
    """Independent labels, as the data set's codes have them: uncertain is positive, not mentioned negative."""

    name = "classification"
    head = "classifier"
    needs_negatives = True
    unused = ("regions",)
    models = {"cogaze": CoGazeForImageClassification, "egma": EgmaForImageClassification}

    def positives(self, dataset: Dataset) -> tuple[list[str], np.ndarray]:
        return label_names(dataset), label_targets(dataset["labels"][:]) > 0

    def choose(self, names: list[str], known: list[str]) -> None:
        self.names = names
        self.columns = [known.index(name) for name in names]

    def prepare(self, record: dict) -> dict:
        return record | {"labels": [record["labels"][column] for column in self.columns]}

    def build(self, arguments: ClassificationArguments, processor, positives: np.ndarray):
        if arguments.timm_model:
            return _timm(arguments.timm_model, self.names, positives.sum(axis=0).tolist())
        model = build_model(self, arguments, processor, {"examples_per_class": positives.sum(axis=0).tolist()})
        if arguments.init_from_disease_head:
            if not hasattr(model, "take_disease_head"):
                raise ValueError(f"init_from_disease_head: {arguments.checkpoint} is EGMA's, which has no such head.")
            taken = model.take_disease_head(AutoModelForPreTraining.from_pretrained(arguments.checkpoint))
            print(f"The classifier starts from the disease head for {', '.join(taken)}.")
        return model

    def summarise(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits.sigmoid(), labels

    def thresholds(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return f1_thresholds(predictions, references, self.names)

    def scores(self, predictions, references, thresholds=None, names=None) -> dict[str, float]:
        names = self.names if names is None else names
        columns = [self.names.index(name) for name in names]
        return classification_scores(predictions[:, columns], references[:, columns], names, thresholds)


def _timm(architecture: str, names: list[str], positives: list[int]) -> TimmWrapperForImageClassification:
    import timm

    model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=architecture, **label_fields(names)))
    # By the loss of the models beside it.
    model.loss_function = lambda labels, logits, config: class_balanced_focal_loss(logits, labels, positives)
    # The wrapper draws weights of its own; timm's are made for the architecture.
    model.timm_model = timm.create_model(architecture, num_classes=len(names))
    return model


@dataclass
class SegmentationArguments(FinetuneArguments):
    head_learning_rate_factor: float = field(default=5.0, metadata={"help": "learning rate of the decoder, times this"})
    mask_threshold: float = field(default=0.5, metadata={"help": "of a pixel's probability"})


class SegmentationTask:
    """Masks of the labels asked for, or one mask of all regions.

    Args:
        labels: as asked for; None: one mask of all regions.
        mask_threshold: of a pixel's probability.
    """

    name = "segmentation"
    head = "decode_head"
    needs_negatives = False
    unused = ("labels",)
    models = {"cogaze": CoGazeForSemanticSegmentation, "egma": EgmaForSemanticSegmentation}

    def __init__(self, labels: list[str] | None = None, mask_threshold: float = 0.5):
        self.one_for_all = labels is None
        self.mask_threshold = mask_threshold

    def positives(self, dataset: Dataset) -> tuple[list[str], np.ndarray]:
        found = region_labels(dataset)
        if self.one_for_all:
            names = label_names(dataset)
            return names if len(names) == 1 else ["lesion"], np.array([[bool(own)] for own in found])
        names = sorted(set().union(*found))
        return names, np.array([[name in own for name in names] for own in found]).reshape(len(found), len(names))

    def choose(self, names: list[str], known: list[str]) -> None:
        self.names = names
        self.regions = None if self.one_for_all else names

    def prepare(self, record: dict) -> dict:
        return record | {"masks": region_masks(record, self.regions)}

    def build(self, arguments: SegmentationArguments, processor, positives: np.ndarray):
        return build_model(self, arguments, processor, {})

    def summarise(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        predicted, mask = logits.sigmoid() > self.mask_threshold, labels > 0
        overlap, predicted, mask = (x.sum(dim=(2, 3)) for x in (predicted & mask, predicted, mask))
        return torch.stack([overlap, predicted], dim=-1), mask

    def thresholds(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {}

    def scores(self, predictions, references, thresholds=None, names=None) -> dict[str, float]:
        names = self.names if names is None else names
        columns = [self.names.index(name) for name in names]
        return dice_scores(predictions[:, columns, 0], predictions[:, columns, 1], references[:, columns], names)


def region_labels(dataset: Dataset) -> list[set[str]]:
    """The labels of each record's regions, without decoding a mask."""
    found = []
    for table in dataset.select_columns(["regions"]).with_format("arrow").iter(batch_size=1000):
        regions = table["regions"].combine_chunks()
        labels = iter(regions.flatten().field("label").to_pylist())
        found += [{next(labels) for _ in range(count or 0)} for count in pc.list_value_length(regions).to_pylist()]
    return found
