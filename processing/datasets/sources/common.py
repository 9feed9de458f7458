"""What a loader says of itself, a blank record, and the words made of age and sex."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read.

    published: counts that its authors give, by what they count ("images", "studies", "patients", "readings", or a
        split's images), a tuple where there are several versions.
    credentialed: it may only be passed on to people who have signed its agreement themselves.
    """

    name: str
    title: str
    load: Callable
    homepage: str
    licence: str
    citation: str
    credentialed: bool = True
    published: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    bundled: bool = False  # loads without a root


class Skip(Exception):
    """Raised while a record is made: leave it out and count it under this reason."""


def age_in_years(text) -> float | None:
    """Years from "62", "062Y", "18M", "45 yrs", "3 months" or "20 - 30" (the middle); None for nonsense (414, "")."""
    text = str(text).strip().lower()
    if span := re.fullmatch(r"(\d+)\s*-\s*(\d+)", text):
        years = (int(span[1]) + int(span[2])) / 2
    elif found := re.search(r"(?<![\w.,-])(\d+(?:\.\d+)?)\s*([ymwd]?)[a-z]*(?!\w|[.,]\d)", text):
        years = float(found[1]) / {"m": 12, "w": 52.18, "d": 365.25}.get(found[2], 1)
    else:
        return None
    return years if 0 < years <= 120 else None


def sex_letter(text) -> str | None:
    """ "M", "F" or None from "Male", "f", "Unknown" and the like."""
    letter = str(text).strip().upper()[:1]
    return letter if letter in ("M", "F") else None


def indication_of(age: float | None, sex: str | None, follow_up: int | None = None) -> str:
    """Age and sex as an indication, in the words of the released CoGaze code: "A 62-year-old man"; with a follow-up
    number "Follow-up visit 3 of a 62-year-old man."; "" if neither is known."""
    person = {"M": "man", "F": "woman"}.get(sex or "", "")
    if age is None and not person:
        return ""
    if age is None:
        words = person
    elif age < 1:
        months = max(1, round(age * 12))
        words = f"{months}-month-old {({'M': 'boy', 'F': 'girl'}).get(sex or '', 'patient')}"
    else:
        words = f"{int(age)}-year-old {person or 'patient'}"
    if follow_up is not None:
        return f"Follow-up visit {follow_up} of a {words}."
    return words.capitalize() if age is None else f"A {words}"


def blank_record() -> dict:
    """A record with nothing in it but the schema's defaults."""
    return {
        "image": None,
        "image_width": None,
        "image_height": None,
        "image_id": "",
        "study_id": "",
        "patient_id": "",
        "view_position": "",
        "patient_age": None,
        "patient_sex": None,
        "study_date": None,
        "indication": "",
        "history": "",
        "findings": "",
        "impression": "",
        "labels": [],
        "gaze": [],
        "regions": [],
        "companions": [],
        "prior_findings": "",
        "changes": [],
    }
