"""CheXpert, and the 5x200 and 8x200 samples of it.

    train.csv, valid.csv (test.csv)   Path, Sex, Age, Frontal/Lateral, AP/PA, 14 labels: 1, 0, -1 or blank
    groundtruth.csv                   Study, labels: those of the test set
    train/patient00001/study1/view1_frontal.jpg                              the small copy
    CheXpert-v1.0 batch 1 (validate & csv)/train.csv, valid.csv, ...         full resolution
    CheXpert-v1.0 batch 2 (train 1)/patient00001/study1/view1_frontal.jpg

Headers were read off train.csv itself, which torchxrayvision installs; the batches' folders off public code that reads
them; groundtruth.csv is known at second hand. Path begins with the archive's own name (CheXpert-v1.0-small/...),
whatever the folder is called now. File names repeat in every study, so an image is known by its path from `patient` on.
Irvin et al., AAAI 2019; https://stanfordmlgroup.github.io/competitions/chexpert/
"""

import os
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..records import CHEXBERT_OBSERVATIONS
from .building import build, image_size
from .common import Source, age_in_years, blank_record, indication_of, sex_letter
from .order import oldest_first
from .roots import find_root, first_file, image_index, read_text, stem
from .samples import sample_facts, sample_per_class
from .splits import choose_split
from .tables import chexpert_codes, number, read_table, without_duplicates

VERSION = 2
TABLES = ("train", "valid", "test", "groundtruth")
PLACES = ("{}.csv", "*batch 1*/{}.csv", "test/{}.csv")


def load_chexpert(
    root,
    split: str | None = None,
    *,
    sample: str | None = None,
    sample_list=None,
    seed: int = 0,
    demographics: bool = True,
    chexmask=None,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """CheXpert as records.

    Args:
        root: the folder that holds train.csv and valid.csv, or the full resolution's batch folders.
        split: "train", "val" (valid.csv), "test" (test.csv or groundtruth.csv, where there is one) or None.
        sample: "5x200" or "8x200" (see `sample_per_class`), drawn with `seed` from the split's frontal images.
        sample_list: a published list instead of a draw (GLoRIA's or ConVIRT's: any text with a path in each line).
        demographics: age and sex make the indication.
        chexmask: CheXmask's table, `CheXpert.csv`; see `chexmask.attach`.
        split_lists: lines are paths; what stands before `patient` does not matter.

    Raises:
        ValueError: wrong root, missing column, a Path without a patient, a list that names no image.
    """
    root = find_root(root, "CheXpert", "|".join(pattern.format(name) for name in TABLES for pattern in PLACES))
    dropped: Counter = Counter()
    folders = _patient_folders(root)
    items = []
    for name, file in (("train", "train"), ("val", "valid"), ("test", "test")):
        table = first_file(root, *(pattern.format(file) for pattern in PLACES))
        if table is not None:
            rows = without_duplicates(read_table(table, ("Path", *CHEXBERT_OBSERVATIONS)), "Path", dropped)
            items += [_item(row["Path"], row, name, folders, root, table) for row in rows.to_dict("records")]
    truth = first_file(root, *(pattern.format("groundtruth") for pattern in PLACES))
    if truth is not None and not any(item["split"] == "test" for item in items):
        items += _test_items(truth, folders, root, dropped)
    items = choose_split(oldest_first(items), split, split_lists, dropped=dropped, key_of=patient_path)
    if sample_list is not None:
        items = _listed(items, sample_list, dropped)
    elif sample:
        frontal = [item for item in items if item["view_position"] != "LATERAL"]
        dropped["lateral, left out of the sample"] += len(items) - len(frontal)
        items = sample_per_class(frontal, sample, CHEXBERT_OBSERVATIONS, seed)
    return build(
        "chexpert",
        items,
        partial(make_record, demographics=demographics),
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol="indication from age and sex" if demographics else "no text",
        split=split,
        sample=sample,
        **sample_facts("chexpert", sample),
        chexmask=chexmask,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def patient_path(path: str) -> str:
    """A path from `patient` on, without suffix: "patient00001/study1/view1_frontal"."""
    found = re.search(r"patient\d+(?:/[\w.-]+)*", path.replace("\\", "/"))
    return re.sub(r"\.(?:jpe?g|png|dcm)$", "", found[0], flags=re.I) if found else stem(path)


def _patient_folders(root: Path) -> dict[str, Path]:
    """Patient -> the folder above the patient's own, in every layout."""
    bases = [root, *sorted(root.glob("*batch*"))]
    bases += [base / part for base in bases for part in ("train", "valid", "test")]
    found: dict[str, Path] = {}
    for base in bases:
        if base.is_dir():
            found |= {entry.name: base for entry in os.scandir(base) if entry.name.startswith("patient")}
    return found


def _item(path: str, row: dict, split: str, folders: dict[str, Path], root: Path, table: Path) -> dict:
    parts = path.split("/")
    place = next((i for i, part in enumerate(parts) if re.fullmatch(r"patient\d+", part)), None)
    if place is None:
        raise ValueError(f"{table}: {path!r} names no patient; Path is .../patient<n>/study<n>/...")
    patient = parts[place]
    named = row.get("Frontal/Lateral", "").strip().lower() or parts[-1].lower()
    base = folders.get(patient, root.joinpath(*parts[max(place - 1, 0) : place]))
    return {
        "image_id": patient_path(path),
        "study_id": "/".join(parts[place : place + 2]),
        "patient_id": patient,
        "study_order": number(parts[place + 1].removeprefix("study"), 0),
        "view_position": "LATERAL" if "lateral" in named else row.get("AP/PA", "").strip().upper(),
        "patient_age": age_in_years(row.get("Age", "")),
        "patient_sex": sex_letter(row.get("Sex", "")),
        "labels": chexpert_codes(row, where=f"{table}, {path}"),
        "split": split,
        "files": [str(base.joinpath(*parts[place:]))],
    }


def _test_items(truth: Path, folders: dict[str, Path], root: Path, dropped: Counter) -> list[dict]:
    """The images of groundtruth.csv's studies: it has a row per study."""
    items = []
    table = without_duplicates(read_table(truth, ("Study", *CHEXBERT_OBSERVATIONS)), "Study", dropped)
    for row in table.to_dict("records"):
        study = patient_path(row["Study"])
        folder = folders.get(study.split("/")[0], root / "test") / study
        images = image_index(folder, patterns=("*.jpg", "*.png"))
        if not images:
            dropped["test study without images"] += 1
        for path in images.values():
            items.append(_item(f"{study}/{Path(path).name}", row, "test", folders, root, truth))
    return items


def _listed(items: list[dict], file, dropped: Counter) -> list[dict]:
    """The items that a published list names, in its order."""
    by_path = {item["image_id"]: item for item in items}
    lines = (line for line in read_text(Path(file).expanduser()).splitlines() if "patient" in line)
    wanted = list(dict.fromkeys(patient_path(line) for line in lines))
    found = [by_path[path] for path in wanted if path in by_path]
    if not found:
        raise ValueError(f"sample_list: {file} names no image of this split; its lines hold paths from patient on.")
    if len(found) < len(wanted):
        dropped["in the sample list, not in the data"] += len(wanted) - len(found)
    return found


def make_record(item: dict, noted: Counter, demographics: bool = True) -> dict:
    width, height = image_size(item["files"][0])
    fields = ("image_id", "study_id", "patient_id", "view_position", "patient_age", "patient_sex", "labels")
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in fields},
        "indication": indication_of(item["patient_age"], item["patient_sex"]) if demographics else "",
    }


SOURCE = Source(
    name="chexpert",
    title="CheXpert",
    load=load_chexpert,
    homepage="https://stanfordmlgroup.github.io/competitions/chexpert/",
    licence="Stanford University Dataset Research Use Agreement",
    citation="""@inproceedings{irvin2019chexpert,
  title={CheXpert: A large chest radiograph dataset with uncertainty labels and expert comparison},
  author={Irvin, Jeremy and Rajpurkar, Pranav and Ko, Michael and others},
  booktitle={AAAI}, year={2019}
}""",
    published={"train": 223_414, "val": 234, "patients": 64_740},
)


def _sampled(sample: str) -> Source:
    return replace(
        SOURCE,
        name=f"chexpert_{sample}",
        title=f"CheXpert {sample}",
        load=partial(load_chexpert, split="train", sample=sample),
        published={"images": 200 * int(sample[0])},
    )


SOURCE_5X200, SOURCE_8X200 = _sampled("5x200"), _sampled("8x200")
