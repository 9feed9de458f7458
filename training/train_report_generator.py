"""Train a report generator.

    accelerate launch training/train_report_generator.py --config training/configs/report/phantom.yaml

Starts from a pretraining checkpoint, or goes on from a report generator (structured reports from the free-text one).
Every key of the YAML file is a flag too, and so is every argument of `transformers.TrainingArguments`. After each epoch
reports are written for `epoch_studies` validation studies and scored; the best epoch's model is kept.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file, by `accelerate launch`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "training"

from .reports.training import train_report_generator

if __name__ == "__main__":
    train_report_generator()
