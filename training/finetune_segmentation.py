"""Fine-tune for masks, over several seeds, and test once.

    accelerate launch training/finetune_segmentation.py --config training/configs/segmentation/rsna.yaml
        --checkpoint outputs/pretrain-mimic --seeds 3 --output_dir outputs/finetune-rsna

Every key of the YAML file is a flag too, and so is every argument of `transformers.TrainingArguments`. Masks are the
union of a record's regions, masks or boxes; with `--labels`, one for each of these labels. The epoch is chosen on
validation images; `metrics.json` has the test's Dice, over all images and over those with a lesion, with 95 %
intervals over patients.
"""

import sys
from pathlib import Path

from transformers import TrainingArguments

if __package__ in (None, ""):  # run as a file, by `accelerate launch`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "training"

from .downstream.finetuning import run
from .downstream.tasks import SegmentationArguments, SegmentationTask
from .pretrain import EACH_EPOCH
from .runs.command_line import parse_arguments

DEFAULTS = EACH_EPOCH | {"metric_for_best_model": "eval_dice", "greater_is_better": True}


def main(argv: list[str] | None = None) -> dict:
    arguments, training = parse_arguments((SegmentationArguments, TrainingArguments), argv, __doc__, DEFAULTS)
    return run(SegmentationTask(arguments), arguments, training)


if __name__ == "__main__":
    main()
