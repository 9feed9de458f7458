"""Pretrain CoGaze or EGMA: `accelerate launch training/pretrain.py --config training/configs/pretrain/phantom.yaml`.

Every key of the YAML file is a flag too, and so is every argument of `transformers.TrainingArguments`. `--output_dir`
receives the best model (least validation loss) with its processor, and `checkpoint-*` folders to resume from.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file, by `accelerate launch`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "training"

from .pretraining.training import pretrain

if __name__ == "__main__":
    pretrain()
