"""The configs that come with the project."""

from pathlib import Path

import pytest
from transformers import TrainingArguments

from training.downstream.tasks import ClassificationArguments, SegmentationArguments
from training.downstream.training import CLASSIFICATION_DEFAULTS, SEGMENTATION_DEFAULTS
from training.pretraining.training import PretrainArguments
from training.reports import training as report_training
from training.runs.command_line import mappings, parse_arguments
from training.runs.settings import EACH_EPOCH

CONFIGS = Path(__file__).resolve().parents[3] / "training" / "configs"
PARSERS = {
    "classification": lambda flags: parse_arguments(
        (ClassificationArguments, TrainingArguments), flags, defaults=CLASSIFICATION_DEFAULTS
    ),
    "segmentation": lambda flags: parse_arguments(
        (SegmentationArguments, TrainingArguments), flags, defaults=SEGMENTATION_DEFAULTS
    ),
    "pretrain": lambda flags: parse_arguments((PretrainArguments, TrainingArguments), flags, defaults=EACH_EPOCH),
    "report": lambda flags: report_training.parse([*flags, "--checkpoint", "checkpoint"]),
}
FILES = [f"{room}/{path.stem}" for room in PARSERS for path in sorted((CONFIGS / room).glob("*.yaml"))]


@pytest.mark.parametrize("name", FILES)
def test_its_script_reads_it(name, tmp_path):
    flags = ["--config", str(CONFIGS / f"{name}.yaml"), "--use_cpu", "True", "--bf16", "False"]
    arguments, *_, training = PARSERS[name.partition("/")[0]]([*flags, "--output_dir", str(tmp_path)])
    for split in ("train", "validation", "test"):
        for data in mappings(getattr(arguments, f"{split}_data", None), split):
            assert not data or data["name"]
    assert training.learning_rate > 0 and training.num_train_epochs > 0
