"""Scores of image-text alignment and of gaze agreement, on plain arrays."""

from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln, rel_entr
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score


def retrieval_hits(
    similarity: np.ndarray, relevant: np.ndarray, precision_at=(1, 5, 10), hit_rate_at=(5, 10)
) -> dict[str, np.ndarray]:
    """What the means of `retrieval_scores` are taken over: "p@k" and "r@k" of each query with a relevant item."""
    has_relevant = relevant.any(axis=1)
    similarity, relevant = similarity[has_relevant], relevant[has_relevant]
    ranked = np.take_along_axis(relevant, np.argsort(-similarity, axis=1, kind="stable"), axis=1)
    return {f"p@{k}": ranked[:, :k].mean(axis=1) for k in precision_at} | {
        f"r@{k}": ranked[:, :k].any(axis=1) for k in hit_rate_at
    }


def retrieval_scores(
    similarity: np.ndarray, relevant: np.ndarray, precision_at=(1, 5, 10), hit_rate_at=(5, 10)
) -> dict:
    """P@k and R@k with the level that a random order reaches.

    P@k is the share of relevant items in the top k, R@k the share of queries with at least one relevant item there
    (a hit rate, as in the CoGaze paper). Queries without any relevant item are left out.

    Args:
        similarity: (Q, G) score of each gallery item for each query.
        relevant: (Q, G) bool.
    """
    counts = relevant.sum(axis=1)
    counts = counts[counts > 0]
    queries, gallery = len(counts), similarity.shape[1]
    scores = {"queries": queries, "gallery": gallery}
    if not queries:
        return scores
    hits = retrieval_hits(similarity, relevant, precision_at, hit_rate_at)
    for k in precision_at:
        scores[f"p@{k}"] = float(hits[f"p@{k}"].mean())
        scores[f"p@{k}_chance"] = float(counts.mean() / gallery)
    for k in hit_rate_at:
        scores[f"r@{k}"] = float(hits[f"r@{k}"].mean())
        scores[f"r@{k}_chance"] = float(_chance_of_a_hit(counts, gallery, k).mean())
    return scores


def _chance_of_a_hit(counts: np.ndarray, gallery: int, k: int) -> np.ndarray:
    """1 - C(gallery - count, k) / C(gallery, k): a hit among k drawn without replacement."""
    rest = gallery - counts
    logs = gammaln(rest + 1) - gammaln(np.maximum(rest - k, 0) + 1) - gammaln(gallery + 1) + gammaln(gallery - k + 1)
    return np.where(rest < k, 1.0, 1 - np.exp(logs))


def auroc_per_label(
    scores: np.ndarray, targets: np.ndarray, names: Sequence[str], minimum: int = 10
) -> dict[str, float]:
    """AUROC of every label with at least `minimum` positives and as many negatives; scores and targets are (N, C)."""
    result = {}
    for column, name in enumerate(names):
        positives = int(targets[:, column].sum())
        if min(positives, len(targets) - positives) >= minimum:
            result[name] = float(roc_auc_score(targets[:, column], scores[:, column]))
    return result


def best_f1_threshold(scores: np.ndarray, targets: np.ndarray) -> float:
    """The threshold with the greatest F1; scores and targets are (N,)."""
    precision, recall, thresholds = precision_recall_curve(targets, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[min(int(np.argmax(f1)), len(thresholds) - 1)])


def f1_at(scores: np.ndarray, targets: np.ndarray, threshold: float) -> float:
    return float(f1_score(targets, scores >= threshold, zero_division=0))


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in nats (0 to ln 2) of the rows of two (N, P) arrays of distributions."""
    middle = (p + q) / 2
    return (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / 2


def gaze_pointing_game(predicted: np.ndarray, recorded: np.ndarray, area: float = 0.25) -> np.ndarray:
    """(N,) bool: the predicted peak lies within the `area` share of patches that was looked at most; chance is `area`.

    predicted, recorded: (N, P).
    """
    kept = max(1, int(np.floor(area * recorded.shape[1])))
    peak = np.argmax(predicted, axis=1)[:, None]
    at_peak = np.take_along_axis(recorded, peak, axis=1)
    threshold = -np.sort(-recorded, axis=1)[:, kept - 1 : kept]
    return ((at_peak >= threshold) & (at_peak > 0))[:, 0]


def phrase_grounding(predicted: np.ndarray, coverage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pointing game and contrast-to-noise ratio of maps against lesion masks.

    A peak counts when its patch touches the mask. CNR = |mean inside - mean outside| / sqrt(var inside + var outside)
    (Boecking et al., ECCV 2022), signed here so that a map that avoids the lesion scores below zero.

    Args:
        predicted: (N, P).
        coverage: (N, P) share of each patch that the mask covers, with some coverage in every row.
    Returns:
        (N,) bool and (N,) float.
    """
    hits = np.take_along_axis(coverage, np.argmax(predicted, axis=1)[:, None], axis=1)[:, 0] > 0

    def moments(weights):
        total = np.maximum(weights.sum(axis=1), 1e-12)
        mean = (weights * predicted).sum(axis=1) / total
        return mean, (weights * (predicted - mean[:, None]) ** 2).sum(axis=1) / total

    inside, inside_var = moments(coverage)
    outside, outside_var = moments(1 - coverage)
    return hits, (inside - outside) / np.sqrt(np.maximum(inside_var + outside_var, 1e-20))
