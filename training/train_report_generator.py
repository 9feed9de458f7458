"""Train a report generator.

    accelerate launch training/train_report_generator.py --config training/configs/report/phantom.yaml

Starts from a pretraining checkpoint, or goes on from a report generator (structured reports from the free-text one).
Every key of the YAML file is a flag too, and so is every argument of `transformers.TrainingArguments`. After each epoch
reports are written for `epoch_studies` validation studies and scored; the best epoch's model is kept.
"""

from training.reports.training import train_report_generator as main

if __name__ == "__main__":
    main()
