"""PadChest-GR: 4,555 studies of PadChest whose sentences have boxes, in Spanish and English.

    grounded_reports_20240819.json     [{StudyID, ImageID, findings: [{sentence_en, sentence_es, abnormal, boxes,
                                       extra_boxes, labels, locations, progression}]}]
    master_table.csv (or .csv.zip)     a row per study and label: StudyID, ImageID, PatientID, split, ...
    Padchest_GR_files/PadChest_GR/<ImageID>, PadChest_GR/<ImageID>, images/<ImageID> or <ImageID>

Boxes are shares of width and height, (x0, y0, x1, y1), and negative sentences lack most keys. Read off the paper and
public loaders (RadVLM's, and one that unpacks the release); of the table's other columns PatientSex_DICOM,
StudyDate_DICOM, PatientBirth and Projection are taken where they are there. Castro et al., arXiv 2411.05085;
https://bimcv.cipf.es/bimcv-projects/padchest-gr/
"""

import json
from collections import Counter

from ..records import NOT_MENTIONED, POSITIVE
from .building import build, image_size
from .common import Skip, Source, blank_record, sex_letter
from .order import iso_date, oldest_first
from .padchest import VIEWS, age_at
from .phrases import grounded_text
from .roots import documented, find_root, first_file, found_among, read_text, stem
from .splits import choose_split
from .tables import read_table

VERSION = 1
REPORTS = "grounded_reports*.json"
TABLE = "master_table*.csv*"
SPLITS = {"train": "train", "validation": "val", "valid": "val", "test": "test"}


def load_padchest_gr(
    root,
    split: str | None = None,
    *,
    language: str = "en",
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """PadChest-GR as records: findings are the sentences, regions their boxes, `sentence` the index of theirs.

    Labels are PadChest's names, all that the release uses, positive or not mentioned.

    Args:
        root: the folder with the reports and the master table.
        split: "train", "val" or "test" (the table's), a name among `split_lists`, or None.
        language: "en" or "es".

    Raises:
        ValueError: wrong root, missing key or column, a box that is no share of the image; names the study.
    """
    if language not in ("en", "es"):
        raise ValueError(f"language: {language!r} is neither en nor es.")
    root = find_root(root, "PadChest-GR", REPORTS, TABLE)
    file = first_file(root, REPORTS)
    with documented(file, "a list of studies with findings"):
        studies = json.loads(read_text(file))
        labels = {label for study in studies for finding in study["findings"] for label in finding.get("labels") or []}
    table = read_table(first_file(root, TABLE), ("StudyID", "ImageID", "PatientID", "split"))
    rows = {row["StudyID"]: row for row in table.drop_duplicates("StudyID").to_dict("records")}
    names, dropped, items = sorted(labels), Counter(), []
    for study in studies:
        with documented(file, "a list of studies with findings"):
            row = rows.get(str(study["StudyID"]))
            if row is None:
                dropped["not in the master table"] += 1
            else:
                items.append(_item(root, study, row, names, language))
    return build(
        "padchest_gr",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        make_record,
        label_names=names,
        text_protocol=f"grounded sentences ({language}) as findings",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _item(root, study: dict, row: dict, names: list[str], language: str) -> dict:
    image = study["ImageID"]
    folders = ("Padchest_GR_files/PadChest_GR", "PadChest_GR", "Padchest_GR_files", "images")
    found = {label for finding in study["findings"] for label in finding.get("labels") or []}
    return {
        "image_id": stem(image),
        "study_id": str(study["StudyID"]),
        "patient_id": row["PatientID"],
        "view_position": VIEWS.get(row.get("Projection", ""), ""),
        "patient_age": age_at(row),
        "patient_sex": sex_letter(row.get("PatientSex_DICOM", "")),
        "study_date": iso_date(row.get("StudyDate_DICOM", "")),
        "labels": [POSITIVE if name in found else NOT_MENTIONED for name in names],
        "sentences": [
            [
                finding.get(f"sentence_{language}") or "",
                (finding.get("labels") or ["finding"])[0],
                [list(map(float, box)) for name in ("boxes", "extra_boxes") for box in finding.get(name) or []],
            ]
            for finding in study["findings"]
        ],
        "split": SPLITS.get(row["split"], row["split"]),
        "files": [found_among(root, [*(f"{folder}/{image}" for folder in folders), image])],
    }


def make_record(item: dict, noted: Counter) -> dict:
    width, height = image_size(item["files"][0])
    phrases = []
    for text, label, boxes in item["sentences"]:
        for box in boxes:
            if len(box) != 4 or not (0 <= box[0] <= box[2] <= 1.001 and 0 <= box[1] <= box[3] <= 1.001):
                raise ValueError(f"box {box} of {text[:40]!r} is not (x0, y0, x1, y1) in shares of the image.")
        scaled = [[box[0] * width, box[1] * height, box[2] * width, box[3] * height] for box in boxes]
        phrases.append((text, [(label, box) for box in scaled]))
    findings, regions = grounded_text(phrases)
    if not findings:
        raise Skip("no sentence in this language")
    noted["study without a box"] += not regions
    fields = (
        "image_id",
        "study_id",
        "patient_id",
        "view_position",
        "patient_age",
        "patient_sex",
        "study_date",
        "labels",
    )
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in fields},
        "findings": findings,
        "regions": regions,
    }


SOURCE = Source(
    name="padchest_gr",
    title="PadChest-GR (grounded sentences)",
    load=load_padchest_gr,
    homepage="https://bimcv.cipf.es/bimcv-projects/padchest-gr/",
    licence="PadChest-GR Research Use Agreement (BIMCV and Microsoft)",
    citation="""@article{castro2024padchestgr,
  title={PadChest-GR: A Bilingual Chest X-ray Dataset for Grounded Radiology Report Generation},
  author={Castro, Daniel C. and Bustos, Aurelia and Bannur, Shruthi and others},
  journal={arXiv:2411.05085}, year={2024}
}""",
    published={"images": 4_555, "studies": 4_555},
)
