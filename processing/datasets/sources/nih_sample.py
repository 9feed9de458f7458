"""721 frontal radiographs of NIH ChestX-ray14 for `make real`: 560 to train on, 161 of other patients to be tested on.

    cogaze datasets preview nih_sample /data/nih

The lists (`nih_sample/*.txt`) name images of the published set, so that everybody who has it tests on the same ones.
The folder is that of NIH ChestX-ray14 (`nih`), or one with `train.csv`, `val.csv` and the listed pictures alone, itself
or as its sub-folder `nih_mini`.
"""

from dataclasses import replace
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from ..records import describe
from .nih import MINI_COLUMNS, TABLE, load_nih
from .nih import SOURCE as NIH
from .roots import first_file

LISTS = Path(__file__).with_name("nih_sample")
SPLITS = ("train", "val")


def load_nih_sample(
    root, split: str | None = None, *, demographics: bool = True, num_proc: int | None = None, cache_dir=None
) -> Dataset:
    """The sample as records, as `load_nih` makes them.

    Args:
        root: see above. split: "train", "val" or None for both. demographics: as for `load_nih`.

    Raises:
        ValueError: no folder with either, an unknown split, and what `load_nih` says.
    """
    folder = Path(root or "").expanduser()
    if root is None or not folder.is_dir():
        raise ValueError(f"root: there is no folder {root}; {where_to_get()}")
    if split is not None and split not in SPLITS:
        raise ValueError(f"split: {split!r} is none of {', '.join(SPLITS)}.")
    options = {"demographics": demographics, "num_proc": num_proc, "cache_dir": cache_dir}
    parts = [_part(folder, each, options) for each in ([split] if split else SPLITS)]
    dataset = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    return describe(dataset, name="nih_sample", split=split)


def where_to_get() -> str:
    return f"NIH ChestX-ray14 can be had at {NIH.homepage}: give the folder with its images and Data_Entry_2017*.csv."


def _part(folder: Path, split: str, options: dict) -> Dataset:
    for own in (folder, folder / "nih_mini"):
        if (own / f"{split}.csv").is_file():
            return load_nih(own, table=f"{split}.csv", columns=MINI_COLUMNS, **options)
    if first_file(folder, TABLE) is None:
        raise ValueError(f"root: {folder} holds neither {split}.csv nor {TABLE}; {where_to_get()}")
    return load_nih(folder, split, split_lists=LISTS, **options)


SOURCE = replace(
    NIH,
    name="nih_sample",
    title="721 radiographs of NIH ChestX-ray14, listed",
    load=load_nih_sample,
    published={"images": 721, "train": 560, "val": 161},
)
