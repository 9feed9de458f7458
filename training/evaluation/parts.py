"""The parts of an evaluation, and which checkpoints have them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .boxes import measure_boxes
from .encoders import measure_alignment, measure_classes
from .evaluation import Evaluation
from .heads import measure_classification, measure_disease_head, measure_reports, measure_segmentation
from .shortcuts import measure_shortcuts

# By the end of the architecture's name.
DUAL_ENCODERS = ("ForPreTraining", "Model", "ForZeroShotImageClassification")
HEADS = ("ForImageClassification", "ForSemanticSegmentation", "ForConditionalGeneration")
KNOWN = (*DUAL_ENCODERS, *HEADS)


@dataclass
class Part:
    """What is measured together.

    Args:
        of: ends of the names of architectures that have it.
        reads: fields of an `Evaluation` beside the data.
        lacking: why others have none.
        usual: measured unless only others are asked for.
    """

    measure: Callable[[Evaluation], None]
    of: tuple[str, ...]
    reads: tuple[str, ...] = ()
    lacking: str = "the checkpoint has no such head: fine-tune it"
    usual: bool = True


_ENCODER = "fine-tuned for something else: evaluate the checkpoint that it started from"
PARTS = {
    "alignment": Part(measure_alignment, DUAL_ENCODERS, ("validation", "train", "gallery"), _ENCODER),
    "boxes": Part(measure_boxes, DUAL_ENCODERS, ("train",), _ENCODER),
    "classes": Part(measure_classes, DUAL_ENCODERS, ("gallery",), _ENCODER),
    "disease_head": Part(measure_disease_head, DUAL_ENCODERS, ("validation",), _ENCODER),
    "classification": Part(measure_classification, HEADS[:1], ("validation",)),
    "segmentation": Part(measure_segmentation, HEADS[1:2]),
    "reports": Part(measure_reports, HEADS[2:]),
    "shortcuts": Part(measure_shortcuts, KNOWN, ("train",), usual=False),
}


def chosen_parts(only: Sequence[str] | None = None) -> list[str]:
    """Names of parts.

    Raises:
        ValueError: one that there is not.
    """
    unknown = [name for name in only or () if name not in PARTS]
    if unknown:
        raise ValueError(f"only: {unknown[0]!r} is none of {', '.join(PARTS)}.")
    return list(only or (name for name, part in PARTS.items() if part.usual))


def reads(architecture: str, names: Sequence[str]) -> set[str]:
    """The fields of an `Evaluation` that these parts need of such a checkpoint."""
    return {each for name in names if architecture.endswith(PARTS[name].of) for each in PARTS[name].reads}


def measure(evaluation: Evaluation, architecture: str, names: Sequence[str]) -> None:
    """Fill `evaluation` with the scores of these parts, or the reasons why there are none."""
    for name in names:
        if architecture.endswith(PARTS[name].of):
            PARTS[name].measure(evaluation)
        else:
            evaluation.leave_out(PARTS[name].lacking, name)
