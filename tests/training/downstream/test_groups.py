"""Scores within groups of patients."""

import numpy as np
from datasets import Dataset

from training.evaluation.alignment import by_group


def test_groups_are_scored_by_themselves():
    count = 120
    targets = np.zeros((count, 2))
    targets[::2, 0] = 1
    targets[:5, 1] = 1  # too few positives to score
    scores = targets[:, :1] * np.ones(2)
    sex = np.array(["F", "M", None] * (count // 3))
    scores[sex == "M"] *= -1
    dataset = Dataset.from_dict(
        {
            "view_position": ["PA", ""] * (count // 2),
            "patient_sex": sex.tolist(),
            "patient_age": [20.0, 40.0, 59.9, 80.0, None, 61.0] * (count // 6),
            "patient_id": [f"p{row}" for row in range(count)],
        }
    )
    found = by_group(scores, targets, ["Edema", "Fracture"], dataset, rounds=20)
    assert {group: values["macro_auroc"] for group, values in found["sex"].items()} == {"F": 1, "M": 0, "unknown": 1}
    assert found["sex"]["F"] == {"images": 40, "findings": 1, "macro_auroc": 1.0, "macro_auroc_interval": (1.0, 1.0)}
    # Every second image is positive, and all of one view position are alike: nothing to tell apart.
    assert "view position" not in found
    assert sum(values["images"] for values in found["age"].values()) <= count
    assert set(found["age"]) <= {"0 to 39", "40 to 59", "60 to 79", "80 and over", "unknown"}


def test_ages_fall_into_ranges():
    count = 200
    generator = np.random.default_rng(0)
    targets = (np.arange(count)[:, None] // 8 % 2).astype(float)
    ages = [0.0, 39.9, 40.0, 60.0, 80.0, None, float("nan"), 100.0] * (count // 8)
    dataset = Dataset.from_dict(
        {
            "view_position": ["AP"] * count,
            "patient_sex": ["F"] * count,
            "patient_age": ages,
            "patient_id": [str(row // 2) for row in range(count)],
        }
    )
    found = by_group(generator.random((count, 1)), targets, ["Edema"], dataset, rounds=10)
    sizes = {group: values["images"] for group, values in found["age"].items()}
    assert sizes == {"0 to 39": 50, "40 to 59": 25, "60 to 79": 25, "80 and over": 50, "unknown": 50}
    low, high = found["sex"]["F"]["macro_auroc_interval"]
    assert low <= found["sex"]["F"]["macro_auroc"] <= high
