"""Fine-tuning for classes and masks: data, tasks, subsets, classifiers."""
