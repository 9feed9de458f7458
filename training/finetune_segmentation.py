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

if __package__ in (None, ""):  # run as a file, by `accelerate launch`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "training"

from .downstream.training import finetune_segmentation

if __name__ == "__main__":
    finetune_segmentation()
