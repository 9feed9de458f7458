"""Tables of data sets, damaged as downloads, spreadsheets and scripts damage them, and what a loader may make of it."""

import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from processing.datasets import load
from processing.datasets.records import facts_of
from tests.processing.datasets import further_miniatures as further
from tests.processing.datasets import miniatures

JUNK = ("x", "nan", "NaN", "", " ", "-", "?", "1e400", "-7", "99999999999", "1,5", "é", "True", "[]", "None", "0x1")
TABLES = (".csv", ".csv.gz", ".json", ".parquet")


def _beside_mimic(name: str, make: Callable, root: str = "own") -> Callable:
    def make_and_load(folder: Path):
        miniatures.mimic_cxr(folder / "mimic", suffix=".csv")
        make(folder / root)
        return lambda cache: load(name, folder / root, mimic_root=folder / "mimic", cache_dir=cache)

    return make_and_load


def _alone(name: str, make: Callable) -> Callable:
    def make_and_load(folder: Path):
        make(folder)
        return lambda cache: load(name, folder, cache_dir=cache)

    return make_and_load


def _srrg(make: Callable) -> Callable:
    def make_and_load(folder: Path):
        miniatures.mimic_cxr(folder / "mimic", suffix=".csv")
        make(folder / "srrg", folder / "plus")
        roots = {"mimic_root": folder / "mimic", "chexpert_plus_root": folder / "plus"}
        return lambda cache: load("srrg", folder / "srrg", "train", cache_dir=cache, **roots)

    return make_and_load


# A miniature's name -> what writes it into a folder and gives the function that loads it.
SETS = {
    "mimic_cxr": _alone("mimic_cxr", lambda root: miniatures.mimic_cxr(root, suffix=".csv")),
    "chexpert": _alone("chexpert", miniatures.chexpert),
    "nih": _alone("nih", miniatures.nih),
    "rsna": _alone("rsna", miniatures.rsna),
    "siim": _alone("siim", miniatures.siim_dicom),
    "siim_png": _alone("siim", miniatures.siim_png),
    "tbx11k": _alone("tbx11k", miniatures.tbx11k),
    "tbx11k_official": _alone("tbx11k", miniatures.tbx11k_official),
    "padchest": _alone("padchest", further.padchest),
    "padchest_gr": _alone("padchest_gr", further.padchest_gr),
    "vindr_cxr": _alone("vindr_cxr", further.vindr_cxr),
    "chexpert_plus": _alone("chexpert_plus", further.chexpert_plus),
    "rexgradient": _alone("rexgradient", further.rexgradient),
    "openi_kaggle": _alone("openi_kaggle", further.openi_kaggle),
    "openi_r2gen": _alone("openi_r2gen", further.openi_r2gen),
    "mimic_eye": _alone("mimic_eye", miniatures.mimic_eye),
    "egd": _beside_mimic("egd", miniatures.egd),
    "reflacx": _beside_mimic("reflacx", miniatures.reflacx),
    "cogaze_release": _beside_mimic("cogaze_release", miniatures.cogaze_release),
    "gazesearch": _beside_mimic("gazesearch", further.gazesearch),
    "srrg": _srrg(miniatures.srrg),
    "srrg_hub": _srrg(miniatures.srrg_hub),
}


@dataclass
class Mutation:
    """Damage done to one table.

    kind: what was done. same: no value was lost, so that the records must be the same. cell: what stands in a value's
    place. touched: the texts of the row or object that was changed, which tell its records from the others.
    """

    kind: str
    data: bytes
    same: bool = False
    cell: object = None
    touched: tuple[str, ...] = ()


def mutate(path: Path, rng: random.Random) -> Mutation:
    data = path.read_bytes()
    if path.suffix == ".gz":
        mutation = _mutated_csv(gzip.decompress(data), rng)
        return replace(mutation, data=gzip.compress(mutation.data))
    if path.suffix == ".parquet":
        return _mutated_parquet(data, rng)
    return _mutated_bytes(data, rng) if rng.random() < 0.2 else _MUTATED[path.suffix](data, rng)


def _mutated_bytes(data: bytes, rng: random.Random) -> Mutation:
    """Damage that knows nothing of rows or keys."""
    kind = rng.choice(["truncated", "byte order mark", "empty", "noise", "line ends", "UTF-16"])
    text = data.decode("utf-8", "replace")
    if kind == "truncated":
        return Mutation(kind, data[: rng.randrange(1, len(data))])
    if kind == "byte order mark":
        return Mutation(kind, b"\xef\xbb\xbf" + data, same=True)
    if kind == "line ends":
        return Mutation(kind, data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"), same=True)
    if kind == "UTF-16":
        return Mutation(kind, text.encode("utf-16"))
    if kind == "empty":
        return Mutation(kind, b"")
    where = rng.randrange(len(data))
    return Mutation(kind, data[:where] + bytes(rng.randrange(256) for _ in range(8)) + data[where:])


def _mutated_csv(data: bytes, rng: random.Random) -> Mutation:
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    body, width = len(rows) - 1, max(map(len, rows))
    rows = [[*row, *[""] * (width - len(row))] for row in rows]
    kinds = [
        "drop column",
        "add column",
        "permute columns",
        "quote all",
        "blank lines",
        "duplicate row",
        "header twice",
    ]
    kinds += ["longer row", "shorter row", "cell", "cell", "cell", "cell", "rename column", "semicolons", "shift row"]
    kind, line, column = rng.choice(kinds), rng.randrange(1, body + 1) if body else 0, rng.randrange(width)
    touched = tuple(rows[line])

    def written(rows, **style) -> bytes:
        file = io.StringIO()
        csv.writer(file, **style).writerows(rows)
        return file.getvalue().encode()

    if kind == "drop column":
        return Mutation(kind, written([row[:column] + row[column + 1 :] for row in rows]))
    if kind == "rename column":
        return Mutation(kind, written([[*rows[0][:column], "renamed", *rows[0][column + 1 :]], *rows[1:]]))
    if kind == "add column":
        added = [[*row, "added" if index == 0 else f"value {index}"] for index, row in enumerate(rows)]
        return Mutation(kind, written(added), same=True)
    if kind == "permute columns":
        order = rng.sample(range(width), width)
        return Mutation(kind, written([[row[place] for place in order] for row in rows]), same=True)
    if kind == "quote all":
        return Mutation(kind, written(rows, quoting=csv.QUOTE_ALL), same=True)
    if kind == "blank lines":
        return Mutation(kind, written(rows) + b"\r\n\r\n", same=True)
    if kind == "semicolons":
        return Mutation(kind, written(rows, delimiter=";"))
    if kind == "duplicate row":
        return Mutation(kind, written([*rows, rows[line]]), touched=touched)
    if kind == "header twice":
        return Mutation(kind, written([rows[0], *rows]))
    changed = list(rows[line])
    if kind == "longer row":
        changed.insert(column, rng.choice(JUNK))
    elif kind == "shorter row":
        del changed[column]
    elif kind == "shift row":
        changed = [*changed[1:], changed[0]]
    else:
        changed[column] = rng.choice(JUNK)
    cell = changed[column] if kind == "cell" else None
    return Mutation(kind, written([*rows[:line], changed, *rows[line + 1 :]]), cell=cell, touched=touched)


def _mutated_json(data: bytes, rng: random.Random) -> Mutation:
    content = json.loads(data)
    places = list(_places(content))
    if not places:
        return Mutation("null", b"null")
    owner, key, around = rng.choice(places)
    kind = rng.choice(["drop", "value", "value", "value", "add", "ASCII"])
    touched = tuple(_texts(around))
    value: object = None
    if kind == "drop":
        del owner[key]
    elif kind == "value":
        value = rng.choice([None, 7, -1.5, "x", "", [], {}, [None], True, "é"])
        owner[key] = value
    elif kind == "add" and isinstance(owner, dict):
        owner["added"] = "x"
    return Mutation(kind, json.dumps(content).encode(), same=kind == "ASCII", cell=value, touched=touched)


def _mutated_parquet(data: bytes, rng: random.Random) -> Mutation:
    table = pq.read_table(io.BytesIO(data))
    kind = rng.choice(["truncated", "drop column", "numbers", "nulls", "add column", "noise"])
    column = rng.randrange(table.num_columns)
    if kind == "truncated":
        return Mutation(kind, data[: rng.randrange(1, len(data))])
    if kind == "noise":
        return Mutation(kind, data[: len(data) // 2] + bytes(rng.randrange(256) for _ in range(len(data) // 2)))
    if kind == "drop column":
        changed = table.remove_column(column)
    elif kind == "add column":
        changed = table.append_column("added", pa.array(["x"] * len(table), pa.string()))
    else:
        values = pa.array([7] * len(table)) if kind == "numbers" else pa.nulls(len(table), pa.string())
        changed = table.set_column(column, table.column_names[column], values)
    file = io.BytesIO()
    pq.write_table(changed, file)
    return Mutation(kind, file.getvalue(), same=kind == "add column")


_MUTATED = {".csv": _mutated_csv, ".json": _mutated_json}


def _places(content, around=None, depth: int = 0):
    """(owner, key, the outermost object of the place) of everything in it."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        own = around if depth > 2 else value
        yield content, key, (key, own)
        yield from _places(value, own, depth + 1)


def _texts(content):
    if isinstance(content, dict):
        content = [*content.keys(), *content.values()]
    if isinstance(content, (list, tuple)):
        for each in content:
            yield from _texts(each)
    elif content is not None:
        yield str(content)


def records_of(dataset: Dataset) -> dict[str, dict]:
    """What the tables decide of each record; images are left aside."""
    columns = [name for name in dataset.column_names if name not in ("image", "companions")]
    found = {}
    for record in dataset.select_columns(columns):
        name = f"{record['study_id']} {record['image_id']}"
        assert name not in found or found[name] == record, f"two records of {name}"
        found[name] = record
    return found


@dataclass
class Loaded:
    """A data set's records by study and image, and what its loader counted."""

    records: dict[str, dict]
    counted: dict

    @classmethod
    def of(cls, dataset: Dataset) -> "Loaded":
        facts = facts_of(dataset)
        return cls(records_of(dataset), {name: facts[name] for name in ("dropped", "noted")})


TEXTS = ("indication", "history", "findings", "impression", "view_position", "patient_sex", "study_date", "text")
TEXTS += ("label", "reader", "study_id", "image_id", "patient_id")
LOST_BY_CELL = ("", " ", "-", "?", "nan", "NaN", "None", "[]")


def verdict(mutation: Mutation, whole: Loaded, found: Loaded) -> str:
    """ "right", or what a loader made of a damaged table without a word."""
    if mutation.same:
        return "right" if found.records == whole.records else f"{mutation.kind}: the records have become others"
    said = found.counted != whole.counted
    for name, record in found.records.items():
        fault = _implausible(record)
        if not fault and name not in whole.records:
            renamed = mutation.touched and str(mutation.cell) in name
            fault = "" if renamed or said or mutation.kind == "noise" else "a record that was none"
        elif not fault:
            fault = "" if mutation.kind == "noise" else _difference(record, whole.records[name], mutation, said)
        if fault:
            return f"{mutation.kind} {mutation.cell!r}: {name}: {fault}"
    lost = whole.records.keys() - found.records.keys()
    row_alone = mutation.kind in ("cell", "value", "duplicate row", "longer row", "shorter row", "shift row")
    if lost and row_alone and not said and not mutation.touched:
        return f"{mutation.kind} {mutation.cell!r}: {min(lost)} is lost"
    return "right"


def _implausible(record: dict) -> str:
    width, height = record["image_width"], record["image_height"]
    if not (width > 0 and height > 0):
        return f"an image of {width} x {height}"
    if any(code not in (-1, 0, 1, 2) for code in record["labels"]):
        return f"labels {record['labels']}"
    age = record["patient_age"]
    if age is not None and not 0 < age <= 130:
        return f"an age of {age}"
    for region in record["regions"]:
        if region["box"] and not (region["box"][0] < region["box"][2] and region["box"][1] < region["box"][3]):
            return f"a box {region['box']}"
    for reading in record["gaze"]:
        for fixation in reading["fixations"]:
            if not (fixation["begin"] <= fixation["end"] and abs(fixation["x"]) < 1e6 and abs(fixation["y"]) < 1e6):
                return f"a fixation {fixation}"
    return ""


def _difference(record: dict, before: dict, mutation: Mutation, said: bool) -> str:
    for name, old in before.items():
        new = record[name]
        if new == old:
            continue
        if name == "labels":
            lost = all(a == b or a == -1 for a, b in zip(new, old, strict=True))
            if not (lost and (said or str(mutation.cell).strip() in LOST_BY_CELL or "column" in mutation.kind)):
                return f"labels {new} for {old}"
        elif new in (None, "", []) or said or name in TEXTS:
            continue
        elif isinstance(new, list):
            continue  # readings and regions; whether they make sense has been seen
        elif str(new) != str(mutation.cell) and not _is_number(mutation.cell, new):
            return f"{name} {new!r} for {old!r}"
    return ""


def _is_number(cell, value) -> bool:
    try:
        return float(cell) == float(value)
    except (TypeError, ValueError):
        return False
