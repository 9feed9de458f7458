"""Two systems' reports of the same studies, compared score by score."""

from collections.abc import Sequence
from pathlib import Path

from ..comparison import Comparison, compare
from ..scores import MetricUnavailable
from . import FAMILIES, MetricOptions, ReportPairs, prepare_references


def same_reports(first: ReportPairs, second: ReportPairs, paths: Sequence[str | Path]) -> ReportPairs:
    """The second system's reports in the order of the first one's.

    Raises:
        ValueError: a report that only one of them has, or another reference or patient for it; names the id.
    """
    place = {name: row for row, name in enumerate(second.ids)}
    alone = sorted({*first.ids} ^ {*second.ids})
    if alone:
        where = paths[0] if alone[0] in first.ids else paths[1]
        raise ValueError(f"compare: {alone[0]!r} is in {where} alone ({len(alone)} such); compare the same reports.")
    rows = [place[name] for name in first.ids]
    for name, row, reference, group in zip(first.ids, rows, first.references, first.groups, strict=True):
        if second.references[row] != reference or second.groups[row] != group:
            raise ValueError(f"compare: {name!r} has another reference or {first.grouped_by} in {paths[1]}.")
    return ReportPairs(
        first.ids,
        first.references,
        [second.predictions[row] for row in rows],
        first.groups,
        first.grouped_by,
        first.labels,
    )


def compare_reports(
    first: ReportPairs,
    second: ReportPairs,
    families: Sequence[str],
    options: MetricOptions,
    rounds: int = 10_000,
    seed: int = 0,
) -> tuple[list[Comparison], dict[str, str]]:
    """Both paired tests of every score, and the reasons of those that cannot be computed.

    Args:
        first, second: as `same_reports` pairs them.
    """
    found, missing = [], {}
    cut, _ = prepare_references(first, families, options)
    for name in families:
        family = FAMILIES[name]
        own = cut if family.cut_references else first
        other = own.with_predictions(second.predictions)
        try:
            statistics = family.compute(own, options), family.compute(other, options)
        except MetricUnavailable as error:
            missing |= dict.fromkeys(family.names, str(error))
        else:
            found += [compare(*pair, first.groups, rounds, seed) for pair in zip(*statistics, strict=True)]
    return found, missing


__all__ = ["compare_reports", "same_reports"]
