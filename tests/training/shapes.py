"""Pictures of two shapes: a bright square on one side, a dark bar across the other."""

import numpy as np
from datasets import Dataset
from PIL import Image

from processing.datasets.records import describe, record_features
from processing.datasets.sources.common import blank_record

NAMES = ["Mass", "Fracture", "Hernia"]
SIZES = {"train": 48, "validation": 16, "test": 24}


def picture(index: int, mass: bool, fracture: bool) -> tuple[Image.Image, list[dict]]:
    generator = np.random.default_rng(index)
    pixels = generator.integers(60, 140, (64, 64)).astype(np.uint8)
    regions = []
    if mass:
        row, column = generator.integers(4, 40), generator.integers(4, 10)
        pixels[row : row + 20, column : column + 20] = 250
        mask = np.zeros((64, 64), np.uint8)
        mask[row : row + 20, column : column + 20] = 255
        regions.append({"label": "Mass", "box": [0.0, 0.0, 1.0, 1.0], "mask": Image.fromarray(mask), "sentence": -1})
    if fracture:
        row = generator.integers(4, 48)
        pixels[row : row + 12, 36:60] = 0
        # In pixels of the original, which is ten times as large.
        box = [360.0, row * 10.0, 600.0, row * 10.0 + 120]
        regions.append({"label": "Fracture", "box": box, "mask": None, "sentence": -1})
    return Image.fromarray(pixels), regions


def records(split: str, names=NAMES, **changes) -> Dataset:
    rows = []
    for index in range(SIZES[split]):
        number = 1000 * list(SIZES).index(split) + index
        mass, fracture = index % 2 == 0, index % 3 == 0
        image, regions = picture(number, mass, fracture)
        rows.append(
            blank_record()
            | {
                "image": image,
                "image_width": 640,
                "image_height": 640,
                "image_id": f"i{number}",
                "study_id": f"s{number}",
                "patient_id": f"p{number // 2}",
                "study_date": "",
                "view_position": "PA",
                "patient_age": 60.0,
                "patient_sex": "F",
                "indication": "Cough.",
                "history": "",
                "findings": "There is a mass.",
                "impression": "",
                "labels": [int(mass), 2 if fracture else -1, 0][: len(names)],
                "gaze": [],
                "regions": regions,
            }
            | {name: value(index) for name, value in changes.items()}
        )
    return describe(Dataset.from_list(rows, features=record_features()), label_names=list(names), source="shapes")
