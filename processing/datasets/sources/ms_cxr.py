"""MS-CXR: phrases of radiologists with boxes on MIMIC-CXR images; and MS-CXR-T: how five findings changed.

    MS_CXR_Local_Alignment_v1.1.0.csv     dicom_id, category_name, label_text, path, x, y, w, h, image_width,
                                          image_height, split (1.0.0 has no split); or the .json of that name (COCO:
                                          images, categories, annotations with bbox and label_text)
    MS_CXR_T_temporal_image_classification_v1.0.0.csv     subject_id, study_id, dicom_id (p10/p.../s.../<dicom_id>),
                                          previous_study_id, previous_dicom_id, <finding>_progression (improving, stable
                                          or worsening), <finding>_label_quality

Images are MIMIC-CXR-JPG's. Read off public loaders of both. MS-CXR's own split is not patient-safe against
MIMIC-CXR's. Boecking et al., ECCV 2022, https://physionet.org/content/ms-cxr/; Bannur et al., CVPR 2023,
https://physionet.org/content/ms-cxr-t/
"""

import json
import os
import re
from collections import Counter
from pathlib import Path

from ..records import NEGATIVE, NOT_MENTIONED, POSITIVE
from .building import build, image_size
from .common import Source, blank_record
from .companions import days_between
from .mimic_shared import mimic_splits, study_facts
from .order import oldest_first
from .phrases import grounded_text
from .roots import find_root, first_file, read_text
from .splits import choose_split
from .tables import number, read_table

VERSION = 2
NAME, TEMPORAL = "MS_CXR_Local_Alignment*", "MS_CXR_T_temporal_image_classification*.csv"
CATEGORIES = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Lung Opacity", "Pleural Effusion", "Pneumonia"),
    "Pneumothorax",
)
FINDINGS = ("Consolidation", "Edema", "Pleural Effusion", "Pneumonia", "Pneumothorax")
CHANGES = ("improving", "stable", "worsening")
NAMES_OF_CHANGES = dict(zip(CHANGES, ("better", "same", "worse"), strict=True))
CHANGE_NAMES = [f"{finding} {change}" for finding in FINDINGS for change in CHANGES]
SPLITS = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test"}


def load_ms_cxr(
    root,
    split: str | None = None,
    *,
    mimic_root=None,
    official_splits: bool = False,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """MS-CXR as records, one per image: findings are its phrases, regions their boxes, `sentence` the phrase's index.

    Args:
        root: the folder with the table. mimic_root: MIMIC-CXR-JPG's, for the images.
        split: "train", "val" or "test", a name among `split_lists`, or None.
        official_splits: take MIMIC-CXR's splits, not MS-CXR's own.

    Raises:
        ValueError: a wrong root, a missing column, an unknown category or a path without patient and study.
    """
    root = find_root(root, "MS-CXR", f"{NAME}.csv|{NAME}.json")
    mimic = find_root(mimic_root, "MIMIC-CXR-JPG", "files")
    official = mimic_splits(mimic) if official_splits else None
    items: dict[str, dict] = {}
    rows = _rows(root)
    facts = study_facts(mimic, (row["dicom_id"] for row in rows))
    for row in rows:
        dicom = row["dicom_id"]
        item = items.setdefault(dicom, _item(mimic, dicom, row["path"], facts) | {"phrases": [], "found": []})
        item["size"] = [int(number(row["image_width"], 0)), int(number(row["image_height"], 0))]
        own = row.get("split", "").strip().lower()
        item["split"] = official.get(dicom) if official is not None else SPLITS.get(own, own)
        if row["category_name"] not in CATEGORIES:
            raise ValueError(f"{root}: {dicom} has the category {row['category_name']!r}, none of {CATEGORIES}.")
        item["found"].append(row["category_name"])
        x, y, width, height = (number(row[name], 0.0) for name in ("x", "y", "w", "h"))
        item["phrases"].append([row["label_text"], row["category_name"], [x, y, x + width, y + height]])
    dropped: Counter = Counter()
    return build(
        "ms_cxr",
        choose_split(oldest_first(list(items.values())), split, split_lists, dropped=dropped),
        make_phrase_record,
        label_names=CATEGORIES,
        text_protocol="MS-CXR's phrases as findings",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def load_ms_cxr_t(
    root, split: str | None = None, *, mimic_root=None, split_lists=None, num_proc: int | None = None, cache_dir=None
):
    """MS-CXR-T as records of the later images. Labels are `CHANGE_NAMES`: of a finding that was judged one change is
    positive and two negative, of another all are not mentioned. `facts_of` gives "previous": image id -> earlier one's.
    The earlier image is the record's companion, where its file is there, and `changes` say what was judged.

    Args:
        root: the folder with the table. mimic_root: MIMIC-CXR-JPG's, for the images and its splits.
        split: "train", "val" or "test" (MIMIC-CXR's), a name among `split_lists`, or None.

    Raises:
        ValueError: a wrong root, a missing column, another change than the three.
    """
    root = find_root(root, "MS-CXR-T", TEMPORAL)
    mimic = find_root(mimic_root, "MIMIC-CXR-JPG", "files")
    file, official = first_file(root, TEMPORAL), mimic_splits(mimic)
    columns = [f"{finding.lower().replace(' ', '_')}_progression" for finding in FINDINGS]
    items, previous = [], {}
    table = read_table(file, ("dicom_id", "previous_dicom_id", *columns))
    named = [*table["dicom_id"], *table["previous_dicom_id"]]
    facts = study_facts(mimic, (path.rsplit("/", 1)[-1] for path in named))
    for row in table.to_dict("records"):
        item = _item(mimic, row["dicom_id"].rsplit("/", 1)[-1], row["dicom_id"], facts)
        item["labels"] = []
        for column in columns:
            change = row[column].strip().lower()
            if change not in (*CHANGES, "", "nan"):
                raise ValueError(f"{file}: {column} of {item['image_id']} is {change!r}, none of {', '.join(CHANGES)}.")
            judged = change in CHANGES
            item["labels"] += [
                (POSITIVE if change == one else NEGATIVE) if judged else NOT_MENTIONED for one in CHANGES
            ]
        item["changes"] = [
            {"label": finding, "change": NAMES_OF_CHANGES[row[column].strip().lower()]}
            for finding, column in zip(FINDINGS, columns, strict=True)
            if row[column].strip().lower() in CHANGES
        ]
        previous[item["image_id"]] = row["previous_dicom_id"].rsplit("/", 1)[-1]
        if re.search(r"p\d\d/p\d+/s\d+", row["previous_dicom_id"]):
            item["prior"] = _item(mimic, previous[item["image_id"]], row["previous_dicom_id"], facts)
            item["files"] += item["prior"]["files"]
        items.append(item | {"split": official.get(item["image_id"])})
    dropped: Counter = Counter()
    return build(
        "ms_cxr_t",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        make_record,
        label_names=CHANGE_NAMES,
        text_protocol="no text",
        split=split,
        dropped=dropped,
        previous=previous,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _rows(root: Path) -> list[dict]:
    needed = ("dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height")
    table = first_file(root, f"{NAME}.csv")
    if table:
        return read_table(table, needed).to_dict("records")
    file = first_file(root, f"{NAME}.json")
    try:
        content = json.loads(read_text(file))
        images = {image["id"]: image for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        rows = []
        for annotation in content["annotations"]:
            image = images[annotation["image_id"]]
            values = (
                Path(image["path"]).stem,
                names[annotation["category_id"]],
                annotation["label_text"],
                image["path"],
            )
            values = (*values, *annotation["bbox"], image["width"], image["height"])
            rows.append(dict(zip(needed, values, strict=True)))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: it is not MS-CXR's COCO file ({error!r}); download it again.") from error
    return rows


def _item(mimic: Path, dicom: str, path: str, facts: dict[str, dict]) -> dict:
    found = re.search(r"p\d\d/p(\d+)/s(\d+)", path)
    if found is None:
        raise ValueError(f"path: {path!r} of {dicom} is not p10/p<patient>/s<study>/...")
    return {
        "image_id": dicom,
        **facts.get(dicom, {}),
        "study_id": found[2],
        "patient_id": found[1],
        "files": [str(mimic / "files" / found[0] / f"{dicom}.jpg")],
    }


def make_phrase_record(item: dict, noted: Counter) -> dict:
    phrases: dict[str, list] = {}
    for text, label, box in item["phrases"]:
        phrases.setdefault(text, []).append((label, box))
    findings, regions = grounded_text(list(phrases.items()))
    labels = [POSITIVE if name in item["found"] else NOT_MENTIONED for name in CATEGORIES]
    record = make_record(item | {"labels": labels}, noted)
    if (record["image_width"], record["image_height"]) != tuple(item["size"]):
        noted["image of another size than the table's, which counts"] += 1
    width, height = item["size"]
    return record | {"image_width": width, "image_height": height, "findings": findings, "regions": regions}


def make_record(item: dict, noted: Counter) -> dict:
    width, height = image_size(item["files"][0])
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in ("image_id", "study_id", "patient_id", "labels")},
        "view_position": item.get("view_position", ""),
        "study_date": item.get("study_date"),
        "companions": _prior(item, noted),
        "changes": item.get("changes", []),
    }


def _prior(item: dict, noted: Counter) -> list[dict]:
    prior = item.get("prior")
    if prior is None:
        return []
    if not os.path.exists(prior["files"][0]):
        noted["earlier image missing"] += 1
        return []
    own = {"image_id": prior["image_id"], "view_position": prior.get("view_position", "")}
    own["image"] = {"path": prior["files"][0], "bytes": None}
    days = days_between(prior.get("study_date"), item.get("study_date"))
    return [own | {"role": "prior", "days": days if days is None or days >= 0 else None}]


SOURCE = Source(
    name="ms_cxr",
    title="MS-CXR (phrase grounding)",
    load=load_ms_cxr,
    homepage="https://physionet.org/content/ms-cxr/",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation="""@inproceedings{boecking2022making,
  title={Making the Most of Text Semantics to Improve Biomedical Vision-Language Processing},
  author={Boecking, Benedikt and Usuyama, Naoto and Bannur, Shruthi and others},
  booktitle={ECCV}, year={2022}
}""",
    published={"patients": 851},
)
SOURCE_T = Source(
    name="ms_cxr_t",
    title="MS-CXR-T (change of findings)",
    load=load_ms_cxr_t,
    homepage="https://physionet.org/content/ms-cxr-t/",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation="""@inproceedings{bannur2023learning,
  title={Learning to Exploit Temporal Structure for Biomedical Vision-Language Processing},
  author={Bannur, Shruthi and Hyland, Stephanie and Liu, Qianchu and others},
  booktitle={CVPR}, year={2023}
}""",
    published={"images": 1_045},
)
