"""Precision, recall and F1 of label sets, in sums over reports."""

from collections.abc import Sequence

import numpy as np

from ..scores import CorpusStatistic


def label_scores(
    prefix: str, reference: np.ndarray, predicted: np.ndarray, averages: Sequence[str] = ("micro", "macro")
) -> list[CorpusStatistic]:
    """Precision, recall and F1 over all labels, named "{prefix} {average} {measure}".

    Micro counts all labels together; macro is the mean over labels, weighted the mean by the label's positives in the
    reference. What has no positives to divide by counts as 0 (scikit-learn's `zero_division=0`).

    Args:
        reference, predicted: (N, C) 0/1.
    """
    reference, predicted = np.asarray(reference, dtype=bool), np.asarray(predicted, dtype=bool)
    statistics = np.concatenate([reference & predicted, reference, predicted], axis=1).astype(np.float64)
    return [
        CorpusStatistic(f"{prefix} {average} {measure}", statistics, lambda t, a=average, m=measure: _average(t, a, m))
        for average in averages
        for measure in ("precision", "recall", "F1")
    ]


def label_score_names(prefix: str, averages: Sequence[str] = ("micro", "macro")) -> tuple[str, ...]:
    """The names of what `label_scores` gives."""
    return tuple(f"{prefix} {average} {measure}" for average in averages for measure in ("precision", "recall", "F1"))


def _average(totals: np.ndarray, average: str, measure: str) -> np.ndarray:
    """Totals (..., 3 C) of labels found in both, in the reference, in the prediction."""
    both, reference, predicted = np.split(totals, 3, axis=-1)
    if average == "micro":
        both, reference, predicted = (part.sum(axis=-1, keepdims=True) for part in (both, reference, predicted))
    divisor = {"precision": predicted, "recall": reference, "F1": (reference + predicted) / 2}[measure]
    scores = np.where(divisor > 0, both / np.maximum(divisor, 1e-12), 0)
    if average == "weighted":
        return (scores * reference).sum(axis=-1) / np.maximum(reference.sum(axis=-1), 1e-12)
    return scores.mean(axis=-1)
