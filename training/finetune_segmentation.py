"""Fine-tune for masks, over several seeds, and test once.

    accelerate launch training/finetune_segmentation.py --config training/configs/segmentation/rsna.yaml
        --checkpoint outputs/pretrain-mimic --seeds 3 --output_dir outputs/finetune-rsna

Every key of the YAML file is a flag too, and so is every argument of `transformers.TrainingArguments`. Masks are the
union of a record's regions, masks or boxes; with `--labels`, one for each of these labels. The epoch is chosen on
validation images; `metrics.json` has the test's Dice, over all images and over those with a lesion, with 95 %
intervals over patients.
"""

from training.downstream.training import finetune_segmentation as main

if __name__ == "__main__":
    main()
