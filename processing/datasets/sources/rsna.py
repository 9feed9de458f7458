"""RSNA Pneumonia Detection Challenge, stage 2.

    stage_2_train_images/<patientId>.dcm     1024x1024; age, sex and view position in the header
    stage_2_train_labels.csv                 patientId, x, y, width, height, Target; a row per box
    stage_2_detailed_class_info.csv          patientId, class (Lung Opacity, No Lung Opacity / Not Normal, Normal)

The DICOM header was read off one of the set's files (its StudyDate is 1901, a filler), that of the labels off the table
itself, which torchxrayvision installs, of the classes off public notebooks. Images come from NIH ChestX-ray14. Shih et
al., Radiology: Artificial Intelligence 2019; https://www.kaggle.com/c/rsna-pneumonia-detection-challenge
"""

from collections import Counter
from functools import partial

from ..records import NEGATIVE, POSITIVE
from .building import build, dicom_facts
from .common import Source, blank_record, indication_of
from .roots import find_root
from .splits import choose_split
from .tables import box_corners, number, read_table

VERSION = 1
CLASSES = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")


def load_rsna(
    root,
    split: str | None = None,
    *,
    classes: tuple[str, ...] | None = None,
    demographics: bool = True,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """RSNA Pneumonia as records: label "pneumonia", its boxes as regions.

    Args:
        root: the folder with `stage_2_train_labels.csv`.
        split: a name among `split_lists`, or None.
        classes: keep these detailed classes only, e.g. ("Lung Opacity", "Normal") for pneumonia against normal.
        demographics: age and sex make the indication.
    """
    root = find_root(root, "RSNA Pneumonia", "stage_2_train_labels.csv")
    table = read_table(root / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"))
    detailed = _detailed_classes(root, classes)
    dropped: Counter = Counter()
    items: dict[str, dict] = {}
    seen = set()
    for row in table.to_dict("records"):
        patient = row["patientId"]
        if detailed and classes and detailed.get(patient) not in classes:
            dropped["class not asked for"] += patient not in items and patient not in seen
            seen.add(patient)
            continue
        if row["Target"].strip() not in ("0", "1", "0.0", "1.0"):
            dropped["Target is neither 0 nor 1"] += 1
            continue
        item = items.setdefault(
            patient,
            {
                "image_id": patient,
                "patient_id": patient,
                "labels": [NEGATIVE],
                "regions": [],
                "files": [str(root / "stage_2_train_images" / f"{patient}.dcm")],
            },
        )
        if number(row["Target"], 0) == 1:
            item["labels"] = [POSITIVE]
            box = box_corners([row[name] for name in ("x", "y", "width", "height")], dropped)
            region = {"label": "pneumonia", "box": box, "mask": None, "sentence": -1}
            if region in item["regions"]:
                dropped["box given twice"] += 1
            elif box:
                item["regions"].append(region)
    return build(
        "rsna",
        choose_split(list(items.values()), split, split_lists, dropped=dropped),
        partial(make_dicom_record, demographics=demographics),
        label_names=["pneumonia"],
        text_protocol="indication from age and sex" if demographics else "no text",
        split=split,
        dropped=+dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _detailed_classes(root, classes) -> dict[str, str]:
    file = root / "stage_2_detailed_class_info.csv"
    if classes is None:
        return {}
    unknown = set(classes) - set(CLASSES)
    if unknown:
        raise ValueError(f"classes: {sorted(unknown)[0]!r} is none of {CLASSES}.")
    if not file.is_file():
        raise ValueError(f"classes: {file} is missing; without it the classes are not known.")
    table = read_table(file, ("patientId", "class"))
    return dict(zip(table["patientId"], table["class"], strict=True))


def make_dicom_record(item: dict, noted: Counter, demographics: bool = True) -> dict:
    """A record of a classification set whose age, sex and view stand in the DICOM."""
    facts = dicom_facts(item["files"][0])
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        **facts,
        "image_id": item["image_id"],
        "study_id": item["image_id"],
        "patient_id": item["patient_id"],
        "labels": item["labels"],
        "regions": item["regions"],
        "indication": indication_of(facts["patient_age"], facts["patient_sex"]) if demographics else "",
    }


SOURCE = Source(
    name="rsna",
    title="RSNA Pneumonia Detection Challenge",
    load=load_rsna,
    homepage="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
    licence="RSNA's terms of use: research and education, not for re-distribution without them",
    citation="""@article{shih2019rsna,
  title={Augmenting the National Institutes of Health chest radiograph dataset with expert annotations of possible
         pneumonia},
  author={Shih, George and Wu, Carol C. and Halabi, Safwan S. and others},
  journal={Radiology: Artificial Intelligence}, volume={1}, number={1}, year={2019}
}""",
    published={"images": 26_684},
)
