"""What written reports are rewarded for: named functions (completions, records) -> one number or None per completion.

None leaves a completion out of that reward alone: its record has not what the reward needs.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from processing.comparisons import comparisons
from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.records import CHEXBERT_OBSERVATIONS, label_targets
from processing.reports import plain_findings, split_sentences, structured_validity

from ..metrics.reports import FAMILIES, MetricOptions, ReportPairs
from ..metrics.scores import MetricUnavailable

Reward = Callable[[Sequence[str], Sequence[dict]], list[float | None]]

_OBSERVED = [place for place, name in enumerate(CHEXBERT_OBSERVATIONS) if name != "No Finding"]
_NGRAM = 3
_LESS_IS_BETTER = "(less is better)"  # how a metric's name ends that falls where reports get better


def phantom_label_reward(completions: Sequence[str], records: Sequence[dict]) -> list[float | None]:
    """F1 of the findings that the phantom's labeler reads out of a report against the study's own, No Finding apart.

    A report without findings of a study without any has 1. None where the record has no labels.
    """
    return [
        _label_f1(text, record["labels"]) if record.get("labels") else None
        for text, record in zip(completions, records, strict=True)
    ]


def _label_f1(text: str, labels: Sequence[int]) -> float:
    codes = np.array([phantom_labels(plain_findings(text)), labels])
    written, true = label_targets(codes)[:, _OBSERVED].astype(bool)
    total = written.sum() + true.sum()
    return float(2 * (written & true).sum() / total) if total else 1.0


def structure_reward(completions: Sequence[str], records: Sequence[dict]) -> list[float | None]:
    """The share of a structured report's lines that follow SRRG's template: `structured_validity`."""
    return [structured_validity(text) for text in completions]


def length_reward(completions: Sequence[str], records: Sequence[dict]) -> list[float | None]:
    """1 - |n - m| / m for n words of a report and m of its reference, at least 0; None without a reference."""
    references = [(record.get("findings") or "").split() for record in records]
    counts = [(len(text.split()), len(reference)) for text, reference in zip(completions, references, strict=True)]
    return [max(0.0, 1 - abs(n - m) / m) if m else None for n, m in counts]


def repetition_reward(completions: Sequence[str], records: Sequence[dict]) -> list[float | None]:
    """The share of a report's three-word sequences that it says for the first time; 1 for a report of fewer words."""
    return [1 - repetition(text) for text in completions]


def repetition(text: str) -> float:
    """The share of a text's three-word sequences that stood in it before."""
    words = text.lower().split()
    sequences = [tuple(words[place : place + _NGRAM]) for place in range(len(words) - _NGRAM + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def comparison_reward(completions: Sequence[str], records: Sequence[dict]) -> list[float | None]:
    """The share of a report's sentences that compare with no earlier study; None where the record has one."""
    return [
        None if _has_prior(record) else 1 - len(comparisons(text)) / max(1, len(split_sentences(text)))
        for text, record in zip(completions, records, strict=True)
    ]


def _has_prior(record: dict) -> bool:
    return any(companion["role"] == "prior" for companion in record.get("companions") or [])


def metric_reward(
    name: str, options: MetricOptions, completions: Sequence[str], records: Sequence[dict]
) -> list[float | None]:
    """A score of `cogaze evaluate_reports`, of each report by itself; negated where less is better.

    Raises:
        MetricUnavailable: what it needs is not there.
    """
    wanted = [place for place, record in enumerate(records) if record.get("findings")]
    rewards: list[float | None] = [None] * len(completions)
    if not wanted:
        return rewards
    pairs = ReportPairs.from_lists([records[p]["findings"] for p in wanted], [completions[p] for p in wanted])
    family = next(family for family in FAMILIES.values() if name in family.names)
    statistic = next(each for each in family.compute(pairs, options) if each.name == name)
    for place, value in zip(wanted, statistic.combine(statistic.statistics), strict=True):
        rewards[place] = sign_of(name) * float(value)
    return rewards


def sign_of(metric: str) -> int:
    """1, or -1 for a metric of which less is better."""
    return -1 if metric.endswith(_LESS_IS_BETTER) else 1


REWARDS: dict[str, Reward] = {
    "phantom_labels": phantom_label_reward,
    "structure": structure_reward,
    "length": length_reward,
    "repetition": repetition_reward,
    "comparison": comparison_reward,
}
METRICS = tuple(name for family in FAMILIES.values() for name in family.names if name != "Structure validity")


def reward_named(name: str, options: MetricOptions | None = None) -> Reward:
    """A reward of `REWARDS`, or any single score of `cogaze evaluate_reports`, such as "F1-RadGraph partial".

    Raises:
        ValueError: there is none of that name; a metric whose model or package is missing, with the reason.
    """
    if name in REWARDS:
        return REWARDS[name]
    if name not in METRICS:
        raise ValueError(f"rewards: {name!r} is none of {', '.join([*REWARDS, 'gaze', *METRICS])}.")
    reward = partial(metric_reward, name, options or MetricOptions())
    text = "No pleural effusion or pneumothorax."
    try:
        reward([text], [{"findings": text}])
    except MetricUnavailable as error:
        raise ValueError(f"rewards: {name} cannot be computed: {error}") from error
    return reward


def checked(name: str, reward: Reward, completions: Sequence[str], records: Sequence[dict]) -> list[float | None]:
    """What a reward gives.

    Raises:
        ValueError: not one number or None per completion, or one that is not finite; names reward and sample.
    """
    values = list(reward(completions, records))
    if len(values) != len(completions):
        raise ValueError(f"rewards: {name} gave {len(values)} values for {len(completions)} reports; one for each.")
    for place, value in enumerate(values):
        if value is not None and not (isinstance(value, int | float | np.number) and math.isfinite(value)):
            image = records[place].get("image_id", place)
            raise ValueError(f"rewards: {name} gave {value!r} for the report of image {image!r}, which is no number.")
    return values


def weighted(rewards: dict[str, list[float | None]], weights: dict[str, float]) -> list[float | None]:
    """The sum of what is there, by its weight; None where no reward applies."""
    sums = []
    for values in zip(*rewards.values(), strict=True):
        there = [weights[name] * value for name, value in zip(rewards, values, strict=True) if value is not None]
        sums.append(sum(there) if there else None)
    return sums
