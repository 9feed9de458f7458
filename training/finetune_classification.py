"""Fine-tune for classes, over several seeds, and test once.

    accelerate launch training/finetune_classification.py --config training/configs/classification/nih.yaml
        --checkpoint outputs/pretrain-mimic --label_fraction 0.1 --seeds 3 --output_dir outputs/finetune-nih

Every key of the YAML file is a flag too, and so is every argument of `transformers.TrainingArguments`. Epoch and
thresholds of F1 are chosen on validation images; `metrics.json` has the test's AUROC and F1, 95 % intervals over
patients, and mean and standard deviation over the seeds.
"""

import sys
from pathlib import Path

from transformers import TrainingArguments

if __package__ in (None, ""):  # run as a file, by `accelerate launch`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "training"

from .downstream.finetuning import run
from .downstream.tasks import ClassificationArguments, ClassificationTask
from .pretrain import EACH_EPOCH
from .runs.command_line import parse_arguments

DEFAULTS = EACH_EPOCH | {"metric_for_best_model": "eval_macro_auroc", "greater_is_better": True}


def main(argv: list[str] | None = None) -> dict:
    arguments, training = parse_arguments((ClassificationArguments, TrainingArguments), argv, __doc__, DEFAULTS)
    if arguments.init_from_disease_head and (arguments.checkpoint is None or arguments.from_scratch):
        raise ValueError("init_from_disease_head: give the checkpoint that has it, without --from_scratch.")
    if arguments.timm_model and (not arguments.from_scratch or arguments.linear_probe):
        raise ValueError("timm_model: its weights are random; give --from_scratch, and no --linear_probe.")
    return run(ClassificationTask(arguments), arguments, training)


if __name__ == "__main__":
    main()
