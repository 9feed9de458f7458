"""GazeSearch: how radiologists searched MIMIC-CXR images for one finding each, without what they said.

    finding_visual_search_coco_format_*.json     [{name: <dicom_id>.jpg, task, X, Y, T, split}]: pixels of the image
                                                 resized to 224 x 224, and seconds

4,875 scanpaths on 2,328 images, taken from REFLACX's and EGD's readings, of up to 6 fixations. Read off the published
file. Its `split` is one of scanpaths and puts images into several splits; so MIMIC-CXR's splits stand here. Pham
et al., WACV 2025; https://github.com/UARK-AICV/GazeSearch
"""

import json
from collections import Counter
from functools import partial
from pathlib import Path

from ..records import CHEXBERT_OBSERVATIONS, NOT_MENTIONED, POSITIVE
from .building import build
from .common import Source
from .mimic_cxr import mimic_items
from .mimic_shared import PROTOCOL, make_record
from .roots import documented, find_root, first_file, read_text, stem
from .siim_gaze import fixation_sequence
from .splits import choose_split

VERSION = 1
GAZESEARCH = "finding_visual_search*.json"
SIDE = 224


def load_gazesearch(
    root,
    split: str | None = None,
    *,
    mimic_root=None,
    reports_root=None,
    missing_findings: str = "keep",
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """GazeSearch as records: MIMIC-CXR's images and reports, a reading without sentences for each finding searched.

    `reader` names the finding; labels are CheXbert's observations, positive for those searched (all were present), the
    others not mentioned.

    Args:
        root: the folder with the JSON file. mimic_root: MIMIC-CXR-JPG's, with its tables.
        split: "train", "val" or "test" (MIMIC-CXR's), a name among `split_lists`, or None.
        reports_root, missing_findings: as in `load_mimic_cxr`.

    Raises:
        ValueError: wrong root, a broken file, or an unknown finding.
    """
    if missing_findings not in PROTOCOL:
        raise ValueError(f"missing_findings: {missing_findings!r} is none of {', '.join(PROTOCOL)}.")
    root = find_root(root, "GazeSearch", GAZESEARCH)
    mimic = find_root(mimic_root, "MIMIC-CXR-JPG", "files", "*metadata.csv*")
    dropped: Counter = Counter()
    paths = _scanpaths(first_file(root, GAZESEARCH) or root / GAZESEARCH)
    own = {
        item["image_id"]: item
        for item in mimic_items(mimic, reports_root, dropped=dropped)
        if item["image_id"] in paths
    }
    items = []
    for dicom, searches in paths.items():
        item = own.get(dicom)
        if item is None:
            dropped["image that is not in MIMIC-CXR-JPG's tables"] += 1
            continue
        size = item["image_width"], item["image_height"]
        found = {task for task, _ in searches}
        item["labels"] = [POSITIVE if name.lower() in found else NOT_MENTIONED for name in CHEXBERT_OBSERVATIONS]
        item["gaze"] = [fixation_sequence(f"GazeSearch: {task}", points, size) for task, points in searches]
        items.append(item)
    return build(
        "gazesearch",
        choose_split(items, split, split_lists, dropped=dropped),
        partial(make_record, missing_findings=missing_findings),
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol=PROTOCOL[missing_findings],
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _scanpaths(file: Path) -> dict[str, list]:
    """dicom_id -> [(finding, [(x, y, seconds), ...] in shares of the image), ...]."""
    known = {name.lower() for name in CHEXBERT_OBSERVATIONS}
    paths: dict[str, list] = {}
    with documented(file, "GazeSearch's list of scanpaths"):
        rows = json.loads(read_text(file))
        for row in rows:
            points = [
                ((x + 0.5) / SIDE, (y + 0.5) / SIDE, t) for x, y, t in zip(row["X"], row["Y"], row["T"], strict=True)
            ]
            paths.setdefault(stem(row["name"]), []).append((row["task"], points))
    unknown = {task for searches in paths.values() for task, _ in searches} - known
    if unknown:
        raise ValueError(f"{file}: the task {sorted(unknown)[0]!r} is none of CheXbert's observations.")
    return paths


SOURCE = Source(
    name="gazesearch",
    title="GazeSearch (visual search for findings, on MIMIC-CXR)",
    load=load_gazesearch,
    homepage="https://github.com/UARK-AICV/GazeSearch",
    licence="MIT (scanpaths); images and reports: PhysioNet Credentialed Health Data License 1.5.0",
    citation="""@inproceedings{pham2025gazesearch,
  title={GazeSearch: Radiology Findings Search Benchmark},
  author={Pham, Trong Thang and Nguyen, Tien-Phat and Ikebe, Yuki and others},
  booktitle={WACV}, year={2025}
}""",
    published={"images": 2_328, "readings": 4_875},
)
