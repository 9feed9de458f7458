"""Image files as records, with the context, other views and priors that a table or flags give them."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from processing.datasets.sources.common import blank_record
from processing.radiographs import read_radiograph

TEXT_COLUMNS = ("view_position", "indication", "history")
COMPANION_COLUMNS = ("other_images", "other_views", "prior_image", "prior_view_position", "prior_days", "prior_report")
CONTEXT_COLUMNS = (*TEXT_COLUMNS, *COMPANION_COLUMNS)
BETWEEN = "|"  # in other_images and other_views


class FileRecords:
    """Image files as records: what `ReportWriter` reads of a data set."""

    def __init__(self, files: list[Path], names: list[str], contexts: list[dict]):
        self.files = files
        self.columns = {"image_id": names, "study_id": names, "view_position": [c["view_position"] for c in contexts]}
        self.contexts = contexts

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        picture = read_radiograph(self.files[key], str(self.files[key]))
        name = self.columns["image_id"][key]
        own = {"image": picture, "image_width": picture.width, "image_height": picture.height}
        return blank_record() | own | {"image_id": name, "study_id": name, "patient_id": name} | self.contexts[key]


def context_of(row: Mapping[str, str], root: Path, where: str) -> dict:
    """The part of a record that a row of texts stands for: `TEXT_COLUMNS`, `companions` and `prior_findings`.

    Args:
        root: the folder that paths start from.
        where: what an error begins with.
    Raises:
        ValueError: a companion's file that is not there; not one view for each; days that are no number of 0 or more; a
            prior's facts without its image.
    """
    given = {name: (row.get(name) or "").strip() for name in CONTEXT_COLUMNS}
    images, views = ([part.strip() for part in given[name].split(BETWEEN)] for name in ("other_images", "other_views"))
    images = list(filter(None, images))
    views = views if given["other_views"] else [""] * len(images)
    if len(views) != len(images):
        raise ValueError(f"{where}other_views: {len(views)} for {len(images)} other_images; give one for each.")
    companions = [("view", image, view, 0.0) for image, view in zip(images, views, strict=True)]
    if given["prior_image"]:
        companions.append(("prior", given["prior_image"], given["prior_view_position"], _days(given, where)))
    else:
        told = next((name for name in COMPANION_COLUMNS[3:] if given[name]), None)
        if told:
            raise ValueError(f"{where}{told}: there is no prior_image; give it, or leave {told} empty.")
    for role, image, _, _ in companions:
        if not (root / image).is_file():
            column = "other_images" if role == "view" else "prior_image"
            raise ValueError(f"{where}{column}: no file {root / image}.")
    found = [
        {"role": role, "image_id": image, "image": str(root / image), "view_position": view, "days": days}
        for role, image, view, days in companions
    ]
    return {name: given[name] for name in TEXT_COLUMNS} | {"companions": found, "prior_findings": given["prior_report"]}


def _days(given: Mapping[str, str], where: str) -> float | None:
    if not given["prior_days"]:
        return None
    try:
        return float(given["prior_days"])  # the processor says what is wrong with one that is negative
    except ValueError:
        raise ValueError(f"{where}prior_days: {given['prior_days']!r} is no number of days.") from None


def read_contexts(path: str | None, names: list[str], root: Path) -> tuple[list[str], list[dict]]:
    """The images that get a report, and the context of each.

    Args:
        path: CSV with the column image and any of `CONTEXT_COLUMNS`; None: no image has any.
        names: of all images below `root`. Those that the table knows only as companions of others are left out.
    """
    if path is None:
        return names, [context_of({}, root, "") for _ in names]
    if not Path(path).is_file():
        raise ValueError(f"context: no file {path}.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "image" not in table:
        raise ValueError(f"context: {path} has no column image; it has {', '.join(table.columns)}.")
    unknown = sorted(set(table["image"]) - set(names))
    if unknown or table["image"].duplicated().any():
        which = unknown[0] if unknown else table["image"][table["image"].duplicated()].iloc[0]
        raise ValueError(f"context: {path}, image {which!r}: {'no such image' if unknown else 'it is there twice'}.")
    known = {
        row["image"]: context_of(row, root, f"context: {path}, image {row['image']!r}: ")
        for row in table.to_dict("records")
    }
    beside = {each["image_id"] for context in known.values() for each in context["companions"]} - known.keys()
    kept = [name for name in names if name not in beside]
    return kept, [known.get(name) or context_of({}, root, "") for name in kept]
