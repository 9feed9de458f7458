"""Sources that share images or patients, so that a run that names two of them learns what it is tested on.

What is shared is counted where the records tell it; of NIH, RSNA and SIIM, whose images come from the same collection
under other names, of TBX11K's share from Shenzhen and Montgomery, and of VinDr-CXR's two forms, they do not.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from .records import facts_of

# Collections of images, and the sources that draw on them.
COLLECTIONS = {
    "MIMIC-CXR": (
        *("mimic_cxr", "egd", "reflacx", "mimic_eye", "cogaze_release", "srrg", "ms_cxr", "ms_cxr_t"),
        "gazesearch",
    ),
    "CheXpert": ("chexpert", "chexpert_plus", "srrg"),
    "NIH ChestX-ray14": ("nih", "rsna", "siim"),
    "Shenzhen": ("tbx11k", "shenzhen"),
    "Montgomery": ("tbx11k", "montgomery"),
    "VinDr-CXR": ("vindr_cxr", "vinbigdata"),
    "PadChest": ("padchest", "padchest_gr"),
    "Open-I": ("openi", "openi_kaggle", "openi_r2gen"),
}
# Here the same image has another id in every source, or it is not known that it has the same.
_RENAMED = ("NIH ChestX-ray14", "Shenzhen", "Montgomery", "VinDr-CXR")


@dataclass(frozen=True)
class Overlap:
    """Two data sets that draw on one collection. Counts are None where ids do not tell."""

    first: str
    second: str
    collection: str
    images: int | None = None
    patients: int | None = None

    def __str__(self) -> str:
        told = (
            "how many are shared cannot be told by their ids"
            if self.patients is None
            else f"{self.patients:,} patients and {self.images:,} images are in both"
        )
        return f"{self.first} and {self.second} draw on {self.collection}: {told}"


def overlap(first, second, names: tuple[str, str] = ("first", "second")) -> Overlap | None:
    """What two data sets of different sources share; None where they draw on no common collection, or share nothing.

    Args:
        first, second: data sets or streams that carry facts; of a stream, or without ids, nothing is counted.
        names: what messages call them, before their sources.
    """
    facts = [facts_of(each) if hasattr(each, "info") else getattr(each, "facts", {}) for each in (first, second)]
    sources = [each.get("source") or "" for each in facts]
    # A sample bears a name of its own beside its source.
    called = [each.get("name") or source for each, source in zip(facts, sources, strict=True)]
    collection = next((name for name, drawn in COLLECTIONS.items() if set(sources) <= set(drawn)), None)
    if collection is None or called[0] == called[1]:
        return None
    one, other = (f"{name} ({own})" for name, own in zip(names, called, strict=True))
    ids, other_ids = _ids(first), _ids(second)
    if collection in _RENAMED or ids is None or other_ids is None:
        return Overlap(one, other, collection)
    images, patients = (len(ids[kind] & other_ids[kind]) for kind in (0, 1))
    return Overlap(one, other, collection, images, patients) if patients or images else None


def overlaps(data: Mapping) -> Iterator[Overlap]:
    """Those among the named data sets of one run; None stands for one that is not given."""
    named = {name: dataset for name, dataset in data.items() if dataset is not None}
    for first, second in combinations(named, 2):
        found = overlap(named[first], named[second], (first, second))
        if found:
            yield found


def warn_of_overlaps(data: Mapping) -> None:
    """A UserWarning for each overlap of a run's data sets.

    Args:
        data: "train_data", "validation_data", "test_data" ... -> data set, stream or None.
    """
    for found in overlaps(data):
        warnings.warn(f"{found}; a score on one says less about what was trained on the other.", stacklevel=2)


def shared_images(first, second) -> set[str]:
    """Ids (`plain_image_id`) of images that two data sets or streams both have.

    Empty where they draw on no common collection, or where its sources name the same image differently.
    """
    facts = [facts_of(each) if hasattr(each, "info") else getattr(each, "facts", {}) for each in (first, second)]
    sources = {each.get("source") or "" for each in facts}
    collection = next((name for name, drawn in COLLECTIONS.items() if sources <= set(drawn)), None)
    if len(sources) > 1 and (collection is None or collection in _RENAMED):
        return set()
    images = []
    for each in (first, second):
        rows = each["image_id"] if hasattr(each, "info") else (row["image_id"] for row in each.columns(["image_id"]))
        images.append({plain_image_id(image) for image in rows} - {""})
    return images[0] & images[1]


def plain_image_id(image: str) -> str:
    """An image's id as its collection writes it, whatever the source."""
    return re.sub(r"^.*(?=patient\d)", "", image).removesuffix(".dcm")


def _ids(data) -> tuple[set[str], set[str]] | None:
    """Ids of images and of patients, both as their collection writes them."""
    if not {"image_id", "patient_id"} <= set(getattr(data, "column_names", None) or ()):
        return None
    return {plain_image_id(image) for image in data["image_id"]} - {""}, set(data["patient_id"]) - {""}
