"""The configs that come with the project."""

from pathlib import Path

import pytest
from transformers import TrainingArguments

from training import finetune_classification, finetune_segmentation, pretrain, train_report_generator
from training.downstream.tasks import ClassificationArguments, SegmentationArguments
from training.runs.command_line import mapping, parse_arguments

CONFIGS = Path(__file__).resolve().parents[3] / "training" / "configs"
PARSERS = {
    "classification": lambda flags: parse_arguments(
        (ClassificationArguments, TrainingArguments), flags, defaults=finetune_classification.DEFAULTS
    ),
    "segmentation": lambda flags: parse_arguments(
        (SegmentationArguments, TrainingArguments), flags, defaults=finetune_segmentation.DEFAULTS
    ),
    "pretrain": lambda flags: parse_arguments(
        (pretrain.PretrainArguments, TrainingArguments), flags, defaults=pretrain.EACH_EPOCH
    ),
    "report": lambda flags: train_report_generator.parse([*flags, "--init_from", "checkpoint"]),
}
FILES = [f"{room}/{path.stem}" for room in PARSERS for path in sorted((CONFIGS / room).glob("*.yaml"))]


@pytest.mark.parametrize("name", FILES)
def test_its_script_reads_it(name, tmp_path):
    flags = ["--config", str(CONFIGS / f"{name}.yaml"), "--use_cpu", "True", "--bf16", "False"]
    arguments, *_, training = PARSERS[name.partition("/")[0]]([*flags, "--output_dir", str(tmp_path)])
    for split in ("train", "validation", "test"):
        data = mapping(getattr(arguments, f"{split}_data", None), split)
        assert not data or data["name"]
    assert training.learning_rate > 0 and training.num_train_epochs > 0
