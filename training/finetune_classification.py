"""Fine-tune for classes, over several seeds, and test once.

    accelerate launch training/finetune_classification.py --config training/configs/classification/nih.yaml
        --checkpoint outputs/pretrain-mimic --label_fraction 0.1 --seeds 3 --output_dir outputs/finetune-nih

Every key of the YAML file is a flag too, and so is every argument of `transformers.TrainingArguments`. Epoch and
thresholds of F1 are chosen on validation images; `metrics.json` has the test's AUROC and F1, 95 % intervals over
patients, and mean and standard deviation over the seeds.
"""

from training.downstream.training import finetune_classification as main

if __name__ == "__main__":
    main()
