"""Samples of 200 images per class (GLoRIA, ConVIRT, EGMA)."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..records import POSITIVE, UNCERTAIN

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

    Alone is among all labels, not only among the sample's classes (as the published lists are); uncertain for another
    label does not count as alone. The same seed takes the same images, whatever their order.

    Raises:
        ValueError: an unknown sample, or too few images of a class.
    """
    classes, each = _classes_and_count(sample)
    column_of = {list(names).index(name): index for index, name in enumerate(classes)}
    pools = defaultdict(list)
    for item in sorted(items, key=lambda item: item["image_id"]):
        codes = list(item["labels"])
        if codes.count(POSITIVE) == 1 and UNCERTAIN not in codes and codes.index(POSITIVE) in column_of:
            pools[column_of[codes.index(POSITIVE)]].append(item)
    rng = np.random.default_rng(seed)
    chosen = []
    for index, name in enumerate(classes):
        if len(pools[index]) < each:
            raise ValueError(
                f"sample: {sample} needs {each} images of {name} alone, and there are {len(pools[index])}."
            )
        chosen += [pools[index][i] for i in sorted(rng.choice(len(pools[index]), each, replace=False))]
    return chosen
