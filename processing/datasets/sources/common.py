"""What all loaders share: tables, roots, split lists, and the words made of age and sex."""

import gzip
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ..records import CHEXBERT_OBSERVATIONS, NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")


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


# Roots and files


def find_root(root, source: str, *markers: str) -> Path:
    """The folder itself if it holds all `markers` (glob patterns; alternatives apart by "|").

    Raises:
        ValueError: it does not; names what is missing, and the folder up to two levels up or down that has it.
    """
    if root is None:
        raise ValueError(f"root: {source} needs the folder that it was downloaded to.")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"root: {root} is not a folder; give the one that {source} was downloaded to.")
    missing = _missing(root, markers)
    if not missing:
        return root
    near = [root.parent, root.parent.parent, *_folders(root)]
    better = next((folder for folder in near if not _missing(folder, markers)), None)
    hint = f"{better} has it: give that." if better else "check that the download is complete."
    raise ValueError(f"root: {root} holds no {missing[0].replace('|', ' or ')}, which {source} needs; {hint}")


def _missing(folder: Path, markers: Iterable[str]) -> list[str]:
    def there(pattern: str) -> bool:
        return any(folder.glob(pattern)) if "*" in pattern else (folder / pattern).exists()

    return [marker for marker in markers if not any(there(pattern) for pattern in marker.split("|"))]


def _folders(root: Path, most: int = 200) -> list[Path]:
    """Folders one and two levels down, at most `most` of each level (a patient's folder each would be thousands)."""
    first = [Path(entry) for entry in os.scandir(root) if entry.is_dir()][:most]
    second = [Path(entry) for folder in first for entry in os.scandir(folder) if entry.is_dir()][:most]
    return sorted(first) + sorted(second)


def first_file(root: Path, *patterns: str) -> Path | None:
    """The first file that matches one of the glob patterns, in their order."""
    return next((path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()), None)


def require_file(root: Path, source: str, *patterns: str) -> Path:
    """`first_file`, or a ValueError that names what is missing and where."""
    found = first_file(root, *patterns)
    if found is None:
        raise ValueError(f"root: {source} needs {' or '.join(patterns)} under {root}, and there is none.")
    return found


def image_index(*folders: Path, patterns: Sequence[str]) -> dict[str, str]:
    """Stem -> path of the image files that match; the first of equal stems counts."""
    found: dict[str, str] = {}
    for folder in folders:
        for pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                found.setdefault(stem(path.name), str(path))
    return found


def stem(name: str) -> str:
    """A file name without its folders and image suffix ("1.2.840.8" and the like keep their dots)."""
    name = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_text(path, noted: Counter | None = None) -> str:
    """A text file as UTF-8, or as Latin-1 where it is not (counted in `noted`)."""
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if noted is not None:
            noted["text file not in UTF-8, read as Latin-1"] += 1
        return data.decode("latin-1")


# Tables


def read_table(path, columns: Sequence[str] = (), rename: Mapping[str, str] | None = None) -> pd.DataFrame:
    """A CSV (also .gz or .zip) with every value as text, "" where empty; column names stripped of blanks.

    Args:
        columns: the ones that must be there (others stay); "a|b" takes whichever is there, under the name "a".
        rename: file's column name -> official name, for tables of another make.

    Raises:
        ValueError: unreadable or truncated file; a missing column; names the file, and lists what is there.
    """
    path = Path(path)
    try:
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except UnicodeDecodeError:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="latin-1")
    except (OSError, EOFError, gzip.BadGzipFile, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path}: it cannot be read as a table ({error}); download it again.") from error
    table.columns = [column.strip() for column in table.columns]
    table = table.rename(columns=dict(rename or {}))
    for column in columns:
        names = column.split("|")
        there = next((name for name in names if name in table.columns), None)
        if there is None:
            raise ValueError(f"{path}: column {' or '.join(names)!r} is missing; it has {list(table.columns)}.")
        table = table.rename(columns={there: names[0]})
    return table


def without_duplicates(table: pd.DataFrame, column: str, dropped: Counter) -> pd.DataFrame:
    """The first row of each value of `column`; the others are counted."""
    repeated = table.duplicated(column)
    if repeated.any():
        dropped["duplicate id"] += int(repeated.sum())
    return table[~repeated]


def number(text, default: float | None = None) -> float | None:
    """A finite number, or `default` for what is none."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return default
    return value if np.isfinite(value) else default


_CHEXPERT_CODES = {"1": POSITIVE, "0": NEGATIVE, "-1": UNCERTAIN, "": NOT_MENTIONED}
_CHEXPERT_CODES |= {"1.0": POSITIVE, "0.0": NEGATIVE, "-1.0": UNCERTAIN, "nan": NOT_MENTIONED}


def chexpert_codes(row: Mapping[str, str], columns: Sequence[str] = CHEXBERT_OBSERVATIONS) -> list[int]:
    """A row of CheXpert or NegBio labels (1, 0, -1 or blank) as label codes.

    Raises:
        ValueError: another value; names the column.
    """
    codes = []
    for column in columns:
        code = _CHEXPERT_CODES.get(row.get(column, "").strip())
        if code is None:
            raise ValueError(f"column {column!r}: {row[column]!r} is none of 1, 0, -1 and blank.")
        codes.append(code)
    return codes


# Patients


def age_in_years(text) -> float | None:
    """Years from "62", "062Y", "18M", "45 yrs", "3 months" or "20 - 30" (the middle); None for nonsense (414, "")."""
    text = str(text).strip().lower()
    if span := re.fullmatch(r"(\d+)\s*-\s*(\d+)", text):
        years = (int(span[1]) + int(span[2])) / 2
    elif found := re.search(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text):
        unit = found[2][:1]
        years = float(found[1]) / {"m": 12, "w": 52.18, "d": 365.25}.get(unit, 1)
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
        "indication": "",
        "history": "",
        "findings": "",
        "impression": "",
        "labels": [],
        "gaze": [],
        "regions": [],
    }


# Splits


def read_split_lists(path) -> dict[str, list[str]]:
    """Split name -> ids, from a list or a folder of lists (BenchX, CheXWorld, the official ones).

    A line holds an id or file name, alone or before a comma. A folder's `train.txt`, `train_1.txt`, `val.txt`,
    `test_list.txt`, `train_val_list.txt`, `valid.csv` ... become "train", "train_1", "val", "test", "train_val", "val".
    A single file brings in those beside it, so that overlap between splits shows.

    Raises:
        ValueError: no such path, or no list in it.
    """
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    files = [file for file in sorted(folder.glob("*")) if file.suffix.lower() in (".txt", ".csv")]
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"split_lists: {path} does not exist; give a split's list, or a folder of them.")
        files = [file for file in files if file == path or _split_name(file)]
    lists = {}
    for file in files:
        name = _split_name(file) or (file.stem if file == path else None)
        if name:
            lines = (line.split(",")[0].strip() for line in read_text(file).splitlines())
            lists[name] = [stem(line) for line in lines if line]
    if not lists:
        raise ValueError(f"split_lists: {folder} holds no train, val or test list (.txt or .csv).")
    return lists


def _split_name(file: Path) -> str | None:
    name = file.stem.lower().removesuffix("_list").removesuffix("_split")
    name = re.sub(r"^(valid|validate|validation|dev)(?=$|_)", "val", name)
    return name if re.fullmatch(r"(train|val|test|train_val)(_\d+(?:p|percent)?)?", name) else None


def choose_split(
    items: list[dict], split: str | None, split_lists=None, key: str = "image_id", dropped: Counter | None = None
) -> list[dict]:
    """The items of one split, or all of them if `split` is None; `item["split"]` is what the source itself says.

    Args:
        items: with "image_id" and "patient_id", and perhaps "split" and `key`.
        split_lists: a list's path or a folder of lists; it goes before the source's own split.
        key: the entry that the lists name.

    Raises:
        ValueError: an unknown split; a list that names none of the images; a patient in more than one split.
    """
    if split_lists is None:
        members = defaultdict(list)
        for item in items:
            if item.get("split"):
                members[item["split"]].append(item)
    else:
        by_key = defaultdict(list)
        for item in items:
            by_key[stem(item[key])].append(item)
        members = {}
        for name, ids in read_split_lists(split_lists).items():
            members[name] = [item for entry in dict.fromkeys(ids) for item in by_key.get(entry, ())]
            unknown = sum(entry not in by_key for entry in set(ids))
            if name == split and dropped is not None and unknown:
                dropped["in the split list, not in the data"] += unknown
    check_patients({name: {item["patient_id"] for item in chosen} for name, chosen in members.items()})
    if split is None:
        return items
    if split not in members:
        raise ValueError(
            f"split: {split!r} is not there; there are {sorted(members) or 'no splits; give split_lists'}."
        )
    if not members[split]:
        raise ValueError(f"split_lists: the list of {split!r} names no image of this data set; is it another set's?")
    return members[split]


def check_patients(patients_of: Mapping[str, set[str]]) -> None:
    """Refuse splits that share patients. Parts of one split ("train", "train_10", "train_val") are one group.

    Raises:
        ValueError: names the splits and up to five patients.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for name, patients in patients_of.items():
        group = "train" if name.startswith("train") else name.split("_")[0]
        # An official "train_val" list holds the validation patients by design.
        if not (name == "val" and "train_val" in patients_of):
            groups[group] |= patients - {""}
    names = sorted(groups)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            shared = sorted(groups[first] & groups[second])
            if shared:
                raise ValueError(
                    f"split: {len(shared)} patients are in both {first} and {second}: {', '.join(shared[:5])}"
                    f"{' ...' if len(shared) > 5 else ''}; split by patient."
                )


# Samples of 200 per class


SAMPLES = {
    # GLoRIA (Huang et al., ICCV 2021) and EGMA.
    "5x200": ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"),
    # ConVIRT (Zhang et al., MLHC 2022) and EGMA.
    "8x200": (
        "No Finding",
        "Cardiomegaly",
        "Edema",
        "Pneumonia",
        "Atelectasis",
        "Pneumothorax",
        "Pleural Effusion",
        "Fracture",
    ),
}


def sample_facts(source: str, sample: str | None) -> dict:
    """Of a sample of `source`: its name among the data sets, and the classes that `sample_per_class` draws."""
    return {"name": f"{source}_{sample}", "classes": list(_classes_and_count(sample)[0])} if sample else {}


def _classes_and_count(sample: str) -> tuple[tuple[str, ...], int]:
    count, _, each = sample.partition("x")
    classes = SAMPLES.get(f"{count}x200")
    if classes is None or not each.isdigit():
        raise ValueError(f"sample: {sample!r} is unknown; there are {sorted(SAMPLES)} (or 5x40: forty per class).")
    return classes, int(each)


def sample_per_class(items: list[dict], sample: str, names: Sequence[str], seed: int = 0) -> list[dict]:
    """`sample` ("5x200", "8x200", or "5x40": forty each) of the items that are positive for one of its classes alone.

    Uncertain for another class does not count as alone. The same seed takes the same images, whatever their order.

    Raises:
        ValueError: an unknown sample, or too few images of a class.
    """
    classes, each = _classes_and_count(sample)
    columns = [list(names).index(name) for name in classes]
    pools = defaultdict(list)
    for item in sorted(items, key=lambda item: item["image_id"]):
        codes = [item["labels"][column] for column in columns]
        if codes.count(POSITIVE) == 1 and UNCERTAIN not in codes:
            pools[codes.index(POSITIVE)].append(item)
    rng = np.random.default_rng(seed)
    chosen = []
    for index, name in enumerate(classes):
        if len(pools[index]) < each:
            raise ValueError(
                f"sample: {sample} needs {each} images of {name} alone, and there are {len(pools[index])}."
            )
        chosen += [pools[index][i] for i in sorted(rng.choice(len(pools[index]), each, replace=False))]
    return chosen
