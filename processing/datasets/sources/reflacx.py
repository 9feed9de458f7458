"""REFLACX 1.0.0: MIMIC-CXR images read by up to five radiologists each, with eye tracking and dictation.

    main_data/metadata_phase_{1,2,3}.csv   id, split, eye_tracking_data_discarded, image, dicom_id, subject_id,
                                           image_size_x, image_size_y, <labels: certainty 0-5, or True and False>
    main_data/<id>/fixations.csv, timestamps_transcription.csv, transcription.txt, anomaly_location_ellipses.csv,
                   chest_bounding_box.csv

Columns were read off the set's own description as public copies quote it, and off its authors' code, which makes the
heatmaps (`average_x_position` is of earlier copies). The images are MIMIC-CXR's and lie there. A sigma is one degree of
visual angle (REFLACX's own heatmaps). An ellipse becomes a region for each of its labels. Bigolin Lanfredi et al.,
Scientific Data 2022; https://physionet.org/content/reflacx-xray-localization/
"""

import re
from collections import Counter
from functools import partial
from pathlib import Path

from datasets import List, Value

from ..records import NEGATIVE, NOT_MENTIONED, POSITIVE, record_features
from .building import build
from .common import Source
from .mimic_shared import PROTOCOL, SPLITS, find_reports, make_record, mimic_splits, study_facts
from .order import oldest_first
from .roots import find_root, first_file
from .splits import choose_split
from .tables import number, numbers, read_table

VERSION = 3
SOURCE_NAME = "REFLACX"
_NOT_LABELS = {
    "id",
    "split",
    "eye_tracking_data_discarded",
    "image",
    "dicom_id",
    "subject_id",
    "study_id",
    "image_size_x",
    "image_size_y",
    "phase",
    "",
    "Other",  # free text
}
PRESENT = 3  # of a certainty of 1 (unlikely, under 10 %) to 5 (certain), what the authors count as present
_NOT_ELLIPSES = {"xmin", "ymin", "xmax", "ymax", "certainty", "labels", "Other"}
_TRUE = ("true", "1", "1.0")


def load_reflacx(
    root,
    split: str | None = None,
    *,
    mimic_root,
    reports_root=None,
    missing_findings: str = "keep",
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """REFLACX as records, one per image with all its readings.

    Labels are REFLACX's own, by the highest certainty among the readings of an image: 3 and more is positive (as its
    authors count), less is negative; a label that a phase did not ask for is not mentioned. The certainties are kept:
    `label_certainty` has one per label (0 to 5, -1 not asked for), `region_certainty` one per region.

    Args:
        root: REFLACX's folder (above `main_data/`).
        mimic_root: MIMIC-CXR-JPG's folder, for images and reports.
        split: "train", "val", "test" (MIMIC-CXR's, as REFLACX repeats them) or None.
        reports_root, missing_findings: as in `load_mimic_cxr`.
    """
    root = find_root(root, SOURCE_NAME, "main_data/metadata_phase_*.csv")
    mimic = find_root(mimic_root, "MIMIC-CXR-JPG", "files")
    dropped: Counter = Counter()
    rows = _metadata(root, dropped)
    names = label_columns(rows)
    readings = reflacx_readings(root, dropped, rows)
    regions = _regions(root, rows, dropped)
    split_of, reports = mimic_splits(mimic), find_reports(mimic, reports_root)
    facts = study_facts(mimic, readings)
    by_image: dict[str, list[dict]] = {}
    for row in rows:
        by_image.setdefault(row["dicom_id"], []).append(row)
    items = []
    for dicom, group in by_image.items():
        if dicom not in readings:
            dropped["image without a usable reading"] += 1
            continue
        item = _item(dicom, group, names, root)
        folder = item.pop("folder")
        item |= facts.get(dicom, {}) | {
            "gaze": readings[dicom],
            "regions": regions.get(dicom, []),
            "split": split_of.get(dicom) or SPLITS.get(item["split"], item["split"]),
            "files": [
                str(mimic / folder / f"{dicom}.jpg"),
                *([str(reports / f"{folder}.txt")] if reports else []),
            ],
        }
        items.append(item)
    features = record_features()
    features |= {"label_certainty": List(Value("int8")), "region_certainty": List(Value("int8"))}
    return build(
        "reflacx",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        partial(make_reflacx_record, missing_findings=missing_findings),
        features=features,
        label_names=names,
        text_protocol=PROTOCOL[missing_findings],
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _item(dicom: str, rows: list[dict], names: list[str], root: Path) -> dict:
    """What the rows of an image's readings say of it."""
    first = rows[0]
    path = re.search(r"files/p\d+/(p\d+)/(s\d+)/", first["image"])
    if path is None:
        raise ValueError(f"{root}: column 'image' of {dicom} is no MIMIC-CXR path: {first['image']!r}.")
    certainties = [_certainty([row.get(name, "") for row in rows]) for name in names]
    return {
        "image_id": dicom,
        "study_id": path[2][1:],
        "patient_id": first["subject_id"] or path[1][1:],
        "view_position": "",
        "image_width": int(number(first["image_size_x"], 0)),
        "image_height": int(number(first["image_size_y"], 0)),
        "labels": [_code(certainty) for certainty in certainties],
        "label_certainty": certainties,
        "split": first["split"],
        "folder": path[0].rstrip("/"),
    }


def make_reflacx_record(item: dict, noted: Counter, missing_findings: str = "keep") -> dict:
    certainty = [region["certainty"] for region in item["regions"]]
    regions = [{name: value for name, value in region.items() if name != "certainty"} for region in item["regions"]]
    own = {"regions": regions, "region_certainty": certainty, "label_certainty": item["label_certainty"]}
    return make_record(item, noted, missing_findings) | own


def _metadata(root: Path, dropped: Counter) -> list[dict]:
    files = sorted(root.glob("main_data/metadata_phase_*.csv")) or [root / "metadata.csv"]  # MIMIC-EYE's has no phases
    columns = ("id", "eye_tracking_data_discarded", "image", "dicom_id", "subject_id", "image_size_x", "image_size_y")
    rows = [{"split": "", **row} for file in files for row in read_table(file, columns).to_dict("records")]
    once = list({row["id"]: row for row in reversed(rows)}.values())[::-1]
    if len(once) < len(rows):
        dropped["reading given twice"] += len(rows) - len(once)
    return once


def label_columns(rows: list[dict]) -> list[str]:
    """Label names of all phases, in order of appearance."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in _NOT_LABELS]


def _certainty(values: list[str]) -> int:
    """The highest of several readings, -1 if none was asked. True counts as 5, False as 0."""
    numbers = [5.0 if v.lower() == "true" else 0.0 if v.lower() == "false" else number(v) for v in values]
    return int(max((value for value in numbers if value is not None and value >= 0), default=-1))


def _code(certainty: int) -> int:
    return NOT_MENTIONED if certainty < 0 else POSITIVE if certainty >= PRESENT else NEGATIVE


def reflacx_readings(root: Path, dropped: Counter, rows: list[dict] | None = None) -> dict[str, list[dict]]:
    """dicom_id -> all readings whose eye tracking was not discarded."""
    readings: dict[str, list[dict]] = {}
    for row in _metadata(root, dropped) if rows is None else rows:
        folder = root / "main_data" / row["id"]
        if row["eye_tracking_data_discarded"].strip().lower() in _TRUE:
            dropped["reading marked as discarded"] += 1
        elif first_file(folder, "fixations.csv") is None or first_file(folder, "timestamps_transcription.csv") is None:
            dropped["reading without its files"] += 1
        else:
            readings.setdefault(row["dicom_id"], []).append(
                {
                    "reader": row["id"],
                    "sentences": word_sentences(folder / "timestamps_transcription.csv"),
                    "fixations": fixations_of(folder / "fixations.csv", dropped),
                }
            )
    return readings


def fixations_of(file: Path, dropped: Counter) -> list[dict]:
    """A fixations.csv, in order of time. Rows without position or duration are counted as lost."""
    columns = (
        "timestamp_start_fixation",
        "timestamp_end_fixation",
        "x_position|average_x_position",
        "y_position|average_y_position",
        "angular_resolution_x_pixels_per_degree",
        "angular_resolution_y_pixels_per_degree",
    )
    fixations = []
    shown_columns = [f"{side}_shown_from_image" for side in ("xmin", "ymin", "xmax", "ymax")]
    for row in read_table(file, columns).to_dict("records"):
        values = [row[name.split("|")[0]] for name in columns]
        begin, end, x, y = numbers(values[:4]) or (0, 0, 0, 0)
        sigma_x, sigma_y = map(number, values[4:])
        if end <= begin:
            dropped["lost gaze sample"] += 1
            continue
        fixations.append(
            {
                "x": x,
                "y": y,
                "begin": begin,
                "end": end,
                "sigma_x": sigma_x,
                "sigma_y": sigma_y,
                "shown": numbers([row.get(name) for name in shown_columns]) or [],
            }
        )
    return sorted(fixations, key=lambda fixation: fixation["begin"])


def word_sentences(file: Path) -> list[dict]:
    """Sentences of a timestamps_transcription.csv: words up to a row that is ".", from the first word's start to the
    last one's end; punctuation joins the word before it."""
    sentences: list[dict] = []
    words: list[str] = []
    begin = end = 0.0
    table = read_table(file, ("word", "timestamp_start_word", "timestamp_end_word"))
    for row in table.to_dict("records"):
        word, start, stop = row["word"].strip(), number(row["timestamp_start_word"]), number(row["timestamp_end_word"])
        if not word:
            continue
        if not re.search(r"\w", word):
            if words:
                words[-1] += word
        else:
            if start is None or stop is None:
                start = stop = end
            begin = begin if words else start
            end = max(stop, begin)
            words.append(word)
        if word[-1] in ".?!" and words:
            sentences.append({"text": " ".join(words), "begin": begin, "end": end})
            words = []
    if words:
        sentences.append({"text": " ".join(words), "begin": begin, "end": end})
    return sorted(sentences, key=lambda sentence: sentence["begin"])


def _regions(root: Path, rows: list[dict], dropped: Counter) -> dict[str, list[dict]]:
    """Ellipses' bounding boxes of all readings, one region per label."""
    regions: dict[str, list[dict]] = {}
    for row in rows:
        file = first_file(root / "main_data" / row["id"], "anomaly_location_ellipses.csv")
        if file is None:
            continue
        corners = ("xmin", "ymin", "xmax", "ymax")
        for ellipse in read_table(file, corners).to_dict("records"):
            box = numbers([ellipse[name] for name in corners])
            named = [name for name, value in ellipse.items() if name not in _NOT_ELLIPSES and _is_true(value)]
            named += [label.strip() for label in re.split(r"[|;,]", ellipse.get("labels", "")) if label.strip()]
            if ellipse.get("Other", "").strip().lower() not in ("", "false", "0"):
                named.append("Other")
            certainty = int(number(ellipse.get("certainty"), -1))
            if box is None or box[0] >= box[2] or box[1] >= box[3]:
                dropped["ellipse without a box"] += 1
                continue
            regions.setdefault(row["dicom_id"], []).extend(
                {"label": label, "box": box, "mask": None, "sentence": -1, "certainty": certainty}
                for label in dict.fromkeys(named or [""])
            )
    return regions


def _is_true(value: str) -> bool:
    return value.strip().lower() in _TRUE


SOURCE = Source(
    name="reflacx",
    title="REFLACX",
    load=load_reflacx,
    homepage="https://physionet.org/content/reflacx-xray-localization/",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation="""@article{bigolin2022reflacx,
  title={REFLACX, a dataset of reports and eye-tracking data for localization of abnormalities in chest x-rays},
  author={Bigolin Lanfredi, Ricardo and Zhang, Mingyuan and Auffermann, William F. and others},
  journal={Scientific Data}, volume={9}, pages={350}, year={2022}
}""",
    published={"images": 2_616, "readings": 3_032},
)
