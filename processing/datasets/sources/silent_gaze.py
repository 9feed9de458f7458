"""Gaze that nobody spoke to: GazeSearch on MIMIC-CXR, and Saab et al.'s on SIIM-ACR. Readings have no sentences.

    finding_visual_search_coco_format_*.json     GazeSearch: [{name: <dicom_id>.jpg, task, X, Y, T, split, ...}], pixels
                                                 of the image resized to 224 x 224, seconds; a scanpath per finding
                                                 searched, taken from REFLACX's and EGD's readings
    cxr2_gaze_data.json                          Saab et al.: {SIIM's ImageId: [[x, y, t], ...]}, shares of width and
                                                 height, samples of a 60 Hz tracker; published as a pickle

GazeSearch was read off the published file, Saab's off its README. That pickle is not opened here, since a pickle can run
code; turn it into JSON once, where you trust it:

    python -c "import json, pickle; json.dump(pickle.load(open('cxr2_gaze_data.pkl', 'rb')), open('cxr2_gaze_data.json',
    'w'), default=float)"

Pham et al., WACV 2025, https://github.com/UARK-AICV/GazeSearch; Saab et al., MICCAI 2021,
https://github.com/HazyResearch/observational
"""

import json
from collections import Counter
from pathlib import Path

from ...gaze import clean_fixations
from ..records import CHEXBERT_OBSERVATIONS, NOT_MENTIONED, POSITIVE
from .building import build
from .common import Source
from .mimic_cxr import mimic_items
from .mimic_shared import PROTOCOL, make_record
from .roots import find_root, first_file, read_text, stem
from .splits import choose_split

VERSION = 1
GAZESEARCH = "finding_visual_search*.json"
SIDE = 224
SPLITS = {"train": "train", "valid": "val", "test": "test"}
SAMPLES_PER_SECOND = 60


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
        split: "train", "val" or "test" (GazeSearch's), a name among `split_lists`, or None.
        reports_root, missing_findings: as in `load_mimic_cxr`.

    Raises:
        ValueError: wrong root, a broken file, or an unknown finding.
    """
    if missing_findings not in PROTOCOL:
        raise ValueError(f"missing_findings: {missing_findings!r} is none of {', '.join(PROTOCOL)}.")
    root = find_root(root, "GazeSearch", GAZESEARCH)
    mimic = find_root(mimic_root, "MIMIC-CXR-JPG", "files", "*metadata.csv*")
    dropped: Counter = Counter()
    paths = _scanpaths(first_file(root, GAZESEARCH))
    own = {item["image_id"]: item for item in mimic_items(mimic, reports_root, dropped=dropped) if item["image_id"] in paths}
    items = []
    for dicom, (searches, part) in paths.items():
        item = own.get(dicom)
        if item is None:
            dropped["image that is not in MIMIC-CXR-JPG's tables"] += 1
            continue
        size = item["image_width"], item["image_height"]
        found = {task for task, _ in searches}
        item["labels"] = [POSITIVE if name.lower() in found else NOT_MENTIONED for name in CHEXBERT_OBSERVATIONS]
        item["gaze"] = [_reading(f"GazeSearch: {task}", points, size) for task, points in searches]
        items.append(item | {"split": part})
    return build(
        "gazesearch",
        choose_split(items, split, split_lists, dropped=dropped),
        _maker(missing_findings),
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol=PROTOCOL[missing_findings],
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _maker(missing_findings: str):
    from functools import partial

    return partial(make_record, missing_findings=missing_findings)


def _scanpaths(file: Path) -> dict[str, tuple[list, str]]:
    """dicom_id -> ([(finding, [(x, y, seconds), ...] in shares of the image), ...], split)."""
    known = {name.lower() for name in CHEXBERT_OBSERVATIONS}
    paths: dict[str, tuple[list, str]] = {}
    try:
        rows = json.loads(read_text(file))
        for row in rows:
            points = [
                ((x + 0.5) / SIDE, (y + 0.5) / SIDE, t) for x, y, t in zip(row["X"], row["Y"], row["T"], strict=True)
            ]
            searches, _ = paths.setdefault(stem(row["name"]), ([], SPLITS.get(row["split"], row["split"])))
            searches.append((row["task"], points))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: it is not GazeSearch's list of scanpaths ({error!r}); download it again.") from error
    unknown = {task for searches, _ in paths.values() for task, _ in searches} - known
    if unknown:
        raise ValueError(f"{file}: the task {sorted(unknown)[0]!r} is none of CheXbert's observations.")
    return paths


def siim_readings(file, noted: Counter) -> dict[str, dict]:
    """ImageId -> a reading without sentences, in shares of the image (`placed` makes pixels of them).

    `t` counts samples, blinks and looks beside the image left out; so times are those of looking, not of a clock.

    Raises:
        ValueError: no such file, a pickle (says how to convert it), or another content; names the image.
    """
    file = Path(file).expanduser()
    if file.suffix == ".pkl":
        raise ValueError(
            f"gaze: {file} is a pickle, which could run code and is not opened; convert it to JSON where you trust it: "
            "python -c \"import json, pickle; json.dump(pickle.load(open('in.pkl', 'rb')), open('out.json', 'w'), "
            'default=float)"'
        )
    if not file.is_file():
        raise ValueError(f"gaze: there is no file {file}; give Saab et al.'s gaze as JSON.")
    readings = {}
    try:
        for name, points in json.loads(read_text(file)).items():
            timed = [(float(x), float(y), float(t) / SAMPLES_PER_SECOND) for x, y, t in points]
            if not timed:
                noted["gaze without a point"] += 1
                continue
            readings[stem(name)] = _reading("Saab et al.", timed, (1, 1))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"gaze: {file} is no table of [x, y, t] by image ({error!r}).") from error
    return readings


def placed(reading: dict, size: tuple[int, int], noted: Counter) -> list[dict]:
    """The reading in pixels of an image of that size, as a list; empty if no fixation is on the image."""
    fixations = [f | {"x": f["x"] * size[0], "y": f["y"] * size[1]} for f in reading["fixations"]]
    reading, beside = clean_fixations(reading | {"fixations": fixations}, size)
    noted["fixation outside the image"] += beside
    return [reading] if reading["fixations"] else []


def _reading(reader: str, points, size: tuple[int, int]) -> dict:
    """Points (x, y, seconds) in shares of the image, one after another."""
    fixations, now = [], 0.0
    for x, y, seconds in points:
        sigmas = {"sigma_x": None, "sigma_y": None, "shown": []}
        times = {"begin": round(now, 5), "end": round(now + seconds, 5)}
        fixations.append({"x": x * size[0], "y": y * size[1]} | times | sigmas)
        now += seconds
    return {"reader": reader, "sentences": [], "fixations": fixations}


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
