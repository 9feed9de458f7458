"""Shenzhen: tuberculosis on chest X-rays of Shenzhen No. 3 Hospital.

    CXR_png/CHNCXR_<n>_<0|1>.png             1 = tuberculosis
    ClinicalReadings/CHNCXR_<n>_<0|1>.txt    sex and age in the first line, reading in the last

File names were read off the lists that CoGaze's repository holds and torchxrayvision's loader; the readings' wording is
off another reader's tests (sometimes "femal 32yrs", "64days"). The reading names the diagnosis: it becomes the
impression, never context. Views are taken as PA. Jaeger et al., Quantitative Imaging in Medicine and Surgery 2014;
https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..records import NEGATIVE, POSITIVE
from .building import build, image_size
from .common import Source, age_in_years, blank_record, indication_of, sex_letter
from .roots import find_root, image_index, read_text
from .splits import choose_split

VERSION = 2


def load_shenzhen(
    root,
    split: str | None = None,
    *,
    demographics: bool = True,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """Shenzhen as records: label "tuberculosis".

    Args:
        root: the folder above `CXR_png/`.
        split: a name among `split_lists` (CheXWorld's `ShenzhenCXR_train_data.txt` ... with
            lines `name.png,label`), or None.
        demographics: age and sex make the indication.
    """
    root = find_root(root, "Shenzhen", "CXR_png/CHNCXR_*.png")
    dropped: Counter = Counter()
    items = named_items(root, "CHNCXR", dropped)
    return build(
        "shenzhen",
        choose_split(items, split, split_lists, dropped=dropped),
        partial(make_record, demographics=demographics),
        label_names=["tuberculosis"],
        text_protocol=f"impression: the clinical reading; {'indication from age and sex' if demographics else ''}",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def named_items(root: Path, prefix: str, dropped: Counter) -> list[dict]:
    """An item for each image, whose name tells the label; files: image and clinical reading."""
    items = []
    for name, path in image_index(root / "CXR_png", patterns=("*.png",)).items():
        found = re.fullmatch(rf"{prefix}_(\d+)_([01])", name)
        if found is None:
            dropped["file name without a label"] += 1
            continue
        reading = root / "ClinicalReadings" / f"{name}.txt"
        items.append(
            {
                "image_id": name,
                "patient_id": name,
                "labels": [POSITIVE if found[2] == "1" else NEGATIVE],
                "files": [path, str(reading)],
            }
        )
    return items


def reading_lines(file: str, noted: Counter) -> list[str]:
    """The lines of a clinical reading that are not blank; none, noted, without the file."""
    if not Path(file).is_file():
        noted["clinical reading missing"] += 1
        return []
    return [line.strip() for line in read_text(file, noted).splitlines() if line.strip()]


def make_record(item: dict, noted: Counter, demographics: bool = True) -> dict:
    lines = reading_lines(item["files"][1], noted)
    first = lines[0] if lines else ""
    sex, age = sex_letter(first if re.match(r"(fe)?mal", first, re.I) else ""), age_in_years(first)
    return tuberculosis_record(item, age, sex, lines, demographics)


def tuberculosis_record(
    item: dict, age: float | None, sex: str | None, lines: Sequence[str], demographics: bool
) -> dict:
    """A record of `named_items`' item, with the last of several lines as impression."""
    width, height = image_size(item["files"][0])
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": width,
        "image_height": height,
        "image_id": item["image_id"],
        "study_id": item["image_id"],
        "patient_id": item["patient_id"],
        "view_position": "PA",
        "patient_age": age,
        "patient_sex": sex,
        "indication": indication_of(age, sex) if demographics else "",
        "impression": lines[-1] if len(lines) > 1 else "",
        "labels": item["labels"],
    }


SOURCE = Source(
    name="shenzhen",
    title="Shenzhen chest X-ray set",
    load=load_shenzhen,
    homepage="https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets",
    licence="for research; cite Jaeger et al. 2014 and name the U.S. National Library of Medicine",
    citation="""@article{jaeger2014two,
  title={Two public chest X-ray datasets for computer-aided screening of pulmonary diseases},
  author={Jaeger, Stefan and Candemir, Sema and Antani, Sameer and others},
  journal={Quantitative Imaging in Medicine and Surgery}, volume={4}, number={6}, pages={475--477}, year={2014}
}""",
    credentialed=False,
    published={"images": 662, "tuberculosis": 336},
)
