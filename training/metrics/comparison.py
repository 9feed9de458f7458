"""Two systems on the same reports: is the difference of their scores more than chance?

Both tests work on whole groups (patients): approximate randomisation exchanges the systems' reports of a group (Noreen
1989; Riezler and Maxwell 2005), the bootstrap draws groups with replacement (Koehn, EMNLP 2004).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .scores import Bootstrap, CorpusStatistic

EXACT_GROUPS = 12  # all exchanges of so few groups are counted, 4096 at most
_CHUNK = 1024


@dataclass(frozen=True)
class Comparison:
    """One score of two systems.

    Args:
        first, second: their values. difference: second less first.
        interval: of the difference, 95 %, by the paired bootstrap.
        p_randomisation: two-sided. p_bootstrap: two-sided, twice the smaller share of draws on either side of none.
        exact: whether all exchanges were counted instead of drawn.
    """

    name: str
    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p_randomisation: float
    p_bootstrap: float
    exact: bool


def compare(
    first: CorpusStatistic, second: CorpusStatistic, groups: Sequence, rounds: int = 10_000, seed: int = 0
) -> Comparison:
    """Both tests of one score.

    Args:
        first, second: of the same reports, row by row, in the same order.
        groups: (N,) each report's patient.
        rounds: exchanges and draws.

    Raises:
        ValueError: other names, or other numbers of reports.
    """
    if first.name != second.name or first.statistics.shape != second.statistics.shape:
        raise ValueError(
            f"compare: {first.name} of {len(first.statistics)} reports and {second.name} of "
            f"{len(second.statistics)}; compare one score of the same reports."
        )
    own, other = (_by_group(each, groups) for each in (first, second))
    difference = second.value - first.value
    p_value, exact = randomisation_test(own, other, first.combine, second.combine, rounds, seed)
    drawn = _bootstrap_differences(own, other, first.combine, second.combine, rounds, seed)
    drawn = drawn[np.isfinite(drawn)]
    interval = tuple(np.percentile(drawn, [2.5, 97.5]).tolist()) if len(drawn) else (float("nan"),) * 2
    return Comparison(first.name, first.value, second.value, difference, interval, p_value, _two_sided(drawn), exact)


def _by_group(statistic: CorpusStatistic, groups: Sequence) -> np.ndarray:
    """(G, S) sums over each group, in the order of their names."""
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((place.max() + 1, statistic.statistics.shape[1]))
    np.add.at(sums, place, statistic.statistics)
    return sums


def randomisation_test(own, other, combine, combine_other, rounds: int, seed: int) -> tuple[float, bool]:
    """The two-sided p value of groups (G, S) exchanged between two systems, and whether all exchanges were counted.

    p = (r + 1) / (R + 1) of R drawn exchanges, r of which differ at least as much as the systems do; with
    `EXACT_GROUPS` groups or fewer, the share among all exchanges.
    """
    total, change = own.sum(axis=0), other - own
    observed = abs(combine_other(total + change.sum(axis=0)) - combine(total))
    tolerance = 1e-10 * max(1.0, float(observed))
    exact = len(own) <= EXACT_GROUPS
    count, reached = 0, 0
    for exchanged in _exchanges(len(own), rounds, seed):
        moved = exchanged @ change
        # An exchanged group's statistics go to the other system: what the one gains, the other loses.
        differences = np.abs(combine_other(total + change.sum(axis=0) - moved) - combine(total + moved))
        reached += int((differences >= observed - tolerance).sum())
        count += len(exchanged)
    return (reached / count, True) if exact else ((reached + 1) / (count + 1), False)


def _exchanges(groups: int, rounds: int, seed: int):
    """(n, groups) of 0 and 1, chunk by chunk: all of them, or so many drawn ones."""
    if groups <= EXACT_GROUPS:
        yield (np.arange(2**groups)[:, None] >> np.arange(groups) & 1).astype(float)
        return
    generator = np.random.default_rng(seed)
    for start in range(0, rounds, _CHUNK):
        yield generator.integers(0, 2, (min(_CHUNK, rounds - start), groups)).astype(float)


def _bootstrap_differences(own, other, combine, combine_other, rounds: int, seed: int) -> np.ndarray:
    weights = Bootstrap(np.arange(len(own)), rounds, seed).weights
    return combine_other(weights @ other) - combine(weights @ own)


def _two_sided(drawn: np.ndarray) -> float:
    """Of equal systems 1; a draw without a difference counts on both sides."""
    if not len(drawn):
        return float("nan")
    return float(min(1.0, 2 * min((drawn <= 0).mean(), (drawn >= 0).mean())))


__all__ = ["Comparison", "compare", "randomisation_test"]
