"""What is known without looking: of an image, its view position, and age and sex."""

import numpy as np
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from processing.datasets.records import label_names, label_targets

from ..data.loading import load_data


def demographics_of(settings: dict, names: list[str]) -> np.ndarray:
    """(N, C) probabilities of the labels `names` on the test images of a fine-tuning of these settings."""
    train, test = (load_data(settings[f"{split}_data"], f"{split}_data") for split in ("train", "test"))
    columns = [label_names(train).index(name) for name in names]
    return demographics_scores(train, label_targets(train["labels"][:])[:, columns], test)


def demographics_scores(train: Dataset, targets: np.ndarray, test: Dataset) -> np.ndarray:
    """(N, C) probabilities of `test` by logistic regressions on view position, age and sex, fitted on all of `train`.

    An unknown age is the mean one.
    """
    views = sorted(set(train["view_position"]))
    ages = np.array([np.nan if age is None else age for age in train["patient_age"]], float)
    mean = np.nanmean(ages) if np.isfinite(ages).any() else 0.0

    def features(dataset: Dataset) -> np.ndarray:
        age = np.array([mean if a is None or not np.isfinite(a) else a for a in dataset["patient_age"]], float)
        view = np.array(dataset["view_position"])[:, None] == np.array(views)
        sex = np.array([s or "" for s in dataset["patient_sex"]])[:, None] == np.array(["F", "M"])
        return np.column_stack([age, view, sex])

    fitted = [
        make_pipeline(StandardScaler(), LogisticRegression()).fit(features(train), wanted) for wanted in targets.T
    ]
    return np.column_stack([model.predict_proba(features(test))[:, 1] for model in fitted])
