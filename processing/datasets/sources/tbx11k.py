"""TBX11K, as its authors give it or as the simplified copy, 512x512.

    imgs/{health,sick,tb}/<stem>.png (imgs/test is without labels, imgs/extra other sets' pictures)
    lists/TBX11K_{train,val}.txt              health/h0001.png ...
    annotations/json/TBX11K_{train,val}.json  COCO: images, annotations (bbox x, y, w, h), categories

    images/<stem>.png
    data.csv    fname, image_height, image_width, source, bbox ("none" or "{'xmin': ..., 'ymin': ..., 'width': ...,
                'height': ...}"), target (tb, no_tb), tb_type, image_type; a row per box

The copy's columns were read off public descriptions of its table, the authors' layout off their repository and
torchxrayvision's loader. Liu et al., CVPR 2020; https://www.kaggle.com/datasets/vbookshelf/tbx11k-simplified
"""

import ast
import json
from collections import Counter
from pathlib import Path

from ..records import NEGATIVE, POSITIVE
from .building import build, image_size
from .common import Source, blank_record
from .roots import documented, find_root, read_text, stem
from .splits import choose_split
from .tables import box_corners, number, read_table

VERSION = 1
TARGETS = {"tb": [POSITIVE], "no_tb": [NEGATIVE]}


def load_tbx11k(
    root,
    split: str | None = None,
    *,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """TBX11K as records: label "tuberculosis", boxes as regions named by their kind of tuberculosis. No text.

    Args:
        root: the folder with imgs/ (official), or with data.csv and images/ (simplified).
        split: a name among `split_lists` (BenchX: stems), "train" or "val" of the official lists or of the column
            `source`, or None.
    """
    root = find_root(root, "TBX11K", "data.csv|imgs", "images|imgs")
    dropped: Counter = Counter()
    items = _official_items(root, dropped) if (root / "imgs").is_dir() else _simplified_items(root, dropped)
    return build(
        "tbx11k",
        choose_split(items, split, split_lists, dropped=dropped),
        make_record,
        label_names=["tuberculosis"],
        text_protocol="no text",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _official_items(root: Path, dropped: Counter) -> list[dict]:
    split_of, boxes = _official_splits(root), _official_boxes(root, dropped)
    items = []
    for folder, labels in (("health", [NEGATIVE]), ("sick", [NEGATIVE]), ("tb", [POSITIVE])):
        for path in sorted((root / "imgs" / folder).glob("*.png")):
            items.append(
                {
                    "image_id": path.stem,
                    "patient_id": path.stem,
                    "image_width": 0,
                    "image_height": 0,
                    "labels": labels,
                    "regions": boxes.get(path.stem, []),
                    "split": split_of.get(path.stem),
                    "files": [str(path)],
                }
            )
    dropped["no label"] += sum(1 for _ in (root / "imgs" / "test").glob("*.png"))
    dropped["picture of another set"] += sum(1 for _ in (root / "imgs" / "extra").rglob("*.png"))
    return items


def _official_splits(root: Path) -> dict[str, str]:
    return {
        stem(line): name
        for name in ("train", "val")
        if (file := root / "lists" / f"TBX11K_{name}.txt").is_file()
        for line in read_text(file).splitlines()
        if line.strip()
    }


def _official_boxes(root: Path, dropped: Counter) -> dict[str, list[dict]]:
    boxes: dict[str, list[dict]] = {}
    for name in ("train", "val"):
        file = root / "annotations" / "json" / f"TBX11K_{name}.json"
        if not file.is_file():
            continue
        with documented(file, "a COCO annotation"):
            content = json.loads(read_text(file))
            names = {image["id"]: stem(image["file_name"]) for image in content["images"]}
            kinds = {kind["id"]: kind["name"] for kind in content["categories"]}
            found = [(names[a["image_id"]], kinds[a["category_id"]], a["bbox"]) for a in content["annotations"]]
            for image, kind, corners in found:
                if box := box_corners(corners, dropped):
                    boxes.setdefault(image, []).append({"label": kind, "box": box, "mask": None, "sentence": -1})
    return boxes


def _simplified_items(root: Path, dropped: Counter) -> list[dict]:
    columns = ("fname", "image_height", "image_width", "bbox", "target", "tb_type")
    items: dict[str, dict] = {}
    for row in read_table(root / "data.csv", columns).to_dict("records"):
        target = row["target"].strip().lower()
        if target not in TARGETS:
            dropped["no label"] += 1
            continue
        name = stem(row["fname"])
        item = items.setdefault(
            name,
            {
                "image_id": name,
                "patient_id": name,
                "image_width": int(number(row["image_width"], 0)),
                "image_height": int(number(row["image_height"], 0)),
                "labels": TARGETS[target],
                "regions": [],
                "split": row.get("source", "").strip().lower() or None,
                "files": [str(root / "images" / row["fname"].strip())],
            },
        )
        box = _box(row["bbox"], name, dropped)
        region = {"label": row["tb_type"].strip() or "tuberculosis", "box": box, "mask": None, "sentence": -1}
        if region in item["regions"]:
            dropped["box given twice"] += 1
        elif box:
            item["regions"].append(region)
    return list(items.values())


def _box(text: str, name: str, dropped: Counter) -> list[float] | None:
    if text.strip().lower() in ("none", "", "nan"):
        return None
    try:
        values = ast.literal_eval(text)
        corners = [float(values[key]) for key in ("xmin", "ymin", "width", "height")]
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise ValueError(
            f"data.csv: bbox of {name} is no dictionary of xmin, ymin, width, height: {text!r}."
        ) from error
    return box_corners(corners, dropped)


def make_record(item: dict, noted: Counter) -> dict:
    width, height = image_size(item["files"][0])
    noted["size not in the table, taken from the picture"] += not (item["image_width"] and item["image_height"])
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": item["image_width"] or width,
        "image_height": item["image_height"] or height,
        "image_id": item["image_id"],
        "study_id": item["image_id"],
        "patient_id": item["patient_id"],
        "labels": item["labels"],
        "regions": item["regions"],
    }


SOURCE = Source(
    name="tbx11k",
    title="TBX11K (simplified)",
    load=load_tbx11k,
    homepage="https://www.kaggle.com/datasets/vbookshelf/tbx11k-simplified",
    licence="academic use; cite Liu et al., CVPR 2020",
    citation="""@inproceedings{liu2020rethinking,
  title={Rethinking computer-aided tuberculosis diagnosis},
  author={Liu, Yun and Wu, Yu-Huan and Ban, Yunfeng and Wang, Huifang and Cheng, Ming-Ming},
  booktitle={CVPR}, year={2020}
}""",
    published={"images": 8_399},
)
