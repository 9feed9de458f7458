"""Fine-tuning for classes and for masks, from flags to a test."""

from transformers import TrainingArguments

from ..runs.command_line import parse_arguments
from ..runs.settings import EACH_EPOCH
from .finetuning import run
from .tasks import ClassificationArguments, ClassificationTask, SegmentationArguments, SegmentationTask

CLASSIFICATION_DEFAULTS = EACH_EPOCH | {"metric_for_best_model": "eval_macro_auroc", "greater_is_better": True}


def finetune_classification(argv: list[str] | None = None) -> dict:
    arguments, training = parse_arguments(
        (ClassificationArguments, TrainingArguments), argv, finetune_classification.__doc__, CLASSIFICATION_DEFAULTS
    )
    if arguments.init_from_disease_head and (arguments.checkpoint is None or arguments.from_scratch):
        raise ValueError("init_from_disease_head: give the checkpoint that has it, without --from_scratch.")
    if arguments.timm_model and (not arguments.from_scratch or arguments.linear_probe):
        raise ValueError("timm_model: its weights are random; give --from_scratch, and no --linear_probe.")
    return run(ClassificationTask(), arguments, training)


SEGMENTATION_DEFAULTS = EACH_EPOCH | {"metric_for_best_model": "eval_dice", "greater_is_better": True}


def finetune_segmentation(argv: list[str] | None = None) -> dict:
    arguments, training = parse_arguments(
        (SegmentationArguments, TrainingArguments), argv, finetune_segmentation.__doc__, SEGMENTATION_DEFAULTS
    )
    return run(SegmentationTask(arguments.labels, arguments.mask_threshold), arguments, training)
