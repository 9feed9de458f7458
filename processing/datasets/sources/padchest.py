"""PadChest: 160,861 images of 67,625 patients with Spanish reports and 193 labels.

    PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv (or .csv.gz, .zip)
        ImageID, ImageDir, StudyDate_DICOM, StudyID, PatientID, PatientBirth, PatientSex_DICOM, ViewPosition_DICOM,
        Projection, MethodLabel, Report, Labels, ...
    <ImageDir>/<ImageID>, images/<ImageDir>/<ImageID>, images/<ImageID> or <ImageID>     PNG, 16 bits

The layout was read off the published table itself, which torchxrayvision installs. `Labels` is a list in Python's
spelling, such as ['cardiomegaly', 'pleural effusion']; reports are without accents and endings ("sin hallazg patolog").
Bustos et al., Medical Image Analysis 2020; https://bimcv.cipf.es/bimcv-projects/padchest/
"""

import ast
from collections import Counter
from functools import partial

from ..records import NOT_MENTIONED, POSITIVE
from .building import build, image_size
from .common import Source, blank_record, indication_of, sex_letter
from .order import iso_date, oldest_first
from .roots import find_root, first_file, found_among, stem
from .splits import choose_split
from .tables import number, read_table, without_duplicates

VERSION = 1
TABLE = "*PADCHEST_chest_x_ray_images_labels*.csv*"
VIEWS = {"PA": "PA", "AP": "AP", "AP_horizontal": "AP", "L": "LATERAL"}
NEEDED = (
    *("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("Projection", "MethodLabel", "Report", "Labels"),
)


def load_padchest(
    root,
    split: str | None = None,
    *,
    label_method: str | None = None,
    demographics: bool = True,
    chexmask=None,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """PadChest as records. Labels are PadChest's own names, all of the table's, positive or not mentioned.

    Args:
        root: the folder with the table.
        split: a name among `split_lists` (PadChest has none of its own), or None.
        label_method: "Physician" for the 39,053 images whose report a physician labelled, "RNN_model" for the others.
        demographics: age and sex make the indication; ages are of the year of birth.
        chexmask: CheXmask's table, `Padchest.csv`; see `chexmask.attach`.

    Raises:
        ValueError: wrong root, a missing column, a `Labels` that is no list; names file and image.
    """
    root = find_root(root, "PadChest", TABLE)
    file = first_file(root, TABLE)
    dropped: Counter = Counter()
    table = without_duplicates(read_table(file, NEEDED), "ImageID", dropped)
    table["Labels"] = [
        parse_labels(text, file, name) for text, name in zip(table["Labels"], table["ImageID"], strict=True)
    ]
    names = sorted({label for labels in table["Labels"] for label in labels})
    items = []
    for row in table.to_dict("records"):
        if label_method and row["MethodLabel"] != label_method:
            dropped[f"labelled by {row['MethodLabel'] or 'nobody'}"] += 1
        elif row["Projection"] == "EXCLUDE":
            dropped["marked for exclusion"] += 1
        else:
            items.append(_item(root, row, names))
    return build(
        "padchest",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        partial(make_record, demographics=demographics),
        label_names=names,
        text_protocol="Spanish report, stemmed, as findings; "
        + ("indication from age and sex" if demographics else ""),
        split=split,
        dropped=dropped,
        version=VERSION,
        chexmask=chexmask,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def parse_labels(text: str, file, image: str) -> list[str]:
    """The labels of one image, each once; none where the cell is empty ("nan").

    Raises:
        ValueError: the cell is no list; names file and image.
    """
    if text.strip() in ("", "nan"):
        return []
    try:
        labels = [str(label).strip() for label in ast.literal_eval(text)]
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(f"{file}: column 'Labels' of {image} is no list but {text[:60]!r}.") from error
    return [label for label in dict.fromkeys(labels) if label]


def age_at(row: dict) -> float | None:
    """Years from the year of birth to the study's."""
    year, born = number(row.get("StudyDate_DICOM", "")[:4]), number(row.get("PatientBirth"))
    years = None if year is None or born is None else year - born
    return years if years is not None and 0 <= years <= 120 else None


def _item(root, row: dict, names: list[str]) -> dict:
    image = row["ImageID"]
    places = [f"{row['ImageDir']}/{image}", f"images/{row['ImageDir']}/{image}", f"images/{image}", image]
    found = set(row["Labels"])
    return {
        "image_id": stem(image),
        "study_id": row["StudyID"],
        "patient_id": row["PatientID"],
        "view_position": VIEWS.get(row["Projection"], ""),
        "patient_age": age_at(row),
        "patient_sex": sex_letter(row["PatientSex_DICOM"]),
        "study_date": iso_date(row["StudyDate_DICOM"]),
        "findings": " ".join(row["Report"].split()),
        "labels": [POSITIVE if name in found else NOT_MENTIONED for name in names],
        "files": [found_among(root, places)],
    }


def make_record(item: dict, noted: Counter, demographics: bool = True) -> dict:
    width, height = image_size(item["files"][0])
    fields = (
        *("image_id", "study_id", "patient_id", "view_position", "patient_age", "patient_sex", "study_date"),
        *("findings", "labels"),
    )
    noted["no labels"] += POSITIVE not in item["labels"]
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in fields},
        "indication": indication_of(item["patient_age"], item["patient_sex"]) if demographics else "",
    }


SOURCE = Source(
    name="padchest",
    title="PadChest",
    load=load_padchest,
    homepage="https://bimcv.cipf.es/bimcv-projects/padchest/",
    licence="PadChest Dataset Research Use Agreement (BIMCV)",
    citation="""@article{bustos2020padchest,
  title={PadChest: A large chest x-ray image dataset with multi-label annotated reports},
  author={Bustos, Aurelia and Pertusa, Antonio and Salinas, Jose-Maria and de la Iglesia-Vay{\\'a}, Maria},
  journal={Medical Image Analysis}, volume={66}, pages={101797}, year={2020}
}""",
    published={"images": (160_861, 160_868), "studies": 109_931, "patients": 67_625},
)
