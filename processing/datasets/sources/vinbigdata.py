"""VinBigData: the Kaggle form of VinDr-CXR's training images, 14 local labels with the boxes of three readers each.

    train.csv                    image_id, class_name, class_id, rad_id, x_min, y_min, x_max, y_max; a row a box, or a
                                 reader's "No finding" (blank corners); copies add width, height
    train/<image_id>.dicom       as the competition gives them, or .png or .jpg of a copy
    train_meta.csv               image_id, dim0, dim1: the DICOMs' rows and columns, beside copies

Boxes are in pixels of the DICOMs, whatever a copy's size. Columns of train.csv were read off the file itself, which
torchxrayvision installs; those of the copies are known at second hand. The images are VinDr-CXR's training images;
whether ids are PhysioNet's could not be seen. The test images have no labels. Nguyen et al., Scientific Data 2022;
https://www.kaggle.com/c/vinbigdata-chest-xray-abnormalities-detection
"""

from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

from .building import build, image_size
from .common import blank_record
from .roots import IMAGE_SUFFIXES, find_root, found_among
from .rsna import make_dicom_record
from .splits import choose_split
from .tables import number, read_table
from .vindr_cxr import SOURCE as VINDR
from .vindr_cxr import code_of_votes

VERSION = 1
NO_FINDING = "No finding"
VINBIGDATA_LABELS = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration"),
    *("Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", NO_FINDING),
)
CORNERS = ("x_min", "y_min", "x_max", "y_max")


def load_vinbigdata(
    root,
    split: str | None = None,
    *,
    demographics: bool = True,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """VinBigData as records. What most of an image's readers saw is positive, what fewer saw uncertain.

    Regions are the boxes of all readers.

    Args:
        root: the folder with train.csv and train/.
        split: a name among `split_lists`, or None.
        demographics: age and sex (of the DICOMs; copies have neither) make the indication.

    Raises:
        ValueError: wrong root, a missing column, an unknown class (with file and row), or a copy without the DICOMs'
            sizes, whose boxes would lie beside what they mean.
    """
    root = find_root(root, "VinBigData", "train.csv", "train")
    dropped: Counter = Counter()
    return build(
        "vinbigdata",
        choose_split(_items(root, dropped), split, split_lists, dropped=dropped),
        partial(make_record, demographics=demographics),
        label_names=VINBIGDATA_LABELS,
        text_protocol="indication from age and sex" if demographics else "no text",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _items(root: Path, dropped: Counter) -> list[dict]:
    file = root / "train.csv"
    table = read_table(file, ("image_id", "class_name", "rad_id", *CORNERS))
    seen: dict[str, dict[str, set]] = defaultdict(lambda: defaultdict(set))
    boxes: dict[str, list[dict]] = defaultdict(list)
    sizes = _sizes(root, table)
    for number_of_row, row in enumerate(table.to_dict("records"), 2):
        image, name = row["image_id"], row["class_name"]
        if name not in VINBIGDATA_LABELS:
            raise ValueError(f"{file}: row {number_of_row} has the class_name {name!r}, none of {VINBIGDATA_LABELS}.")
        seen[image][row["rad_id"]].add(name)
        box = [number(row[corner]) for corner in CORNERS]
        if name != NO_FINDING and None not in box:
            boxes[image].append({"label": name, "box": box, "mask": None, "sentence": -1})
        elif name != NO_FINDING:
            dropped["box without four numbers"] += 1
    items = []
    for image, readers in seen.items():
        path = found_among(root, [f"train/{image}{suffix}" for suffix in (".dicom", *IMAGE_SUFFIXES)])
        votes = [sum(name in found for found in readers.values()) for name in VINBIGDATA_LABELS]
        items.append(
            {
                "image_id": image,
                "patient_id": image,
                "labels": [code_of_votes(count, len(readers)) for count in votes],
                "regions": boxes[image],
                "size": sizes.get(image),
                "files": [path],
            }
        )
    return items


def _sizes(root: Path, table) -> dict[str, list[int]]:
    """image_id -> [width, height] of the DICOM, where a copy says so."""
    if {"width", "height"} <= set(table.columns):
        rows = zip(table["image_id"], table["width"], table["height"], strict=True)
    elif (root / "train_meta.csv").is_file():
        meta = read_table(root / "train_meta.csv", ("image_id", "dim0", "dim1"))
        rows = zip(meta["image_id"], meta["dim1"], meta["dim0"], strict=True)
    else:
        return {}
    return {image: [int(number(width, 0)), int(number(height, 0))] for image, width, height in rows}


def make_record(item: dict, noted: Counter, demographics: bool = True) -> dict:
    path = item["files"][0]
    if path.endswith((".dicom", ".dcm")):
        return make_dicom_record(item, noted, demographics)
    image_size(path)
    if not item["size"] or 0 in item["size"]:
        raise ValueError(
            "boxes are in pixels of the DICOMs, whose sizes this copy lacks; lay its train_meta.csv (image_id, dim0, "
            "dim1) beside train.csv, or use the DICOMs."
        )
    width, height = item["size"]
    return blank_record() | {
        "image": {"path": path, "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in ("image_id", "patient_id", "labels", "regions")},
        "study_id": item["image_id"],
    }


SOURCE = replace(
    VINDR,
    name="vinbigdata",
    title="VinBigData (VinDr-CXR on Kaggle)",
    load=load_vinbigdata,
    homepage="https://www.kaggle.com/c/vinbigdata-chest-xray-abnormalities-detection",
    licence="the competition's rules: non-commercial use, not for re-distribution",
    published={"images": 15_000},
)
