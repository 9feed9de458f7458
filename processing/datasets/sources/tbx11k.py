"""TBX11K, the simplified copy, 512x512.

    images/<stem>.png
    data.csv    fname, image_height, image_width, source, bbox ("none" or "{'xmin': ..., 'ymin': ..., 'width': ...,
                'height': ...}"), target (tb, no_tb), tb_type, image_type; a row per box

Liu et al., CVPR 2020; https://www.kaggle.com/datasets/vbookshelf/tbx11k-simplified
"""

import ast
from collections import Counter

from ..records import NEGATIVE, POSITIVE
from .building import build, image_size
from .common import Source, blank_record
from .roots import find_root, stem
from .splits import choose_split
from .tables import number, read_table

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
        root: the folder with data.csv and images/.
        split: a name among `split_lists` (BenchX: stems), "train" or "val" of the column `source`, or None.
    """
    root = find_root(root, "TBX11K", "data.csv", "images")
    columns = ("fname", "image_height", "image_width", "bbox", "target", "tb_type")
    dropped: Counter = Counter()
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
        box = _box(row["bbox"], name)
        region = {"label": row["tb_type"].strip() or "tuberculosis", "box": box, "mask": None, "sentence": -1}
        if box and region not in item["regions"]:
            item["regions"].append(region)
    return build(
        "tbx11k",
        choose_split(list(items.values()), split, split_lists, dropped=dropped),
        make_record,
        label_names=["tuberculosis"],
        text_protocol="no text",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _box(text: str, name: str) -> list[float] | None:
    if text.strip().lower() in ("none", "", "nan"):
        return None
    try:
        values = ast.literal_eval(text)
        x, y, width, height = (float(values[key]) for key in ("xmin", "ymin", "width", "height"))
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise ValueError(
            f"data.csv: bbox of {name} is no dictionary of xmin, ymin, width, height: {text!r}."
        ) from error
    return [x, y, x + width, y + height]


def make_record(item: dict, noted: Counter) -> dict:
    width, height = image_size(item["files"][0])
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
