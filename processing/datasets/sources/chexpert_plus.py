"""CheXpert Plus: CheXpert's images as PNG, with their reports by section.

    df_chexpert_plus_240401.csv     path_to_image (train/patient42142/study5/view1_frontal.jpg), frontal_lateral, ap_pa,
                                     deid_patient_id, patient_report_date_order, report, section_clinical_history,
                                     section_history, section_findings, section_impression, age, sex, split, ...
    PNG/<train|valid>/patient<n>/study<n>/view<n>_<frontal|lateral>.png      PNG/*.zip unpacked; also PNG/PNG/...
    chexbert_labels/<report|findings|impression>_fixed.json     a JSON object a line: path_to_image, 14 labels

Columns were read off the header of the table as public code quotes it. A study is the path's patient and study;
`patient_report_date_order` tells their order. Chambon et al., arXiv 2405.19538;
https://stanfordaimi.azurewebsites.net/datasets/5158c524-d3ab-4e02-96e9-6ee9efc110a1
"""

import json
from collections import Counter
from pathlib import Path

from ..records import CHEXBERT_OBSERVATIONS, NOT_MENTIONED
from .building import build, image_size
from .common import Skip, Source, age_in_years, blank_record, sex_letter
from .order import oldest_first
from .roots import find_root, first_file, found_among, read_text
from .splits import choose_split
from .tables import chexpert_codes, number, read_table

VERSION = 1
TABLE = "df_chexpert_plus*.csv*"
SPLITS = {"train": "train", "valid": "val", "test": "test"}
SECTIONS = {
    "indication": "section_clinical_history",
    "history": "section_history",
    "findings": "section_findings",
    "impression": "section_impression",
}
NEEDED = ("path_to_image", "frontal_lateral", "ap_pa", "age", "sex", *SECTIONS.values())


def load_chexpert_plus(
    root,
    split: str | None = None,
    *,
    labels: str | None = "report",
    missing_findings: str = "keep",
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """CheXpert Plus as records, one per image.

    Args:
        root: the folder with the table; images in `PNG/` there.
        split: "train" or "val" (the path's first folder), a name among `split_lists`, or None.
        labels: CheXbert's of the "report", the "findings" or the "impression"; None for none. Counted where the file is
            not there.
        missing_findings: "keep" or "drop" records without a findings section.

    Raises:
        ValueError: wrong root, missing column, a path without patient and study, a broken label file.
    """
    if missing_findings not in ("keep", "drop"):
        raise ValueError(f"missing_findings: {missing_findings!r} is neither keep nor drop.")
    root = find_root(root, "CheXpert Plus", TABLE)
    file = first_file(root, TABLE)
    codes, noted, dropped = label_codes(root, labels), Counter(), Counter()
    if labels and not codes:
        noted[f"no {labels}_fixed.json, labels not mentioned"] = 1
    items = []
    for row in read_table(file, NEEDED).to_dict("records"):
        path = row["path_to_image"].rsplit(".", 1)[0]
        parts = path.split("/")
        if len(parts) < 4 or not parts[-3].startswith("patient") or not parts[-2].startswith("study"):
            raise ValueError(
                f"{file}: path_to_image {row['path_to_image']!r} is not <split>/patient<n>/study<n>/<view>."
            )
        texts = {name: " ".join(row[column].split()) for name, column in SECTIONS.items()}
        if not texts["findings"] and missing_findings == "drop":
            dropped["no findings"] += 1
            continue
        noted["not in the labels' file"] += bool(codes) and path not in codes
        lateral = row["frontal_lateral"].strip().lower() == "lateral"
        order = number(row.get("patient_report_date_order"), number(parts[-2].removeprefix("study"), 0))
        items.append(
            texts
            | {
                "image_id": "/".join(parts[-3:]),
                "study_id": "/".join(parts[-3:-1]),
                "patient_id": parts[-3],
                "study_order": order,
                "view_position": "LATERAL" if lateral else row["ap_pa"].strip().upper(),
                "patient_age": age_in_years(row["age"]),
                "patient_sex": sex_letter(row["sex"]),
                "labels": codes.get(path, [NOT_MENTIONED] * 14),
                "split": SPLITS.get(parts[-4], parts[-4]),
                "files": [found_among(root, [f"{folder}{path}.png" for folder in ("PNG/", "PNG/PNG/", "")])],
            }
        )
    return build(
        "chexpert_plus",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        make_record,
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol="sections of the table; clinical history as indication",
        split=split,
        dropped=dropped,
        noted=noted,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def label_codes(root: Path, labels: str | None) -> dict[str, list[int]]:
    """Image path without its suffix -> codes; empty without the file.

    Raises:
        ValueError: an unknown kind of labels; a line that is no JSON object or holds another value; names both.
    """
    if labels is None:
        return {}
    if labels not in ("report", "findings", "impression"):
        raise ValueError(f"labels: {labels!r} is none of report, findings and impression.")
    file = first_file(root, f"chexbert_labels/{labels}_fixed.json", f"{labels}_fixed.json")
    codes = {}
    for line, text in enumerate(read_text(file).splitlines() if file else [], 1):
        if text.strip():
            try:
                row = json.loads(text)
                values = {name: "" if row.get(name) is None else str(row[name]) for name in CHEXBERT_OBSERVATIONS}
                codes[row["path_to_image"].rsplit(".", 1)[0]] = chexpert_codes(values)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{file}, line {line}: it is no row of labels ({error}); download it again."
                ) from error
    return codes


def make_record(item: dict, noted: Counter) -> dict:
    width, height = image_size(item["files"][0])
    if not (item["findings"] or item["impression"]):
        raise Skip("neither findings nor impression")
    noted["no findings"] += not item["findings"]
    fields = ("image_id", "study_id", "patient_id", "view_position", "patient_age", "patient_sex", "labels", *SECTIONS)
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in fields},
    }


SOURCE = Source(
    name="chexpert_plus",
    title="CheXpert Plus",
    load=load_chexpert_plus,
    homepage="https://stanfordaimi.azurewebsites.net/datasets/5158c524-d3ab-4e02-96e9-6ee9efc110a1",
    licence="Stanford University Dataset Research Use Agreement",
    citation="""@article{chambon2024chexpertplus,
  title={CheXpert Plus: Augmenting a Large Chest X-ray Dataset with Text Radiology Reports, Patient Demographics and
         Additional Image Formats},
  author={Chambon, Pierre and Delbrouck, Jean-Benoit and Sounack, Thomas and others},
  journal={arXiv:2405.19538}, year={2024}
}""",
    published={"images": (223_228, 223_462), "studies": 187_711, "patients": 64_725},
)
