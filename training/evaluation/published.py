"""Scores as their papers give them (training/configs/evaluation/published.yaml); none was measured by this project."""

from functools import cache

import yaml

from ..runs.files import CONFIGS

PUBLISHED = CONFIGS / "evaluation" / "published.yaml"


@cache
def _published() -> dict:
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def published_scores(names: set[str]) -> dict[str, dict[str, float]]:
    """System -> row -> score, for the systems that have a score in any of the rows `names` of generated reports."""
    systems: dict[str, dict[str, float]] = {}
    for kind in ("free_text", "structured"):
        for system, scores in _published()["reports"][kind].items():
            if kept := {name: value for name, value in scores.items() if name in names}:
                systems.setdefault(system, {}).update(kept)
    return systems


def report_note() -> str:
    """What `published_scores` were measured on."""
    return _published()["reports"]["note"]


def published(name: str, data: str | None = None) -> list[dict]:
    """What papers give for a score of this name: {"system", "paper", "data", "value"}, where it differs with "of".

    Only those on the data set called `data` in `processing.datasets`, if there are any; else all.
    """
    found = _of_reports(name)
    for row in _published()["measures"].get(name, []):
        for own, value in row["values"].items():
            entry = {"system": row["system"], "paper": _published()["papers"][row["paper"]], "data": own}
            of = value if isinstance(value, dict) else {None: value}
            found += [entry | {"value": number} | ({"of": what} if what else {}) for what, number in of.items()]
    return [entry for entry in found if entry["data"] == data] or found


def _of_reports(name: str) -> list[dict]:
    reports = _published()["reports"]
    return [
        {"system": system, "paper": _published()["papers"]["CoGaze"], "data": data, "value": scores[name]}
        for kind, data in (("free_text", "mimic_cxr"), ("structured", "srrg"))
        for system, scores in reports[kind].items()
        if name in scores
    ]
