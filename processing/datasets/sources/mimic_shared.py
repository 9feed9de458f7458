"""What MIMIC-CXR and the sets that were read on its images share: splits, reports, and a record of both."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path

from ...gaze import clean_fixations
from ..sections import split_sections
from .building import dicom_facts, image_size
from .common import Skip, blank_record, sex_letter
from .order import iso_date
from .roots import find_root, first_file, read_text
from .tables import number, read_table

SPLITS = {"train": "train", "validate": "val", "test": "test"}
PROTOCOL = {
    "keep": "findings and impression sections apart; records without findings kept",
    "drop": "findings and impression sections apart; records without findings dropped",
    "unlabelled": "findings section, else the unlabelled paragraph; records with neither dropped",
}

UNKNOWN_HEADING = "unknown heading in a report: "


def mimic_splits(root: Path) -> dict[str, str]:
    """dicom_id -> "train", "val" or "test" from the official table; empty without it."""
    file = first_file(root, "*split.csv*")
    if file is None:
        return {}
    table = read_table(file, ("dicom_id", "split"))
    return {dicom: SPLITS.get(name) or name for dicom, name in zip(table["dicom_id"], table["split"], strict=True)}


def study_facts(root: Path, dicom_ids: Iterable[str], patients=None) -> dict[str, dict]:
    """dicom_id -> view_position, study_date, study_order, and with `patients` patient_age and patient_sex.

    From MIMIC-CXR-JPG's metadata table; empty without it. Studies of one day are told apart by StudyTime.

    Args:
        root: the folder with the table, or one below it.
        patients: MIMIC-IV's `hosp/patients.csv.gz`. An age is the anchor age and the years from the anchor year to the
            study, whose dates are shifted alike; 91 at the anchor stands for all over 89.

    Raises:
        ValueError: a missing column; names the file.
    """
    file = first_file(root, "*metadata.csv*", "../*metadata.csv*")
    if file is None:
        return {}
    known = patients_table(patients)
    table = read_table(file, ("dicom_id",))
    wanted = [name for name in ("dicom_id", "subject_id", *STUDY_COLUMNS) if name in table]
    rows = table.loc[table["dicom_id"].isin([*dicom_ids]), wanted].to_dict("records")
    return {row["dicom_id"]: facts_of_row(row, known) for row in rows}


STUDY_COLUMNS = ("ViewPosition", "StudyDate", "StudyTime")


def facts_of_row(row: Mapping[str, str], patients: Mapping[str, tuple]) -> dict:
    """`study_facts` of one row of the metadata table."""
    date = iso_date(row.get("StudyDate", ""))
    facts = {
        "view_position": row.get("ViewPosition", "").strip().upper(),
        "study_date": date,
        # Times are HHMMSS.fraction, leading zeros lost.
        "study_order": date and f"{date} {number(row.get('StudyTime'), 0.0):013.3f}",
    }
    if row.get("subject_id") in patients:
        sex, age, year = patients[row["subject_id"]]
        facts["patient_sex"] = sex
        facts["patient_age"] = None if date is None or None in (age, year) else age + int(date[:4]) - year
    return facts


def patients_table(file) -> dict[str, tuple]:
    """subject_id -> sex, anchor age, anchor year; empty for None."""
    if file is None:
        return {}
    table = read_table(Path(file).expanduser(), ("subject_id", "gender", "anchor_age", "anchor_year"))
    columns = (table[name] for name in ("subject_id", "gender", "anchor_age", "anchor_year"))
    return {
        subject: (sex_letter(sex), number(age), number(year)) for subject, sex, age, year in zip(*columns, strict=True)
    }


def find_reports(root: Path, reports_root=None) -> Path | None:
    """The folder above the reports' `files/`, or None if there are no reports near.

    Raises:
        ValueError: a `reports_root` was given and holds none.
    """
    if reports_root is not None:
        return find_root(reports_root, "MIMIC-CXR reports", "files/p1*/p*/s*.txt")
    near = [root, root / "mimic-cxr-reports", *sorted(root.parent.glob("mimic-cxr*")), root.parent]
    return next((folder for folder in near if _has_reports(folder)), None)


def _has_reports(folder: Path) -> bool:
    """Told by the first patients: to look through all of them for nothing takes minutes."""
    return any(next(patient.glob("s*.txt"), None) for patient in islice(folder.glob("files/p1*/p*/"), 20))


def read_report(path: str, noted: Counter) -> dict[str, str]:
    """Sections of one report, empty and counted where its file is missing. Unknown headings are counted by name."""
    sections, remarks = _sections_of(path, _modified(path))
    noted.update(remarks)
    return dict(sections)


def _modified(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


@lru_cache(16)  # images of a study stand beside each other
def _sections_of(path: str, modified: int | None) -> tuple[dict[str, str], Counter]:
    noted: Counter = Counter()
    if modified is None:
        return split_sections(""), Counter({"report file missing": 1})
    unknown: Counter = Counter()
    sections = split_sections(read_text(path, noted), Path(path).stem, unknown)
    return sections, noted + Counter({f"{UNKNOWN_HEADING}{name}": count for name, count in unknown.items()})


def make_record(item: dict, noted: Counter, missing_findings: str = "keep") -> dict:
    image, *report = item["files"]
    width, height = item["image_width"], item["image_height"]
    facts = {}
    if not (width and height):
        if image.endswith(".dcm"):
            facts = dicom_facts(image)
            width, height = facts["image_width"], facts["image_height"]
        else:
            width, height = image_size(image)
    elif not os.path.exists(image):
        raise Skip("image file missing")
    elif not os.path.getsize(image):
        raise Skip("image file empty")
    if report:
        sections = read_report(report[0], noted)
    else:
        noted["no reports folder"] += 1
        sections = split_sections("")
    if not sections["findings"] and missing_findings == "unlabelled" and sections["unlabelled"]:
        noted["findings taken from the unlabelled paragraph"] += 1
        sections["findings"] = sections["unlabelled"]
    if not sections["findings"]:
        if missing_findings != "keep":
            raise Skip("no findings")
        noted["no findings"] += 1
    return blank_record() | {
        "image": {"path": image, "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in ("image_id", "study_id", "patient_id", "labels")},
        **{name: item.get(name) or facts.get(name) for name in ("patient_age", "patient_sex", "study_date")},
        "view_position": item["view_position"] or facts.get("view_position", ""),
        **{name: sections[name] for name in ("indication", "history", "findings", "impression")},
        "gaze": clean_readings(item.get("gaze", []), (width, height), noted),
    }


def clean_readings(readings: list[dict], image_size: tuple[int, int], noted: Counter) -> list[dict]:
    """The readings without fixations outside the image or the part shown, and without readings that this empties.

    One without sentences stays: it is a map for the whole report.
    """
    kept = []
    for reading in readings:
        reading, beside = clean_fixations(reading, image_size)
        if beside:
            noted["fixation outside the part shown"] += beside
        if not reading["fixations"]:
            noted["reading without fixations"] += 1
            continue
        noted["reading without sentences"] += not reading["sentences"]
        kept.append(reading)
    return kept
