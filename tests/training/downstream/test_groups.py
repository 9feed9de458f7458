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
    name = "zero_shot_macro_auroc"
    values = {own: score.value for own, score in found.items() if "/sex/" in own}
    assert values == {f"{name}/sex/F": 1, f"{name}/sex/M": 0, f"{name}/sex/unknown": 1}
    score = found[f"{name}/sex/F"]
    assert (score.on, score.value, score.interval) == ("40 images, 1 findings", 1.0, (1.0, 1.0))
    # Every second image is positive, and all of one view position are alike: nothing to tell apart.
    assert not any("view position" in own for own in found)
    ages = {own.rpartition("/")[2] for own in found if "/age/" in own}
    assert ages <= {"0 to 39", "40 to 59", "60 to 79", "80 and over", "unknown"}


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
    sizes = {own.rpartition("/")[2]: int(score.on.split()[0]) for own, score in found.items() if "/age/" in own}
    assert sizes == {"0 to 39": 50, "40 to 59": 25, "60 to 79": 25, "80 and over": 50, "unknown": 50}
    score = found["zero_shot_macro_auroc/sex/F"]
    assert score.interval[0] <= score.value <= score.interval[1]
