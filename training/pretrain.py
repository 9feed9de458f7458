"""Pretrain CoGaze or EGMA: `accelerate launch training/pretrain.py --config training/configs/pretrain/phantom.yaml`.

Every key of the YAML file is a flag too, and so is every argument of `transformers.TrainingArguments`. `--output_dir`
receives the best model (least validation loss) with its processor, and `checkpoint-*` folders to resume from.
"""

from training.pretraining.training import pretrain as main

if __name__ == "__main__":
    main()
