"""EGD: Eye Gaze Data for Chest X-rays 1.0.0. 1,083 MIMIC-CXR images read aloud by one radiologist.

    master_sheet.csv       dicom_id, path, study_id, patient_id, gender, anchor_age, <label>__chx, cxr_exam_indication
    fixations.csv          DICOM_ID, Time (in secs), FPOGD, FPOGV, BKID, X_ORIGINAL, Y_ORIGINAL ...
    bounding_boxes.csv     dicom_id, bbox_name, x1, x2, y1, y2
    audio_segmentation_transcripts/<dicom_id>/transcript.json

Headers and first rows of the four tables were read off public listings of the published files; a transcript's keys off
public code that opens them. The images are MIMIC-CXR's and lie there. A row of fixations.csv is the fixation's last
sample, so that its time is the fixation's end (FPOGS + FPOGD) and it began FPOGD before. Coordinates are -1 where the
eye left the image. The master sheet has a row per emergency stay: images come up repeatedly. Karargyris et al.,
Scientific Data 2021; https://physionet.org/content/egd-cxr/
"""

import json
import re
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import pandas as pd

from ...reports import split_sentences
from ..records import CHEXBERT_OBSERVATIONS
from .building import build, image_size
from .common import Skip, Source, age_in_years, blank_record, sex_letter
from .mimic_shared import PROTOCOL, clean_readings, find_reports, mimic_splits, read_report, study_facts
from .order import oldest_first
from .roots import documented, find_root, read_text
from .splits import choose_split
from .tables import chexpert_codes, number, numbers, read_table

VERSION = 2
SOURCE_NAME = "EGD"
LABEL_COLUMNS = [f"{name.lower().replace(' ', '_')}__chx" for name in CHEXBERT_OBSERVATIONS]


def load_egd(
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
    """EGD as records, one per image, with its anatomy boxes as regions.

    Args:
        root: EGD's folder.
        mimic_root: MIMIC-CXR-JPG's folder, for images, official splits and reports.
        split, reports_root, missing_findings: as in `load_mimic_cxr`.
    """
    root = find_root(root, SOURCE_NAME, "master_sheet.csv", "fixations.csv")
    mimic = find_root(mimic_root, "MIMIC-CXR-JPG", "files")
    dropped: Counter = Counter()
    table = read_table(root / "master_sheet.csv", ("dicom_id", "path", "cxr_exam_indication|exam_indication"))
    before = Counter(table["dicom_id"])
    table = pd.DataFrame(table[~table.duplicated("dicom_id")])
    readings, boxes = egd_readings(root, dropped), _boxes(root, dropped)
    facts = study_facts(mimic, table["dicom_id"])
    split_of, reports = mimic_splits(mimic), find_reports(mimic, reports_root)
    items = []
    for row in table.to_dict("records"):
        path = re.search(r"files/p\d+/(p\d+)/(s\d+)/", row["path"])
        if path is None:
            dropped["no MIMIC-CXR path"] += 1  # calibration pictures
            continue
        folder = path[0].rstrip("/")
        items.append(
            {
                "image_id": row["dicom_id"],
                **facts.get(row["dicom_id"], {}),
                "study_id": path[2][1:],
                "patient_id": path[1][1:],
                "patient_age": age_in_years(row.get("anchor_age", "")),
                "patient_sex": sex_letter(row.get("gender", "")),
                "indication": " ".join(row["cxr_exam_indication"].split()),
                "labels": chexpert_codes(row, LABEL_COLUMNS, f"{root / 'master_sheet.csv'}, {row['dicom_id']}"),
                "gaze": readings.get(row["dicom_id"], []),
                "regions": boxes.get(row["dicom_id"], []),
                "split": split_of.get(row["dicom_id"]),
                "files": [
                    str(mimic / folder / f"{row['dicom_id']}.jpg"),
                    *([str(reports / f"{folder}.txt")] if reports else []),
                ],
            }
        )
    noted = Counter({"further row of the same image in the master sheet": sum(before.values()) - len(before)})
    return build(
        "egd",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        partial(make_record, missing_findings=missing_findings),
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol=f"indication of the master sheet; {PROTOCOL[missing_findings]}",
        split=split,
        dropped=dropped,
        noted=noted,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def make_record(item: dict, noted: Counter, missing_findings: str = "keep") -> dict:
    image, *report = item["files"]
    width, height = image_size(image)
    sections = read_report(report[0], noted) if report else {}
    findings = sections.get("findings", "")
    if missing_findings == "unlabelled":
        findings = findings or sections.get("unlabelled", "")
    if not findings and missing_findings != "keep":
        raise Skip("no findings")
    fields = ("image_id", "study_id", "patient_id", "patient_age", "patient_sex", "labels", "regions")
    return blank_record() | {
        "image": {"path": image, "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in fields},
        "view_position": item.get("view_position", ""),
        "study_date": item.get("study_date"),
        "indication": item["indication"] or sections.get("indication", ""),
        "history": sections.get("history", ""),
        "findings": findings,
        "impression": sections.get("impression", ""),
        "gaze": clean_readings(item["gaze"], (width, height), noted),
    }


def egd_readings(root: Path, dropped: Counter) -> dict[str, list[dict]]:
    """dicom_id -> its one reading. Lost samples, blinks and looks beside the image are counted in `dropped`."""
    table = read_table(
        root / "fixations.csv", ("DICOM_ID", "Time (in secs)", "FPOGD", "FPOGV", "X_ORIGINAL", "Y_ORIGINAL")
    )
    readings = {}
    for dicom, rows in table.groupby("DICOM_ID", sort=False):
        transcript = root / "audio_segmentation_transcripts" / str(dicom) / "transcript.json"
        spoken = transcript.is_file()
        dropped["transcript missing, gaze kept for the whole report"] += not spoken
        readings[dicom] = [
            {
                "reader": "EGD",
                "sentences": transcript_sentences(transcript) if spoken else [],
                "fixations": fixations_of(rows, dropped),
            }
        ]
    return readings


def fixations_of(rows: pd.DataFrame, dropped: Counter) -> list[dict]:
    """Fixations of one image's rows, in order of time; sigma is left to the default for EGD's screen."""
    fixations = []
    for row in rows.to_dict("records"):
        found = numbers([row[name] for name in ("Time (in secs)", "FPOGD", "X_ORIGINAL", "Y_ORIGINAL")])
        end, seconds, x, y = found or (0, 0, 0, 0)
        if number(row.get("BKID", 0), 0) > 0:
            dropped["blink"] += 1
        elif number(row["FPOGV"], 0) != 1 or seconds <= 0:
            dropped["lost gaze sample"] += 1
        elif x < 0 or y < 0:
            dropped["fixation beside the image"] += 1
        else:
            fixations.append(
                {
                    "x": x,
                    "y": y,
                    "begin": round(end - seconds, 5),
                    "end": end,
                    "sigma_x": None,
                    "sigma_y": None,
                    "shown": [],
                }
            )
    return sorted(fixations, key=lambda fixation: fixation["begin"])


def transcript_sentences(path: Path) -> list[dict]:
    """Sentences of a transcript.json: phrases joined up to a full stop, or split at one (time by share of letters).

    A transcript without any full stop gives a sentence per phrase.

    Raises:
        ValueError: the file is no such JSON; names it.
    """
    with documented(path, "a list of time-stamped phrases"):
        phrases = json.loads(read_text(path))["time_stamped_text"]
        timed = [(p["phrase"].strip(), float(p["begin_time"]), float(p["end_time"])) for p in phrases]
    ends_sentence = tuple(".?!")
    punctuated = any(text.endswith(ends_sentence) for text, _, _ in timed)
    sentences: list[dict] = []
    open_sentence = False
    for text, begin, end in timed:
        pieces = split_sentences(text)
        letters = max(1, sum(map(len, pieces)))
        for piece in pieces:
            until = begin + (end - begin) * len(piece) / letters if piece is not pieces[-1] else end
            if open_sentence:
                sentences[-1]["text"] += f" {piece}"
                sentences[-1]["end"] = until
            else:
                sentences.append({"text": piece, "begin": begin, "end": until})
            open_sentence = punctuated and not piece.endswith(ends_sentence)
            begin, letters = until, letters - len(piece)
    return sorted(sentences, key=lambda sentence: sentence["begin"])


def _boxes(root: Path, dropped: Counter) -> dict[str, list[dict]]:
    file = root / "bounding_boxes.csv"
    boxes = defaultdict(list)
    if file.is_file():
        for row in read_table(file, ("dicom_id", "bbox_name", "x1", "x2", "y1", "y2")).to_dict("records"):
            corners = numbers([row[name] for name in ("x1", "y1", "x2", "y2")])
            if corners is None:
                dropped["box without four numbers"] += 1
            elif min(corners) < 0 or corners[0] >= corners[2] or corners[1] >= corners[3]:
                dropped["box negative or empty"] += 1
            else:
                boxes[row["dicom_id"]].append({"label": row["bbox_name"], "box": corners, "mask": None, "sentence": -1})
    return boxes


SOURCE = Source(
    name="egd",
    title="Eye Gaze Data for Chest X-rays",
    load=load_egd,
    homepage="https://physionet.org/content/egd-cxr/",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation="""@article{karargyris2021creation,
  title={Creation and validation of a chest X-ray dataset with eye-tracking and report dictation for AI development},
  author={Karargyris, Alexandros and Kashyap, Satyananda and Lourentzou, Ismini and others},
  journal={Scientific Data}, volume={8}, pages={92}, year={2021}
}""",
    published={"images": 1_083, "patients": 1_038},
)
