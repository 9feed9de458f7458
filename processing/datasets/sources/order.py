"""Dates of studies, and the order of a patient's studies."""

import re
from datetime import date


def iso_date(text) -> str | None:
    """ "2014-09-15" from "20140915", "20140915.0" or "2014-09-15"; None for what is no date, or stands for none (1901,
    in anonymised DICOMs)."""
    found = re.match(r"(\d{4})-?(\d{2})-?(\d{2})(?!\d)", str(text).strip())
    if not found:
        return None
    try:
        day = date(*map(int, found.groups()))
    except ValueError:
        return None
    return day.isoformat() if day.year > 1901 else None


def oldest_first(items: list[dict]) -> list[dict]:
    """The items patient by patient as the patients first appear, each patient's from the oldest study to the newest.

    An item's "study_order" tells (a number, or text that sorts), or its "study_date"; items of one study stay together
    and those that tell nothing come first, in their order.
    """
    first = {}
    for place, item in enumerate(items):
        first.setdefault(item["patient_id"], place)

    def key(item):
        told = item.get("study_order", item.get("study_date"))
        return first[item["patient_id"]], told is not None, told if told is not None else ""

    return sorted(items, key=key)
