"""Splits: lists of ids, and patients in one split alone."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from .roots import read_text, stem


def read_split_lists(path, key_of: Callable[[str], str] = stem) -> dict[str, list[str]]:
    """Split name -> ids, from a list or a folder of lists (BenchX, CheXWorld, the official ones).

    A line holds an id or file name, alone or before a comma. A folder's `train.txt`, `train_1.txt`, `val.txt`,
    `test_list.txt`, `train_val_list.txt`, `valid.csv` ... become "train", "train_1", "val", "test", "train_val", "val",
    and so do CheXWorld's `ShenzhenCXR_train_data.txt` ....
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
            lists[name] = [key_of(line) for line in lines if line]
    if not lists:
        raise ValueError(f"split_lists: {folder} holds no train, val or test list (.txt or .csv).")
    return lists


def _split_name(file: Path) -> str | None:
    name = file.stem.lower().removesuffix("_list").removesuffix("_split")
    name = re.sub(r"^(?:\w+?_)??(train|valid|val|test)_data$", r"\1", name)
    name = re.sub(r"^(valid|validate|validation|dev)(?=$|_)", "val", name)
    return name if re.fullmatch(r"(train|val|test|train_val)(_\d+(?:p|percent)?)?", name) else None


def choose_split(
    items: list[dict],
    split: str | None,
    split_lists=None,
    key: str = "image_id",
    dropped: Counter | None = None,
    key_of: Callable[[str], str] = stem,
) -> list[dict]:
    """The items of one split, or all of them if `split` is None; `item["split"]` is what the source itself says.

    Args:
        items: with "image_id" and "patient_id", and perhaps "split" and `key`.
        split_lists: a list's path or a folder of lists; it goes before the source's own split.
        key: the entry that the lists name.
        key_of: what of a line, and of that entry, must agree; by default the file's name without folders and suffix.

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
            by_key[key_of(item[key])].append(item)
        members = {}
        for name, ids in read_split_lists(split_lists, key_of).items():
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
