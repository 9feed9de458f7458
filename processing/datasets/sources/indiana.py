"""Open-I as it is commonly used: Kaggle's tables, and R2Gen's annotation. The original is `openi`.

    indiana_reports.csv         uid, MeSH, Problems, image, indication, comparison, findings, impression
    indiana_projections.csv     uid, filename, projection (Frontal or Lateral)
    images/images_normalized/<filename>, images/<filename> or <filename>      Kaggle, raddar

    annotation.json             {train, val, test}: [{id: CXR2384_IM-0942, report, image_path: [.../0.png, .../1.png]}]
    images/CXR2384_IM-0942/0.png                                              R2Gen (iu_xray)

Read off public code on both. In Kaggle's copy a frontal image is called PA, which Open-I's frontal images are but for a
few; R2Gen's images of a study are the frontal (0) and the lateral one (1). R2Gen's report is what its papers call the
findings. Patients are named as in `openi`, CXR<uid>. Demner-Fushman et al., JAMIA 2016 and Chen et al., EMNLP 2020.
"""

import json
from collections import Counter
from pathlib import Path

from ..records import CHEXBERT_OBSERVATIONS, NOT_MENTIONED, POSITIVE
from .building import build
from .common import Source
from .openi import MESH, make_record
from .openi import SOURCE as OPENI
from .roots import documented, find_root, found_among, read_text, stem
from .splits import choose_split
from .tables import read_table

VERSION = 1
VIEWS = {"frontal": "PA", "lateral": "LATERAL"}


def load_openi_kaggle(root, split: str | None = None, *, split_lists=None, num_proc: int | None = None, cache_dir=None):
    """Open-I of Kaggle's tables as records, one per image. Labels follow from MeSH, positive or not mentioned.

    Args:
        root: the folder with both tables.
        split: a name among `split_lists`, or None.
    """
    root = find_root(root, "Open-I (Kaggle)", "indiana_reports.csv", "indiana_projections.csv")
    needed = ("uid", "MeSH", "indication", "findings", "impression")
    reports = {row["uid"]: row for row in read_table(root / "indiana_reports.csv", needed).to_dict("records")}
    dropped: Counter = Counter()
    items, noted = [], Counter()
    table = read_table(root / "indiana_projections.csv", ("uid", "filename", "projection"))
    for row in table.to_dict("records"):
        report = reports.get(row["uid"])
        if report is None:
            dropped["image without a report"] += 1
            continue
        study = f"CXR{row['uid']}"
        terms = {term.split("/")[0].strip() for term in report["MeSH"].split(";")}
        positive = {MESH[term] for term in terms if term in MESH}
        noted["MeSH terms of no observation"] += not positive
        places = [f"{folder}{row['filename']}" for folder in ("images/images_normalized/", "images/", "")]
        items.append(
            _blank(study, stem(row["filename"]), VIEWS.get(row["projection"].strip().lower(), ""))
            | {name: " ".join(report[name].split()) for name in ("indication", "findings", "impression")}
            | {
                "labels": [POSITIVE if name in positive else NOT_MENTIONED for name in CHEXBERT_OBSERVATIONS],
                "files": [found_among(root, places)],
            }
        )
    return _build("openi_kaggle", items, split, split_lists, dropped, num_proc, cache_dir, noted)


def load_openi_r2gen(root, split: str | None = None, *, split_lists=None, num_proc: int | None = None, cache_dir=None):
    """Open-I of R2Gen's annotation as records, one per image, without labels.

    Args:
        root: the folder with annotation.json and images/.
        split: "train", "val" or "test", a name among `split_lists`, or None.

    Raises:
        ValueError: an annotation that is no such JSON; names the file.
    """
    root = find_root(root, "Open-I (R2Gen)", "annotation.json")
    with documented(root / "annotation.json", "R2Gen's annotation"):
        annotation = json.loads(read_text(root / "annotation.json"))
        rows = [
            (part, item["id"], item["report"], place, path)
            for part, items in annotation.items()
            for item in items
            for place, path in enumerate(item["image_path"])
        ]
        items = [
            _blank(study.split("_")[0], str(Path(path).with_suffix("")), ("PA", "LATERAL")[place] if place < 2 else "")
            | {
                "indication": "",
                "findings": " ".join(report.split()),
                "impression": "",
                "labels": [NOT_MENTIONED] * 14,
                "split": part,
                "files": [found_among(root, [f"images/{path}", path])],
            }
            for part, study, report, place, path in rows
        ]
    return _build("openi_r2gen", items, split, split_lists, Counter(), num_proc, cache_dir)


def _blank(study: str, image: str, view: str) -> dict:
    sizes = {"image_width": 0, "image_height": 0}
    return {"image_id": image, "study_id": study, "patient_id": study, "view_position": view} | sizes


def _build(source: str, items, split, split_lists, dropped, num_proc, cache_dir, noted=None):
    return build(
        source,
        choose_split(items, split, split_lists, dropped=dropped),
        make_record,
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol="R2Gen's report as findings" if source == "openi_r2gen" else "sections of Kaggle's table",
        split=split,
        dropped=dropped,
        noted=noted,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


_SHARED = {"homepage": OPENI.homepage, "licence": OPENI.licence, "citation": OPENI.citation, "credentialed": False}
SOURCE_KAGGLE = Source(
    name="openi_kaggle",
    title="Open-I (Kaggle's tables)",
    load=load_openi_kaggle,
    published={"images": 7_466, "studies": 3_851},
    **_SHARED,
)
SOURCE_R2GEN = Source(
    name="openi_r2gen",
    title="Open-I (R2Gen's annotation)",
    load=load_openi_r2gen,
    published={"studies": 2_955},
    **_SHARED,
)
