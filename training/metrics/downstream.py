"""Scores of classifiers and of masks, on plain arrays, by the papers' definitions."""

from collections.abc import Mapping, Sequence

import numpy as np

from .alignment import auroc_per_label, best_f1_threshold, f1_at
from .scores import mean


def classification_scores(
    scores: np.ndarray,
    targets: np.ndarray,
    names: Sequence[str],
    thresholds: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """AUROC and F1 of every class that has both sides, and their macro averages.

    Args:
        scores, targets: (N, C).
        names: C classes.
        thresholds: class -> threshold of F1, chosen elsewhere, a class without one has no F1; None: the best on these
            very data, for validation.
    Returns:
        "macro_auroc", "macro_f1", and "auroc/<class>", "f1/<class>"; nan where no class can be scored.
    """
    auroc = auroc_per_label(scores, targets, names, minimum=1)
    if thresholds is None:
        thresholds = f1_thresholds(scores, targets, names)
    columns = {name: column for column, name in enumerate(names)}
    f1 = {
        name: f1_at(scores[:, columns[name]], targets[:, columns[name]], thresholds[name])
        for name in auroc
        if name in thresholds
    }
    return {
        "macro_auroc": mean(auroc.values()),
        "macro_f1": mean(f1.values()),
        **{f"auroc/{name}": value for name, value in auroc.items()},
        **{f"f1/{name}": value for name, value in f1.items()},
    }


def f1_thresholds(scores: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Class -> the threshold with the greatest F1; none for a class without positives."""
    return {
        name: best_f1_threshold(scores[:, column], targets[:, column])
        for column, name in enumerate(names)
        if targets[:, column].any()
    }


def dice_scores(overlap: np.ndarray, predicted: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Dice as BenchX counts it (Zhou et al., NeurIPS 2024), and on images with a lesion alone.

    An image's Dice is 2 overlap / (predicted + mask), 1 where both are empty.

    Args:
        overlap, predicted, mask: (N, C) numbers of pixels in both, in the prediction, and in the mask.
        names: C findings.
    Returns:
        "dice" and "dice_lesion", means over findings of "dice/<finding>" over all images and of
        "dice_lesion/<finding>" over those whose mask is not empty; nan where there are none.
    """
    total = predicted + mask
    dice = np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0)
    everywhere = {name: float(dice[:, column].mean()) for column, name in enumerate(names)}
    lesions = {
        name: float(dice[mask[:, column] > 0, column].mean())
        for column, name in enumerate(names)
        if (mask[:, column] > 0).any()
    }
    return {
        "dice": mean(everywhere.values()),
        "dice_lesion": mean(lesions.values()),
        **{f"dice/{name}": value for name, value in everywhere.items()},
        **{f"dice_lesion/{name}": value for name, value in lesions.items()},
    }
