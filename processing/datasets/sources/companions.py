"""Companions of an image: the other images of its study, and one of the patient's study before."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
from datasets import Dataset

from ..records import facts_of, record_features

FRONTAL = ("PA", "AP")
MAX_COMPANIONS = 3


def chosen_companions(
    study: Sequence[Mapping],
    earlier: Sequence[Mapping] = (),
    days: float | None = None,
    views: bool = True,
    most: int = MAX_COMPANIONS,
) -> list[list[dict]]:
    """For each image of a study its companions as records hold them: views before the prior, `most` at most.

    The prior takes the last place where there are more views: it is never the one left out.

    Args:
        study: records of the study's images, with image_id, image and view_position.
        earlier: those of the study before, of which the first frontal one is taken, else the first.
        days: between the two; None where unknown.
    """
    priors = sorted(earlier, key=lambda record: record["view_position"] not in FRONTAL)[:1]
    priors = [_companion("prior", record, days) for record in priors]
    found = []
    for record in study:
        others = [other for other in study if views and other is not record]
        others = [_companion("view", other, 0.0) for other in others]
        found.append([*others[: most - len(priors)], *priors])
    return found


def _companion(role: str, record: Mapping, days: float | None) -> dict:
    return {"role": role, **{name: record[name] for name in ("image_id", "image", "view_position")}, "days": days}


def with_companions(dataset: Dataset, priors: bool = False, views: bool = False, most: int = MAX_COMPANIONS) -> Dataset:
    """The records with their companions and `prior_findings`, found among the records of the same data set.

    A patient's studies are ordered by `study_date`; those of one date, or without any, stand in the records' order,
    which sources that number their studies keep.

    Args:
        dataset: of one split, so that no prior comes from another.
        most: companions of an image, at most.

    Raises:
        ValueError: priors of a source that tells neither dates nor an order; `most` below 1.
    """
    if most < 1:
        raise ValueError(f"max_companions: {most}; give 1 or more.")
    names = ["image_id", "image", "study_id", "patient_id", "view_position", "study_date", "findings"]
    table: Any = dataset.with_format("arrow").select_columns(names)[:]
    records = table.to_pylist()
    if priors and not (facts_of(dataset).get("studies_ordered") or any(record["study_date"] for record in records)):
        raise ValueError(
            f"priors: {facts_of(dataset).get('source', 'this data set')} tells neither dates nor an order of a "
            "patient's studies; leave priors out."
        )
    studies: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        studies[record["patient_id"], record["study_id"]].append(place)
    before = _studies_before(studies, records) if priors else {}
    companions: list[list[dict]] = [[] for _ in records]
    texts = [""] * len(records)
    for key, places in studies.items():
        own, earlier = [records[place] for place in places], [records[place] for place in before.get(key, ())]
        days = days_between(earlier[0]["study_date"], own[0]["study_date"]) if earlier else None
        for place, found in zip(places, chosen_companions(own, earlier, days, views, most), strict=True):
            companions[place] = found
            if earlier:
                texts[place] = next((record["findings"] for record in earlier if record["findings"]), "")
    features = record_features()
    kept = dataset.remove_columns([name for name in ("companions", "prior_findings") if name in dataset.column_names])
    for name, column in (("companions", companions), ("prior_findings", texts)):
        feature = features[name]
        column = pa.array(column, type=pa.schema(features.arrow_schema).field(name).type)
        kept = kept.add_column(name, column, feature=feature)
    kept = kept.select_columns([name for name in features if name in kept.column_names])
    kept.info.description = dataset.info.description
    return kept


def _studies_before(studies: Mapping, records: Sequence[Mapping]) -> dict[tuple[str, str], list[int]]:
    """(patient, study) -> places of the patient's study before."""
    dates = {key: min(records[place]["study_date"] or "" for place in places) for key, places in studies.items()}
    of_patient = defaultdict(list)
    for key in sorted(studies, key=dates.__getitem__):
        if key[0]:
            of_patient[key[0]].append(key)
    return {
        later: studies[earlier] for keys in of_patient.values() for earlier, later in zip(keys, keys[1:], strict=False)
    }


def days_between(earlier: str | None, later: str | None) -> float | None:
    """Between two ISO dates; None where one is unknown."""
    if not earlier or not later:
        return None
    return float((date.fromisoformat(later) - date.fromisoformat(earlier)).days)
