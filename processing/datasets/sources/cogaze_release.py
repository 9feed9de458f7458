"""The CoGaze release's annotations of MIMIC-CXR: reports, labels, and gaze as rendered heatmaps.

    <annotation>.json      {train, val, test}: items {id, subject_id, study_id,
                           anchor_scan: {image_path, view_position}, findings, findings_factual_serialization,
                           indication_pure, history_pure, disease_labels, sentence_gaze_heatmap, similar_case,
                           disease_prediction}
    <image_dir>/           report_heatmap.jpg, sentence-heatmap-lookup.json, <key>_heatmap.jpg

Keys were read off the authors' code that reads the file; the file itself is under MIMIC-CXR's agreement. The release
has no fixations: a reading in `gaze` has `heatmaps` beside the schema's fields, pictures of its sentences and, last, of
the full transcript, as the processors and `processing.gaze.heatmap_targets` take them; its fixations are empty and its
times null. `similar_report` and `diseases` are further columns, the retrieved report and the predicted diseases where
the release has them. https://huggingface.co/MK-runner/CoGaze, arXiv 2603.26049
"""

import json
import os
import re
from collections import Counter
from functools import partial
from pathlib import Path

from datasets import Image, List, Value

from ..records import CHEXBERT_OBSERVATIONS, NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN, record_features
from .building import build, image_size
from .common import Source, blank_record
from .mimic_shared import study_facts
from .order import oldest_first
from .roots import documented, find_root, read_text
from .splits import choose_split

VERSION = 3
CODES = {0: NOT_MENTIONED, 1: POSITIVE, 2: NEGATIVE, 3: UNCERTAIN}


def load_cogaze_release(
    root,
    split: str | None = None,
    *,
    mimic_root,
    gaze_root=None,
    variant: str = "released",
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """The release's annotations as records, one per image. Items without findings_factual_serialization are dropped.

    Args:
        root: the annotations' folder (or the JSON file itself).
        split: "train", "val", "test" or None for all.
        mimic_root: the folder that `image_path` starts from: MIMIC-CXR-JPG's, or its `files/`.
        gaze_root: the folder that `image_dir` starts from; default: beside the annotations.
        variant: which image of an item: "released", the first, as the released code takes it; "preferred", the PA one,
            else the AP one, else the first.
    """
    file = find_annotation(root, "the CoGaze release")
    bases = image_bases(mimic_root)
    gaze_base = Path(gaze_root).expanduser() if gaze_root else file.parent
    choose_view([""], [""], variant)  # refuses an unknown one
    dropped: Counter = Counter()
    items = []
    found = read_annotation(file, ("id", "subject_id", "study_id", "anchor_scan", "findings"))
    facts = study_facts(Path(mimic_root).expanduser(), (str(item["id"]) for _, item in found))
    for name, item in found:
        with documented(file, "an annotation of the form {train, val, test}"):
            if not item.get("findings_factual_serialization"):
                dropped["no findings_factual_serialization"] += 1
                continue
            own = facts.get(str(item["id"]), {})
            items.append(own | _item(name, item, variant, bases, gaze_base))
    features = record_features()
    features["gaze"] = List({**features["gaze"].feature, "heatmaps": List(Image())})
    features["similar_report"] = Value("string")
    features["diseases"] = List(Value("string"))
    return build(
        "cogaze_release",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        partial(make_record),
        features=features,
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol="findings, indication and history of the CoGaze release",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _item(split: str, item: dict, variant: str, bases: list[Path], gaze_base: Path) -> dict:
    path, view = choose_view(item["anchor_scan"]["image_path"], item["anchor_scan"]["view_position"], variant)
    heatmap = item.get("sentence_gaze_heatmap")
    gaze = gaze_base / heatmap["image_dir"] if heatmap else None
    return {
        "image_id": str(item["id"]),
        "study_id": str(item["study_id"]),
        "patient_id": str(item["subject_id"]),
        "view_position": view,
        "findings": item["findings"].strip(),
        "indication": (item.get("indication_pure") or "").strip(),
        "history": (item.get("history_pure") or "").strip(),
        "labels": _labels(item),
        "similar_report": ((item.get("similar_case") or {}).get("findings") or "").strip(),
        "diseases": _diseases(item.get("disease_prediction")),
        "split": split,
        "files": [locate(bases, path), *([str(gaze / "sentence-heatmap-lookup.json")] if gaze else [])],
    }


def make_record(item: dict, noted: Counter) -> dict:
    image, *lookup = item["files"]
    width, height = image_size(image)
    fields = ("image_id", "study_id", "patient_id", "view_position", "findings", "indication", "history", "labels")
    return blank_record() | {
        "image": {"path": image, "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in (*fields, "similar_report", "diseases")},
        "study_date": item.get("study_date"),
        "gaze": _readings(Path(lookup[0]), noted) if lookup else [],
    }


def _readings(lookup: Path, noted: Counter) -> list[dict]:
    """The one reading of a gaze folder, or none if its full heatmap or all of its sentences' are missing."""
    full = lookup.parent / "report_heatmap.jpg"
    if not lookup.is_file() or not full.is_file():
        noted["gaze folder missing or without report_heatmap.jpg"] += 1
        return []
    with documented(lookup, "a table of sentences"):
        spoken = {key: text.strip() for key, text in json.loads(read_text(lookup)).items() if key != "full_text"}
    pictures = {key: lookup.parent / f"{key}_heatmap.jpg" for key in spoken}
    there = [key for key in spoken if spoken[key] and pictures[key].is_file()]
    noted["sentence without text or heatmap"] += len(spoken) - len(there)
    if not there:
        return []
    return [
        {
            "reader": lookup.parent.name,
            "sentences": [{"text": spoken[key], "begin": None, "end": None} for key in there],
            "fixations": [],
            "heatmaps": [{"path": str(path), "bytes": None} for path in (*(pictures[key] for key in there), full)],
        }
    ]


def find_annotation(root, what: str) -> Path:
    """The JSON file itself, or the one in the folder that holds train, val and test."""
    path = Path(root).expanduser()
    if path.is_file():
        return path
    folder = find_root(path, what, "*.json")
    for file in sorted(folder.glob("*.json")):
        with open(file, encoding="utf-8") as opened:
            start = opened.read(4096)
        if '"train"' in start or '"test"' in start or '"val"' in start:
            return file
    raise ValueError(f"root: no JSON in {folder} holds train, val and test; give the annotation file of {what}.")


def read_annotation(file: Path, fields: tuple[str, ...]) -> list[tuple[str, dict]]:
    """(split, item) of an annotation file.

    Raises:
        ValueError: no JSON, or an item without one of `fields`; names the file, split and index.
    """
    with documented(file, "an annotation of the form {train, val, test}"):
        names = {"validate": "val", "valid": "val"}
        splits: dict[str, list] = {
            names.get(name) or name: items for name, items in json.loads(read_text(file)).items()
        }
        for name, items in splits.items():
            for index, item in enumerate(items):
                missing = [field for field in fields if field not in item]
                if missing:
                    raise ValueError(f"{file}: {name}[{index}] has no {missing[0]!r}; it has {sorted(item)}.")
        return [(name, item) for name, items in splits.items() for item in items]


def choose_view(paths: list[str], views: list[str], variant: str) -> tuple[str, str]:
    """(path, view) of the first image ("released") or of the preferred one.

    Raises:
        ValueError: another `variant`.
    """
    if variant not in ("released", "preferred"):
        raise ValueError(f"variant: {variant!r} is neither released (the first image) nor preferred (PA, else AP).")
    return preferred_view(paths[:1], views[:1]) if variant == "released" else preferred_view(paths, views)


def preferred_view(paths: list[str], views: list[str]) -> tuple[str, str]:
    """(path, view) of the PA image, else the AP one, else the first."""
    views = [(view or "").strip().upper() for view in views] + [""] * (len(paths) - len(views))
    index = next((views.index(view) for view in ("PA", "AP") if view in views), 0)
    return paths[index], views[index]


def image_bases(*roots) -> list[Path]:
    """Folders that relative image paths may start from."""
    folders = [Path(root).expanduser() for root in roots if root]
    # Roots above files/ or PNG/, and these themselves.
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"root: {folder} is not a folder; give the one above the images.")
    return [base for folder in folders for base in (folder, folder / "files", folder / "PNG", folder.parent)]


def locate(bases: list[Path], path: str) -> str:
    """The first of the bases that has the file (or the PNG of a JPEG's name), or where it should be."""
    names = (path, re.sub(r"\.jpe?g$", ".png", path))
    return next((str(b / name) for name in names for b in bases if os.path.exists(b / name)), str(bases[0] / path))


def _labels(item: dict) -> list[int]:
    labels = item.get("disease_labels") or [0] * 14
    if len(labels) != 14 or any(label not in CODES for label in labels):
        raise ValueError(f"item {item['id']}: disease_labels {labels} are not 14 values of 0, 1, 2 or 3.")
    return [CODES[label] for label in labels]


def _diseases(prediction) -> list[str]:
    """Names of predicted diseases, from names, from 14 zeros and ones, or from a text that lists names."""
    if not prediction:
        return []
    if isinstance(prediction, str):
        prediction = prediction.split(",")
    if len(prediction) == 14 and not isinstance(prediction[0], str):
        prediction = [name for name, value in zip(CHEXBERT_OBSERVATIONS, prediction, strict=True) if value == 1]
    return [str(name).strip() for name in prediction if str(name).strip()]


SOURCE = Source(
    name="cogaze_release",
    title="CoGaze's annotations of MIMIC-CXR",
    load=load_cogaze_release,
    homepage="https://huggingface.co/MK-runner/CoGaze",
    licence="PhysioNet Credentialed Health Data License 1.5.0 (derived from MIMIC-CXR)",
    citation="""@article{cogaze,
  title={Seeing Like Radiologists: Context- and Gaze-Guided Vision-Language Pretraining for Chest X-rays},
  journal={arXiv preprint arXiv:2603.26049}
}""",
    published={"test": 3_852},
)
