"""Montgomery County: tuberculosis on chest X-rays of its screening programme, with masks of both lungs.

    CXR_png/MCUCXR_<n>_<0|1>.png             1 = tuberculosis; 4020 x 4892 or 4892 x 4020
    ClinicalReadings/MCUCXR_<n>_<0|1>.txt    "Patient's Sex: F", "Patient's Age: 023Y", and the reading
    ManualMask/leftMask/, rightMask/         PNG of the images' names

Folders and file names were read off the set's own notice and public code that opens it; the readings' wording off
another reader's tests, so that sex and age are looked for anywhere before the last line. `leftMask` is the lung on the
image's left, the patient's **right** one (so found by one public reader, at second hand here), and regions are named by
the patient's side. The reading names the diagnosis: it becomes the impression, never context. All views are PA. Jaeger
et al., Quantitative Imaging in Medicine and Surgery 2014;
https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets
"""

import re
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from .building import build, image_size
from .common import Skip, age_in_years, sex_letter
from .roots import find_root
from .shenzhen import SOURCE as SHENZHEN
from .shenzhen import named_items, reading_lines, tuberculosis_record
from .siim import mask_region
from .splits import choose_split

VERSION = 1
LUNGS = {"leftMask": "right lung", "rightMask": "left lung"}


def load_montgomery(
    root,
    split: str | None = None,
    *,
    demographics: bool = True,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """Montgomery as records: label "tuberculosis", the lungs as regions with masks.

    Args:
        root: the folder above `CXR_png/` (`MontgomerySet`).
        split: a name among `split_lists`, or None.
        demographics: age and sex make the indication.
    """
    root = find_root(root, "Montgomery", "CXR_png/MCUCXR_*.png")
    dropped: Counter = Counter()
    items = named_items(root, "MCUCXR", dropped)
    for item in items:
        item["files"] += [str(root / "ManualMask" / folder / f"{item['image_id']}.png") for folder in LUNGS]
    return build(
        "montgomery",
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


def make_record(item: dict, noted: Counter, demographics: bool = True) -> dict:
    _, reading, *masks = item["files"]
    lines = reading_lines(reading, noted)
    told = "\n".join(lines[:-1])
    sex, age = (re.search(rf"\b{name}\b\W*(\w+)", told, re.I) for name in ("sex", "age"))
    sex, age = sex_letter(sex[1]) if sex else None, age_in_years(age[1]) if age else None
    record = tuberculosis_record(item, age, sex, lines, demographics)
    size = record["image_width"], record["image_height"]
    regions = [_lung(file, label, size, noted) for file, label in zip(masks, LUNGS.values(), strict=True)]
    return record | {"regions": [region for region in regions if region]}


def _lung(file: str, label: str, size: tuple[int, int], noted: Counter) -> dict | None:
    """A lung's region; None, noted, without a mask that can be read and has the image's size."""
    try:
        own = image_size(file, "mask")
    except Skip as reason:
        noted[str(reason)] += 1
        return None
    with Image.open(file) as opened:
        mask = np.asarray(opened.convert("L")) > 0
    if own != size or not mask.any():
        noted["mask empty, or of another size than the image"] += 1
        return None
    return mask_region(mask, label)


SOURCE = replace(
    SHENZHEN,
    name="montgomery",
    title="Montgomery County chest X-ray set",
    load=load_montgomery,
    published={"images": 138, "tuberculosis": 58},
)
