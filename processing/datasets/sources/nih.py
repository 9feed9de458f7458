"""NIH ChestX-ray14.

    Data_Entry_2017_v2020.csv   Image Index, Finding Labels ("A|B"), Follow-up #, Patient ID, Patient Age,
                                Patient Gender, View Position
    images_001..012/images/*.png (or images/*.png, images/images_001/*.png, or beside the table), 1024x1024
    BBox_List_2017.csv          Image Index, Finding Label, Bbox [x, y, w, h]
    train_val_list.txt, test_list.txt

Headers were read off the tables themselves, which torchxrayvision installs. Provided by the NIH Clinical Center. Wang
et al., CVPR 2017; https://nihcc.app.box.com/v/ChestXray-NIHCC
"""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ..records import NEGATIVE, POSITIVE
from .building import build, image_size
from .common import Source, age_in_years, blank_record, indication_of, sex_letter
from .order import oldest_first
from .roots import find_root, first_file, image_index, stem
from .splits import choose_split
from .tables import box_corners, number, read_table, without_duplicates

VERSION = 1
NIH_LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
# Boxes are in pixels of the published PNGs, whatever size the copy at hand has.
SIDE = 1024
TABLE = "Data_Entry_2017*.csv*"
# The table of another make, for `columns`: a subset with lower-case names.
MINI_COLUMNS = {
    "image": "Image Index",
    "finding_labels": "Finding Labels",
    "patient_id": "Patient ID",
    "patient_age": "Patient Age",
    "patient_sex": "Patient Gender",
    "view_position": "View Position",
}


def load_nih(
    root,
    split: str | None = None,
    *,
    table: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    demographics: bool = True,
    chexmask=None,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """NIH ChestX-ray14 as records; boxes become regions.

    Args:
        root: the folder with the table and the images.
        split: "train_val" or "test" (official lists, if they are there), a name among `split_lists`, or None.
        table: another table than `Data_Entry_2017*.csv`, relative to the root.
        columns: its column names -> the official ones, e.g. `MINI_COLUMNS`.
        demographics: age, sex and the follow-up number make the indication.
        chexmask: CheXmask's table, `ChestX-Ray8.csv`; see `chexmask.attach`.
        split_lists: a folder of lists or one list (official, BenchX).

    Raises:
        ValueError: wrong root, missing table or column, an unknown label, patients in two splits.
    """
    root = find_root(root, "NIH ChestX-ray14", str(table) if table else TABLE)
    file = root / table if table else first_file(root, TABLE)
    needed = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender|Patient Sex")
    dropped: Counter = Counter()
    rows = without_duplicates(read_table(file, needed, columns), "Image Index", dropped).to_dict("records")
    suffixes = ("*.png", "*.jpg", "*.jpeg")
    folders = ("images_*/images/", "images/", "images_*/", "images/images_*/", "images/images_*/images/", "")
    images = image_index(root, patterns=[folder + suffix for folder in folders for suffix in suffixes])
    boxes = _boxes(root, dropped)
    items = []
    for row in rows:
        name = stem(row["Image Index"])
        follow_up = number(row.get("Follow-up #"))
        items.append(
            {
                "image_id": name,
                "study_id": name,
                "patient_id": row["Patient ID"],
                "view_position": row.get("View Position", "").strip().upper(),
                "patient_age": age_in_years(row["Patient Age"]),
                "patient_sex": sex_letter(row["Patient Gender"]),
                "study_order": follow_up,
                "follow_up": None if follow_up is None else int(follow_up),
                "labels": _labels(row, file),
                "regions": boxes.get(name, []),
                "files": [images.get(name, str(root / "images" / row["Image Index"]))],
            }
        )
    if split and split_lists is None and any(root.glob("*_list.txt")):
        split_lists = root
    return build(
        "nih",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        partial(make_record, demographics=demographics),
        label_names=NIH_LABELS,
        text_protocol="indication from age, sex and follow-up number" if demographics else "no text",
        split=split,
        dropped=dropped,
        chexmask=chexmask,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def make_record(item: dict, noted: Counter, demographics: bool = True) -> dict:
    image_size(item["files"][0])
    fields = ("image_id", "study_id", "patient_id", "view_position", "patient_age", "patient_sex", "labels", "regions")
    indication = indication_of(item["patient_age"], item["patient_sex"], item["follow_up"]) if demographics else ""
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": SIDE,
        "image_height": SIDE,
        **{name: item[name] for name in fields},
        "indication": indication,
    }


def _labels(row: dict, file: Path | None) -> list[int]:
    found = {label.strip() for label in row["Finding Labels"].split("|")} - {"No Finding", ""}
    unknown = found - set(NIH_LABELS)
    if unknown:
        raise ValueError(
            f"{file}: {row['Image Index']} has the label {sorted(unknown)[0]!r}, which is none of NIH's 14."
        )
    return [POSITIVE if name in found else NEGATIVE for name in NIH_LABELS]


def _boxes(root: Path, dropped: Counter) -> dict[str, list[dict]]:
    """Regions per image. The file's header breaks its last column's name over four commas: "Bbox [x,y,w,h]"."""
    file = first_file(root, "BBox_List_2017*.csv*")
    boxes: dict[str, list[dict]] = {}
    if file is not None:
        table = read_table(file, ("Image Index", "Finding Label"))
        start = list(table.columns).index("Finding Label") + 1
        if len(table.columns) < start + 4:
            raise ValueError(f"{file}: four columns must follow 'Finding Label', the box's; it has {list(table)}.")
        for row in table.itertuples(index=False):
            box = box_corners(row[start : start + 4], dropped)
            label = {"Infiltrate": "Infiltration"}.get(row[start - 1], row[start - 1])
            if box is None:
                continue
            boxes.setdefault(stem(row[0]), []).append({"label": label, "box": box, "mask": None, "sentence": -1})
    return boxes


SOURCE = Source(
    name="nih",
    title="NIH ChestX-ray14",
    load=load_nih,
    homepage="https://nihcc.app.box.com/v/ChestXray-NIHCC",
    licence="no restrictions on use; cite Wang et al., CVPR 2017, and name the NIH Clinical Center",
    citation="""@inproceedings{wang2017chestxray,
  title={ChestX-ray8: Hospital-scale chest X-ray database and benchmarks on weakly-supervised classification and
         localization of common thorax diseases},
  author={Wang, Xiaosong and Peng, Yifan and Lu, Le and others},
  booktitle={CVPR}, year={2017}
}""",
    credentialed=False,
    published={"images": 112_120, "patients": 30_805, "train_val": 86_524, "test": 25_596},
)
