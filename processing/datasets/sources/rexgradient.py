"""ReXGradient-160K: 160,000 studies of 109,487 patients from 79 sites.

    metadata/<train|valid|test>_metadata_view_position.json     study's key -> {PatientID, AccessionNumber,
        StudyInstanceUid, StudyDate, StudyDescription, PatientSex, PatientAge, Indication, Comparison, Findings,
        Impression, ImagePath: ["../deid_png/..."], ImageViewPosition: [...]}; also directly in the folder
    deid_png/<patient>/<accession>/studies/<study>/series/<series>/instances/<instance>.png      16 bits

The pictures come as `deid_png.part00` to `part09`: join them, and unpack the zstd-compressed tar, before loading
(`cat deid_png.part* | tar --zstd -x`). The tables of the same name, a row a study, do not name the images. Read off
public loaders. Zhang et al., arXiv 2505.00228; https://huggingface.co/datasets/rajpurkarlab/ReXGradient-160K
"""

import json
from collections import Counter
from pathlib import Path

from .building import build, image_size
from .common import Skip, Source, age_in_years, blank_record, sex_letter
from .order import iso_date, oldest_first
from .roots import documented, find_root, first_file, read_text
from .splits import choose_split

VERSION = 1
PARTS = {"train": "train", "valid": "val", "test": "test"}
VIEWS = {"POSTERO_ANTERIOR": "PA", "ANTERO_POSTERIOR": "AP", "LAT": "LATERAL", "LATERAL": "LATERAL"}
VIEWS |= {name: name for name in ("PA", "AP", "LL", "LAO", "RAO", "LPO", "AP AXIAL")}
KEYS = ("PatientID", "StudyInstanceUid", "StudyDate", "Findings", "Impression", "ImagePath", "ImageViewPosition")


def load_rexgradient(root, split: str | None = None, *, split_lists=None, num_proc: int | None = None, cache_dir=None):
    """ReXGradient-160K as records, one per image. It has no labels. Other views than `VIEWS` are unknown.

    Args:
        root: the folder with `metadata/` and the unpacked `deid_png/`.
        split: "train", "val" or "test", a name among `split_lists`, or None.

    Raises:
        ValueError: wrong root; a file that is no such JSON, or a study that lacks a key; names both.
    """
    marks = "|".join(f"{folder}{part}_metadata_view_position.json" for folder in ("metadata/", "") for part in PARTS)
    root = find_root(root, "ReXGradient-160K", marks)
    dropped: Counter = Counter()
    items = [item for part in PARTS for item in _items(root, part)]
    return build(
        "rexgradient",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        make_record,
        label_names=[],
        text_protocol="indication, findings and impression as published",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _items(root: Path, part: str) -> list[dict]:
    name = f"{part}_metadata_view_position.json"
    file = first_file(root, f"metadata/{name}", name)
    if file is None:
        return []
    items = []
    with documented(file, "a table of studies"):
        for key, study in json.loads(read_text(file)).items():
            missing = [name for name in KEYS if name not in study]
            if missing:
                raise ValueError(f"{file}: study {key} lacks {missing[0]!r}; it has {sorted(study)}.")
            items += _images(key, study, root, part)
    return items


def _images(key: str, study: dict, root: Path, part: str) -> list[dict]:
    items = []
    views = [*(study["ImageViewPosition"] or []), *[None] * len(study["ImagePath"] or [])]
    for path, view in zip(study["ImagePath"] or [], views, strict=False):
        place = path[path.index("deid_png") :] if "deid_png" in path else f"deid_png/{path}"
        items.append(
            {
                "image_id": Path(path).stem,
                "study_id": str(study["StudyInstanceUid"]),
                "patient_id": str(study["PatientID"] or key.split("_")[0]),
                "view_position": VIEWS.get(str(view or "").strip().upper(), ""),
                "patient_age": age_in_years(study.get("PatientAge") or ""),
                "patient_sex": sex_letter(study.get("PatientSex") or ""),
                "study_date": iso_date(study["StudyDate"]),
                **{text.lower(): _text(study.get(text)) for text in ("Indication", "Findings", "Impression")},
                "split": PARTS[part],
                "files": [str(root / place)],
            }
        )
    return items


def _text(value) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return "" if text.lower() in ("none", "nan") else text


def make_record(item: dict, noted: Counter) -> dict:
    width, height = image_size(item["files"][0])
    if not (item["findings"] or item["impression"]):
        raise Skip("neither findings nor impression")
    noted["no findings"] += not item["findings"]
    fields = (
        *("image_id", "study_id", "patient_id", "view_position", "patient_age", "patient_sex", "study_date"),
        *("indication", "findings", "impression"),
    )
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in fields},
    }


SOURCE = Source(
    name="rexgradient",
    title="ReXGradient-160K",
    load=load_rexgradient,
    homepage="https://huggingface.co/datasets/rajpurkarlab/ReXGradient-160K",
    licence="ReXGradient's own, non-commercial, on request",
    citation="""@article{zhang2025rexgradient,
  title={ReXGradient-160K: A Large-Scale Publicly Available Dataset of Chest Radiographs with Free-text Reports},
  author={Zhang, Xiaoman and Acosta, Juli{\\'a}n N. and Miller, Josh and Huang, Ouwen and Rajpurkar, Pranav},
  journal={arXiv:2505.00228}, year={2025}
}""",
    published={
        "images": 273_004,
        "studies": 160_000,
        "patients": 109_487,
        "train": 238_968,
        "val": 17_007,
        "test": 17_029,
    },
)
