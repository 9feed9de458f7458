"""CheXmask: masks of lungs and heart for MIMIC-CXR-JPG, CheXpert, NIH, PadChest and VinDr-CXR, beside their records.

    OriginalResolution/<MIMIC-CXR-JPG | CheXpert | ChestX-Ray8 | Padchest | VinDr-CXR>.csv (or .csv.gz)
        the image's name in its own set's column (dicom_id, Path, Image Index, ImageID, image_id), Dice RCA (Max),
        Dice RCA (Mean), Landmarks, Left Lung, Right Lung, Heart, Height, Width

Masks are run-length codes, row by row, of pairs of start (counted from 1) and length. Read off the authors' repository
(ngaggion/CheXmask-Database), its example and `DataPostprocessing`. They recommend images with a Dice RCA of 0.7 at
least. Tables of `Preprocessed/`, which are padded and resized, are refused where their proportions show it.
Gaggion et al., Scientific Data 2024; https://physionet.org/content/chexmask-cxr-segmentation-data/
"""

import csv
import gzip
import os
import shutil
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from .roots import stem
from .tables import number

ORGANS = {"Left Lung": "left lung", "Right Lung": "right lung", "Heart": "heart"}
NEEDED = ("Dice RCA (Mean)", *ORGANS, "Height", "Width")


def attach(items: list[dict], table, cache: Path, least_dice: float = 0.7) -> Counter:
    """Give each item, under "chexmask", the place of its row in the table; `add_regions` reads it.

    The table (gigabytes) is walked through once and never held; a packed one is unpacked to `cache` first.

    Args:
        items: with "image_id". table: the file. cache: a folder. least_dice: rows of a lower Dice RCA (Mean) are left.

    Returns:
        Counts of what is missing, for `noted`.

    Raises:
        ValueError: no such file, a missing column, or not one row of these images.
    """
    file = _unpacked(Path(table).expanduser(), cache)
    by_name = {item["image_id"]: item for item in items}
    noted: Counter = Counter()
    found = 0
    with open(file, "rb") as opened:
        header = next(csv.reader([opened.readline().decode("utf-8-sig")]), [])
        missing = [column for column in NEEDED if column not in header]
        if missing:
            raise ValueError(f"chexmask: {file}: column {missing[0]!r} is missing; it has {header}.")
        start = opened.tell()
        for raw in _rows(opened):
            length = len(raw)
            item = by_name.get(_key(raw.split(b",", 1)[0].decode()))
            if item is not None:
                row = dict(zip(header, next(csv.reader([raw.decode()])), strict=True))
                if number(row["Dice RCA (Mean)"], 0) < least_dice:
                    noted[f"CheXmask's Dice RCA below {least_dice}"] += 1
                else:
                    item["chexmask"] = [str(file), start, length, header]
                    found += 1
            start += length
    if not found:
        raise ValueError(f"chexmask: {file} has no usable row of these images; is it another set's table?")
    noted["no CheXmask masks"] = len(items) - found
    return noted


def add_regions(record: dict, place: list, noted: Counter) -> dict:
    """The record with a region for each organ, mask and box in pixels of the original."""
    file, start, length, header = place
    with open(file, "rb") as opened:
        opened.seek(start)
        row = dict(zip(header, next(csv.reader([opened.read(length).decode()])), strict=True))
    height, width = int(number(row["Height"], 0)), int(number(row["Width"], 0))
    across, down = record["image_width"], record["image_height"]
    if abs(height * across - width * down) > across + down:
        noted["CheXmask's masks in other proportions than the image"] += 1
        return record
    regions = []
    for column, label in ORGANS.items():
        mask = rle_mask(row[column], width, height)
        if not mask.any():
            noted[f"CheXmask without a {label}"] += 1
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [columns[0] * across / width, rows[0] * down / height]
        box += [(columns[-1] + 1) * across / width, (rows[-1] + 1) * down / height]
        buffer = BytesIO()
        Image.fromarray(mask).save(buffer, "PNG")
        stored = {"bytes": buffer.getvalue(), "path": None}
        regions.append({"label": label, "box": [float(value) for value in box], "mask": stored, "sentence": -1})
    return record | {"regions": [*record["regions"], *regions]}


def rle_mask(code: str, width: int, height: int) -> np.ndarray:
    """CheXmask's row-major code of starts (from 1) and lengths as a (height, width) bool mask.

    Raises:
        ValueError: a code that is not pairs of whole numbers, or that runs beyond the picture.
    """
    values = np.array(code.split(), dtype=np.int64)
    if len(values) % 2 or (values < 1).any():
        raise ValueError(f"code: {code[:40]!r} is not pairs of start and length.")
    starts, lengths = values[0::2] - 1, values[1::2]
    if len(starts) and (starts + lengths).max() > width * height:
        raise ValueError(f"code: it ends at pixel {(starts + lengths).max()} of {width * height}.")
    change = np.zeros(width * height + 1, np.int32)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + lengths, -1)
    return (np.cumsum(change)[:-1] > 0).reshape(height, width)


def _key(name: str) -> str:
    """An image's id in our records: a path from the patient on (CheXpert), else the file's stem."""
    name = name.strip().strip('"')
    return name[name.index("patient") :].rsplit(".", 1)[0] if "/patient" in name else stem(name)


def _rows(opened):
    """A CSV's rows as bytes, line breaks inside quotes kept."""
    held = b""
    for line in opened:
        held += line
        if held.count(b'"') % 2 == 0:
            yield held
            held = b""


def _unpacked(table: Path, cache: Path) -> Path:
    if not table.is_file():
        raise ValueError(f"chexmask: there is no file {table}; give CheXmask's table of this set.")
    if table.suffix != ".gz":
        return table
    status = table.stat()
    target = cache / f"{table.stem}-{status.st_size}-{status.st_mtime_ns}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        try:
            with gzip.open(table) as packed, open(temporary, "wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
        except (OSError, EOFError) as error:
            temporary.unlink(missing_ok=True)
            raise ValueError(f"chexmask: {table} cannot be unpacked ({error}); download it again.") from error
        os.replace(temporary, target)
    return target
