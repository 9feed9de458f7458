"""A corpus score as a function of sums over reports, and its bootstrap interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


class MetricUnavailable(RuntimeError):
    """A metric cannot be computed here; the message says what is missing and where to get it."""


@dataclass
class Score:
    """A score that depends on the reports through sums alone, so that resampling never reruns the metric.

    Args:
        statistics: (N, S) sufficient statistics, one row per report.
        combine: totals (..., S) -> score (...).
    """

    name: str
    statistics: np.ndarray
    combine: Callable[[np.ndarray], np.ndarray]

    @property
    def value(self) -> float:
        return float(self.combine(self.statistics.sum(axis=0)))


def mean_score(name: str, per_report: Sequence[float]) -> Score:
    """The mean of one number per report."""
    per_report = np.asarray(per_report, dtype=np.float64)
    statistics = np.stack([per_report, np.ones_like(per_report)], axis=1)
    return Score(name, statistics, lambda totals: totals[..., 0] / np.maximum(totals[..., 1], 1))


def bootstrap_weights(groups: Sequence, rounds: int, seed: int = 0) -> np.ndarray:
    """(rounds, N) how often each report is drawn when whole groups (patients, studies) are drawn with replacement."""
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    count = int(group_of.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    return drawn[:, group_of].astype(np.float32)


def interval(score: Score, weights: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentile of a score over `bootstrap_weights`."""
    low, high = np.nanpercentile(score.combine(weights @ score.statistics), [2.5, 97.5])
    return float(low), float(high)
