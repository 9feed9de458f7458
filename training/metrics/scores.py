"""A measured number with what it must be read beside, and the bootstrap that its interval comes from."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property

import numpy as np

UNDEFINED = "not defined on these data"
Statistics = Callable[[np.ndarray], Mapping[str, float]]


class MetricUnavailable(RuntimeError):
    """A metric cannot be computed here; the message says what is missing and where to get it."""


@dataclass
class Score:
    """One number, or the reason why there is none.

    Args:
        name: what it is called in every file; a part behind "/" is one class or group of what stands before it.
        value: None where it was not computed.
        interval: of 95 %, low and high.
        std: standard deviation over runs, where `value` is their mean.
        chance: what is reached without looking.
        baselines: by name, what simpler methods reach.
        published: what papers give: {"system", "paper", "data", "value"}.
        on: what was measured, such as "681 images".
        not_computed: the reason.
    """

    name: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    std: float | None = None
    chance: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    published: list[dict] = field(default_factory=list)
    on: str | None = None
    not_computed: str | None = None

    @property
    def beside(self) -> dict[str, float]:
        """Chance and baselines by what they are called."""
        return ({} if self.chance is None else {"chance": self.chance}) | self.baselines

    def shown(self, sign: str = "") -> str:
        """ "0.661 [0.642, 0.678] ± 0.010", without what there is not. sign: "+" shows it of positive numbers too."""
        if self.value is None:
            return f"not computed: {self.not_computed}"
        text = f"{self.value:{sign}.3f}"
        if self.interval is not None:
            text += f" [{self.interval[0]:{sign}.3f}, {self.interval[1]:{sign}.3f}]"
        return text if self.std is None else f"{text} ± {self.std:.3f}"


def to_json(scores: Iterable[Score]) -> dict[str, dict]:
    """Name -> fields that hold something: the form in which every file keeps its scores, under "scores"."""
    kept = {}
    for score in scores:
        values = {name: value for name, value in asdict(score).items() if value not in (None, {}, [])}
        if "interval" in values:
            values["interval"] = list(values["interval"])
        kept[values.pop("name")] = values
    return kept


def from_json(scores: Mapping[str, Mapping]) -> dict[str, Score]:
    """What `to_json` made.

    Raises:
        ValueError: something else; names the score.
    """
    known = {each.name for each in fields(Score)} - {"name"}
    found = {}
    for name, values in scores.items():
        if not isinstance(values, Mapping) or not known >= values.keys() or not {"value", "not_computed"} & {*values}:
            raise ValueError(f"scores: {name!r} is no score of this version; measure it again.")
        interval = values.get("interval")
        found[name] = Score(name, **{**values, "interval": interval and tuple(interval)})
    return found


def mean(values: Iterable[float]) -> float:
    """Nan of no values."""
    values = list(values)
    return float(np.mean(values)) if values else float("nan")


@dataclass
class CorpusStatistic:
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


def mean_statistic(name: str, per_report: Sequence[float]) -> CorpusStatistic:
    """The mean of one number per report."""
    per_report = np.asarray(per_report, dtype=np.float64)
    statistics = np.stack([per_report, np.ones_like(per_report)], axis=1)
    return CorpusStatistic(name, statistics, lambda totals: totals[..., 0] / np.maximum(totals[..., 1], 1))


class Bootstrap:
    """Whole groups (patients, studies) drawn with replacement, the same draws for everything that is asked.

    A statistic that compares two systems on the same rows is compared on the same draws: a paired difference.

    Args:
        groups: (N,) the group of each row.
        rounds: draws; 0 gives no intervals.
    """

    def __init__(self, groups: Sequence, rounds: int = 200, seed: int = 0):
        self.groups = np.asarray(groups)
        self.rounds = rounds
        self.seed = seed
        _, self._group_of = np.unique(self.groups, return_inverse=True)

    def _drawn_groups(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng(self.seed)
        count = int(self._group_of.max(initial=-1)) + 1
        for _ in range(self.rounds):
            yield generator.integers(count, size=count)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The rows of each draw."""
        order = np.argsort(self._group_of, kind="stable")
        members = np.split(order, np.cumsum(np.bincount(self._group_of))[:-1])
        for drawn in self._drawn_groups():
            yield np.concatenate([members[index] for index in drawn])

    @cached_property
    def weights(self) -> np.ndarray:
        """(rounds, N) how often each draw has each row."""
        counts = [np.bincount(drawn, minlength=len(drawn)) for drawn in self._drawn_groups()]
        return np.array(counts, dtype=np.float32)[:, self._group_of]

    def scores(self, statistics: Statistics, **fields) -> dict[str, Score]:
        """Several statistics at once, with intervals; one that is not finite has its reason instead of a value.

        Args:
            statistics: rows -> name -> value.
            fields: of every `Score`.
        """
        drawn: dict[str, list[float]] = {}
        for rows in self:
            for name, value in statistics(rows).items():
                drawn.setdefault(name, []).append(value)
        values = statistics(np.arange(len(self.groups)))
        return {name: _score(name, value, drawn.get(name, []), **fields) for name, value in values.items()}

    def means(self, values: Mapping[str, np.ndarray], **fields) -> dict[str, Score]:
        """`scores` of the means of (N,) arrays."""
        return self.scores(lambda rows: {name: float(own[rows].mean()) for name, own in values.items()}, **fields)

    def differences(self, statistics: Statistics, reference: str, **fields) -> dict[str, Score]:
        """`scores` of how far each statistic lies above the one called `reference`, in each draw."""

        def above(rows: np.ndarray) -> dict[str, float]:
            values = statistics(rows)
            return {name: value - values[reference] for name, value in values.items()}

        return self.scores(above, **fields)

    def corpus_score(self, statistic: CorpusStatistic, **fields) -> Score:
        """A score of all reports together."""
        drawn = statistic.combine(self.weights @ statistic.statistics) if self.rounds else []
        return _score(statistic.name, statistic.value, drawn, **fields)


def _score(name: str, value: float, drawn: Sequence[float], **fields) -> Score:
    if not np.isfinite(value):
        return Score(name, not_computed=UNDEFINED, **fields)
    drawn = np.asarray(drawn, dtype=np.float64)
    drawn = drawn[np.isfinite(drawn)]
    interval = tuple(np.percentile(drawn, [2.5, 97.5]).tolist()) if len(drawn) else None
    return Score(name, float(value), interval, **fields)
