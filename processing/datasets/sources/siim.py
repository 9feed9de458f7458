"""SIIM-ACR Pneumothorax Segmentation, 1024x1024.

    dicom-images-train/<uid>/<uid>/<ImageId>.dcm (any depth), train-rle.csv or stage_2_train.csv
    png_images/<index>_<train|test>_<0|1>_.png, png_masks/ of the same names,
    stage_1_{train,test}_images.csv (new_filename, ImageId, has_pneumo)

Tables were read off one that torchxrayvision installs and the PNG copy's public notebooks. The run-length code is
relative (each start counts from the end of the run before) and column-major; -1, also written " -1", is no
pneumothorax; an image may have several rows, and the tables' second column begins with a blank. Split lists name the
PNG copy's stems. https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation
"""

from collections import Counter
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ..records import NEGATIVE, POSITIVE
from .building import build, image_size
from .common import Skip, Source, blank_record
from .roots import find_root, first_file, image_index, stem
from .rsna import make_dicom_record
from .siim_gaze import join_siim_gaze, place_reading
from .splits import choose_split
from .tables import read_table

VERSION = 1
HAS_PNEUMO = {"1": POSITIVE, "1.0": POSITIVE, "0": NEGATIVE, "0.0": NEGATIVE}


def load_siim(
    root,
    split: str | None = None,
    *,
    demographics: bool = True,
    gaze=None,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """SIIM-ACR as records: label "pneumothorax", a region with box and mask for each annotation.

    Args:
        root: the folder with the DICOMs and train-rle.csv, or with png_images/ and png_masks/.
        split: "train" or "test" (the PNG copy's own), a name among `split_lists`, or None.
        demographics: age and sex (of the DICOMs) make the indication; the PNG copy has neither.
        gaze: Saab et al.'s gaze as JSON, joined by ImageId: readings without sentences; see `silent_gaze`.
    """
    png = "png_images/*.png"
    root = find_root(root, "SIIM-ACR", f"train-rle*.csv*|stage_2_train.csv|siim/train-rle.csv|{png}")
    dropped: Counter = Counter()
    has_png = first_file(root, png) is not None
    items = _png_items(root, dropped) if has_png else _dicom_items(root, dropped)
    noted: Counter = Counter()
    if gaze is not None:
        join_siim_gaze(items, gaze, noted)
    return build(
        "siim",
        choose_split(items, split, split_lists, key="list_id", dropped=dropped),
        partial(make_png_record if has_png else make_record, **({} if has_png else {"demographics": demographics})),
        label_names=["pneumothorax"],
        text_protocol="indication from age and sex" if demographics and not has_png else "no text",
        split=split,
        dropped=dropped,
        noted=noted,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _dicom_items(root: Path, dropped: Counter) -> list[dict]:
    file = first_file(root, "stage_2_train.csv", "train-rle*.csv*", "siim/train-rle.csv")
    images = image_index(root, patterns=("**/*.dcm",))
    list_ids = {row["ImageId"]: row["name"] for row in _renamed(root)}
    items: dict[str, dict] = {}
    for row in read_table(file, ("ImageId", "EncodedPixels")).to_dict("records"):
        name, code = row["ImageId"].strip(), row["EncodedPixels"].strip()
        item = items.setdefault(
            name,
            {
                "image_id": name,
                "patient_id": name,
                "list_id": list_ids.get(name, name),
                "labels": [NEGATIVE],
                "codes": [],
                "files": [images.get(name, str(root / f"{name}.dcm"))],
            },
        )
        if code in ("", "-1"):
            continue
        item["labels"] = [POSITIVE]
        if code in item["codes"]:
            dropped["annotation given twice"] += 1
        else:
            item["codes"].append(code)
    return list(items.values())


def _renamed(root: Path) -> list[dict]:
    """The PNG copy's tables: index name, ImageId and official split."""
    rows = []
    for part in ("train", "test"):
        file = first_file(root, f"stage_1_{part}_images.csv", f"*/stage_1_{part}_images.csv")
        if file is not None:
            table = read_table(file, ("new_filename", "ImageId", "has_pneumo"))
            rows += [row | {"name": stem(row["new_filename"]), "split": part} for row in table.to_dict("records")]
    return rows


def _without_repeats(rows: list[dict], dropped: Counter) -> list[dict]:
    first = {row["name"]: row for row in reversed(rows)}
    if len(first) < len(rows):
        dropped["duplicate id"] += len(rows) - len(first)
    return list(reversed(first.values()))


def _png_items(root: Path, dropped: Counter) -> list[dict]:
    images = image_index(root / "png_images", patterns=("*.png",))
    rows = _without_repeats(_renamed(root), dropped)
    known = {row["name"] for row in rows}
    for name in sorted(set(images) - known):
        part, positive = (name.split("_") + ["", "", ""])[1:3]
        rows.append({"name": name, "ImageId": name, "has_pneumo": positive, "split": part})
    items = []
    for row in rows:
        mask = root / "png_masks" / f"{row['name']}.png"
        if row["has_pneumo"].strip() not in HAS_PNEUMO:
            dropped["has_pneumo is neither 0 nor 1"] += 1
            continue
        items.append(
            {
                "image_id": row["ImageId"],
                "patient_id": row["ImageId"],
                "list_id": row["name"],
                "labels": [HAS_PNEUMO[row["has_pneumo"].strip()]],
                "split": row["split"],
                "files": [images.get(row["name"], str(root / "png_images" / f"{row['name']}.png")), str(mask)],
            }
        )
    return items


def make_record(item: dict, noted: Counter, demographics: bool = True) -> dict:
    record = make_dicom_record(item | {"regions": []}, noted, demographics)
    try:
        masks = [rle_mask(code, record["image_width"], record["image_height"]) for code in item["codes"]]
    except ValueError as error:
        raise Skip("run-length code broken") from error
    size = record["image_width"], record["image_height"]
    gaze = place_reading(item["gaze"], size, noted) if "gaze" in item else []
    return record | {"regions": [mask_region(mask) for mask in masks], "gaze": gaze}


def make_png_record(item: dict, noted: Counter) -> dict:
    image, mask_file = item["files"]
    width, height = image_size(image)
    regions = []
    if item["labels"] == [POSITIVE]:
        image_size(mask_file, "mask")
        with Image.open(mask_file) as opened:
            mask = np.asarray(opened.convert("L")) > 0
        if mask.any():
            region = mask_region(mask)
            scale_x, scale_y = width / mask.shape[1], height / mask.shape[0]
            region["box"] = [value * scale for value, scale in zip(region["box"], (scale_x, scale_y) * 2, strict=True)]
            regions.append(region)
        else:
            noted["positive with an empty mask"] += 1
    return blank_record() | {
        "image": {"path": image, "bytes": None},
        "image_width": width,
        "image_height": height,
        "image_id": item["image_id"],
        "study_id": item["image_id"],
        "patient_id": item["patient_id"],
        "labels": item["labels"],
        "regions": regions,
        "gaze": place_reading(item["gaze"], (width, height), noted) if "gaze" in item else [],
    }


def rle_mask(code: str, width: int, height: int) -> np.ndarray:
    """SIIM's relative, column-major run-length code as a (height, width) bool mask.

    Raises:
        ValueError: a code that is not pairs of whole numbers, or that runs over the picture's end.
    """
    values = np.array(code.split(), dtype=np.int64)
    if len(values) % 2 or (values < 0).any():
        raise ValueError(f"code: {code[:40]!r} is not pairs of offset and length.")
    offsets, lengths = values[0::2], values[1::2]
    ends = np.cumsum(offsets + lengths)
    if len(ends) and ends[-1] > width * height:
        raise ValueError(f"code: it ends at pixel {ends[-1]} of {width * height}.")
    change = np.zeros(width * height + 1, np.int8)
    np.add.at(change, ends - lengths, 1)
    np.add.at(change, ends, -1)
    return np.cumsum(change)[:-1].astype(bool).reshape(width, height).T


def mask_region(mask: np.ndarray, label: str = "pneumothorax") -> dict:
    """A region with the box around a (height, width) bool mask that is not empty, in its pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
    buffer = BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return {
        "label": label,
        "box": box,
        "mask": {"bytes": buffer.getvalue(), "path": None},
        "sentence": -1,
    }


SOURCE = Source(
    name="siim",
    title="SIIM-ACR Pneumothorax Segmentation",
    load=load_siim,
    homepage="https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation",
    licence="the challenge's terms of use: research and education, not for re-distribution without them",
    citation="""@misc{siim2019pneumothorax,
  title={SIIM-ACR Pneumothorax Segmentation}, howpublished={Kaggle},
  author={{Society for Imaging Informatics in Medicine and American College of Radiology}}, year={2019}
}""",
    published={"images": (10_675, 12_047)},
)
