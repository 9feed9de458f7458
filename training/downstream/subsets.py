"""Parts of a data set: shares of its patients that keep the classes' shares, and which classes a part lacks."""

from collections.abc import Sequence

import numpy as np


def stratified_patients(positives: np.ndarray, patients: Sequence, fraction: float, seed: int = 0) -> np.ndarray:
    """Rows of a share of the patients, all images of each, with about that share of each class's patients.

    Classes are served from the rarest on (as in iterative stratification, Sechidis et al., ECML 2011), each with one
    patient at least as long as the share lasts; patients without any class fill up the rest.

    Args:
        positives: (N, C) bool. patients: N ids. fraction: of the patients, above 0 and up to 1. seed: of the draw.
    Returns:
        Sorted rows.
    Raises:
        ValueError: a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: {fraction} is not within (0, 1].")
    ids, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    has = np.zeros((len(ids), positives.shape[1]), bool)
    np.logical_or.at(has, patient_of, positives.astype(bool))
    available = has.sum(axis=0)
    budget = max(1, round(fraction * len(ids)))
    order = np.random.default_rng(seed).permutation(len(ids))
    chosen = np.zeros(len(ids), bool)

    def take(wanted: np.ndarray, count: int) -> None:
        free = order[(wanted & ~chosen)[order]]
        chosen[free[: max(0, min(count, budget - chosen.sum()))]] = True

    for column in np.argsort(available, kind="stable"):
        if available[column]:
            take(has[:, column], max(1, round(fraction * available[column])) - int(has[chosen, column].sum()))
    take(~has.any(axis=1), budget)
    take(np.ones(len(ids), bool), budget)
    return np.flatnonzero(chosen[patient_of])


def missing_classes(
    positives: np.ndarray, names: Sequence[str], minimum: int = 1, negatives: bool = True
) -> dict[str, str]:
    """Classes of `positives` (N, C) with fewer than `minimum` positives or, where `negatives` count, as few of those;
    name -> what there is."""
    found = {}
    for name, count in zip(names, positives.sum(axis=0).astype(int).tolist(), strict=True):
        others = len(positives) - count
        if count < minimum or (negatives and others < minimum):
            found[name] = f"{count} positives and {others} negatives"
    return found


def check_patients_apart(splits: dict[str, Sequence]) -> None:
    """
    Args:
        splits: name -> patients of its images.
    Raises:
        ValueError: a patient in two splits; names both, and one patient.
    """
    seen: dict[str, str] = {}
    for split, patients in splits.items():
        for patient in set(patients):
            if patient in seen:
                raise ValueError(f"{split}: patient {patient} is in {seen[patient]} as well; split by patient.")
        seen |= dict.fromkeys(patients, split)
