"""Where MIMIC-CXR's labels may come from: two labellers, radiologists, or CXR-LT.

    mimic-cxr-2.0.0-chexpert.csv.gz, -negbio.csv.gz     study_id, 14 labels: 1, 0, -1 or blank
    mimic-cxr-2.1.0-test-set-labeled.csv                study_id, labels of radiologists for part of the test set
    cxr-lt-2023/{train,development,test}.csv            dicom_id, ..., 26 labels of 0 or 1 for each image
    cxr-lt-2024/labels.csv                              the same for 45 labels, with a column split
    cxr-lt-2024/train_labeled.csv, {development,test}_labeled_task{1,2}.csv     40 and 26 labels

The first two are MIMIC-CXR-JPG's. Names and columns of the others were read off public loaders: of the radiologists'
table the 7 labels that they use must be there, others of the 14 are taken where they are ("Airspace Opacity" as Lung
Opacity); of CXR-LT every column is a label that is none of `NOT_LABELS`. Holste et al., Medical Image Analysis 2024
(CXR-LT); https://physionet.org/content/cxr-lt-iccv-workshop-cvamd/
"""

from collections import Counter
from pathlib import Path

from ..records import CHEXBERT_OBSERVATIONS, NEGATIVE, NOT_MENTIONED, POSITIVE
from .roots import find_root, first_file, require_file
from .tables import number, read_table, study_codes

NOT_LABELS = {
    *("dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "path", "fpath", "split"),
    "Unnamed: 0",
    "",
}
RADIOLOGISTS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion", "Pneumonia", "Pneumothorax"),
)
CXR_LT = {
    "cxr_lt_2023": {"train": "train.csv", "val": "development.csv", "test": "test.csv"},
    "cxr_lt_2024": {None: "labels.csv"},
    "cxr_lt_2024_task1": {
        "train": "train_labeled.csv",
        "val": "development_labeled_task1.csv",
        "test": "test_labeled_task1.csv",
    },
    "cxr_lt_2024_task2": {
        "train": "train_labeled.csv",
        "val": "development_labeled_task2.csv",
        "test": "test_labeled_task2.csv",
    },
}
LABEL_SOURCES = ("chexpert", "negbio", "radiologists", *CXR_LT)


def label_items(items: list[dict], root: Path, labels: str, labels_root, dropped: Counter) -> tuple[list[dict], tuple]:
    """The items with "labels" of that source, and the labels' names.

    Radiologists' and CXR-LT's labels leave out, and count, the images that they do not cover; CXR-LT's bring its
    splits.

    Raises:
        ValueError: an unknown source, a missing file or column, another value; names file and column.
    """
    if labels not in LABEL_SOURCES:
        raise ValueError(f"labels: {labels!r} is none of {', '.join(LABEL_SOURCES)}.")
    if labels in CXR_LT:
        return _cxr_lt(items, labels, labels_root, dropped)
    if labels == "radiologists":
        codes = radiologist_labels(Path(labels_root or root))
        kept = [item | {"labels": codes[item["study_id"]]} for item in items if item["study_id"] in codes]
        dropped["not labelled by radiologists"] += len(items) - len(kept)
        return kept, CHEXBERT_OBSERVATIONS
    codes = mimic_labels(Path(labels_root or root), labels)
    return [
        item | {"labels": codes.get(item["study_id"], [NOT_MENTIONED] * 14)} for item in items
    ], CHEXBERT_OBSERVATIONS


def mimic_labels(root: Path, labels: str) -> dict[str, list[int]]:
    """study_id -> a labeller's codes; empty without the table."""
    file = first_file(root, f"*{labels}.csv*")
    if file is None:
        return {}
    table = read_table(file, ("study_id", *CHEXBERT_OBSERVATIONS))
    return study_codes(file, table)


def radiologist_labels(root: Path) -> dict[str, list[int]]:
    """study_id -> radiologists' codes, those not in the table not mentioned."""
    file = require_file(root, "MIMIC-CXR-JPG", "*test-set-labeled.csv*")
    table = read_table(file, ("study_id", *RADIOLOGISTS))
    return study_codes(file, table.rename(columns={"Airspace Opacity": "Lung Opacity"}))


def _cxr_lt(items, labels: str, labels_root, dropped: Counter) -> tuple[list[dict], tuple]:
    folder = labels[:11].replace("_", "-")
    parts = CXR_LT[labels]
    root = find_root(labels_root, f"CXR-LT ({labels})", *(f"{name}|{folder}/{name}" for name in parts.values()))
    tables = {}
    for part, name in parts.items():
        file = first_file(root, name, f"{folder}/{name}")
        tables[part] = file, read_table(file, ("dicom_id", *([] if part else ["split"])))
    columns = [set(table.columns) for _, table in tables.values()]
    names = tuple(name for name in next(iter(tables.values()))[1] if name in set.intersection(*columns) - NOT_LABELS)
    codes = {}
    for part, (file, table) in tables.items():
        for row in table.to_dict("records"):
            own = part or {"development": "val", "validate": "val", "validation": "val"}.get(row["split"], row["split"])
            codes[row["dicom_id"]] = own, [_code(row, name, file) for name in names]
    kept = []
    for item in items:
        if item["image_id"] in codes:
            split, values = codes[item["image_id"]]
            kept.append(item | {"split": split, "labels": values})
    dropped[f"not labelled by {labels}"] += len(items) - len(kept)
    return kept, names


def _code(row: dict, name: str, file: Path) -> int:
    value = number(row[name])
    if value not in (0, 1):
        raise ValueError(f"{file}: column {name!r} of {row['dicom_id']} is {row[name]!r}, neither 0 nor 1.")
    return POSITIVE if value else NEGATIVE
