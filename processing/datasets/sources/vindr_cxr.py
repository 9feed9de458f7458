"""VinDr-CXR 1.0.0: 18,000 radiographs with 22 local and 6 global labels, and boxes.

    train/<image_id>.dicom, test/<image_id>.dicom
    annotations/image_labels_train.csv    image_id, rad_id, 28 labels (0 or 1): three radiologists an image
    annotations/image_labels_test.csv     image_id, 28 labels, by consensus of five; here "Other disease" is singular
    annotations/annotations_train.csv     image_id, rad_id, class_name, x_min, y_min, x_max, y_max (blank: No finding)
    annotations/annotations_test.csv      the same without rad_id

Read off public loaders of the PhysioNet release. Nguyen et al., Scientific Data 2022;
https://physionet.org/content/vindr-cxr/
"""

from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from ..records import NEGATIVE, POSITIVE, UNCERTAIN
from .building import build
from .common import Source
from .roots import find_root, require_file
from .rsna import make_dicom_record
from .splits import choose_split
from .tables import number, read_table

VERSION = 1
VINDR_LABELS = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"),
    *("Other diseases", "No finding"),
)


def load_vindr_cxr(
    root,
    split: str | None = None,
    *,
    demographics: bool = True,
    chexmask=None,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """VinDr-CXR as records. In training, what most of an image's readers saw is positive, what fewer saw uncertain.

    Regions are the boxes of all readers.

    Args:
        root: the folder with train/, test/ and annotations/.
        split: "train", "test", a name among `split_lists`, or None.
        demographics: age and sex (of the DICOMs) make the indication.
        chexmask: CheXmask's table, `VinDr-CXR.csv`; see `chexmask.attach`.
    """
    root = find_root(root, "VinDr-CXR", "annotations/image_labels_train.csv|annotations/image_labels_test.csv")
    dropped: Counter = Counter()
    items = [item for part in ("train", "test") for item in _items(root, part, dropped)]
    return build(
        "vindr_cxr",
        choose_split(items, split, split_lists, dropped=dropped),
        partial(make_dicom_record, demographics=demographics),
        label_names=VINDR_LABELS,
        text_protocol="indication from age and sex" if demographics else "no text",
        split=split,
        dropped=dropped,
        version=VERSION,
        chexmask=chexmask,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _items(root: Path, part: str, dropped: Counter) -> list[dict]:
    file = root / f"annotations/image_labels_{part}.csv"
    if not file.is_file():
        return []
    *names, last, none = VINDR_LABELS
    # The test part has its readers' agreement, a row per image.
    keys = ("image_id", "rad_id") if part == "train" else ("image_id",)
    table = read_table(file, (*keys, *names, f"{last}|{last.removesuffix('s')}", none))
    boxes = _boxes(root, part)
    votes: dict[str, list[list[bool]]] = defaultdict(list)
    dropped["reader given twice"] += int(table.duplicated(keys).sum())
    for row in table.drop_duplicates(keys).to_dict("records"):
        votes[row["image_id"]].append([_vote(row[name], name, file) for name in VINDR_LABELS])
    return [
        {
            "image_id": image,
            "patient_id": image,
            "labels": [code_of_votes(sum(seen), len(seen)) for seen in zip(*readers, strict=True)],
            "regions": boxes[image],
            "split": part,
            "files": [str(root / part / f"{image}.dicom")],
        }
        for image, readers in votes.items()
    ]


def _vote(value: str, name: str, file: Path) -> bool:
    seen = number(value)
    if seen not in (0, 1):
        raise ValueError(f"{file}: column {name!r}: {value!r} is neither 0 nor 1.")
    return seen == 1


def code_of_votes(votes: int, readers: int) -> int:
    """Positive if most of the readers saw it, uncertain if fewer, negative if none."""
    return POSITIVE if 2 * votes > readers else UNCERTAIN if votes else NEGATIVE


def _boxes(root: Path, part: str) -> dict[str, list[dict]]:
    file = require_file(root, "VinDr-CXR", f"annotations/annotations_{part}.csv")
    corners = ("x_min", "y_min", "x_max", "y_max")
    boxes: dict[str, list[dict]] = defaultdict(list)
    for row in read_table(file, ("image_id", "class_name", *corners)).to_dict("records"):
        box = [number(row[name]) for name in corners]
        if None not in box:
            label = {"Other disease": "Other diseases"}.get(row["class_name"], row["class_name"])
            boxes[row["image_id"]].append({"label": label, "box": box, "mask": None, "sentence": -1})
    return boxes


SOURCE = Source(
    name="vindr_cxr",
    title="VinDr-CXR",
    load=load_vindr_cxr,
    homepage="https://physionet.org/content/vindr-cxr/",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation="""@article{nguyen2022vindr,
  title={VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations},
  author={Nguyen, Ha Q. and Lam, Khanh and Le, Linh T. and others},
  journal={Scientific Data}, volume={9}, pages={429}, year={2022}
}""",
    published={"images": 18_000, "train": 15_000, "test": 3_000},
)
