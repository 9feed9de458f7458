"""MIMIC-CXR-JPG 2.x with MIMIC-CXR's reports, and gaze from EGD and REFLACX.

    files/p10/p10000032/s50414267/<dicom_id>.jpg
    mimic-cxr-2.0.0-metadata.csv.gz, -split.csv.gz, -chexpert.csv.gz, -negbio.csv.gz
    files/p10/p10000032/s50414267.txt      MIMIC-CXR's reports, here or under a root of their own

Tables may be unpacked, reports may lie beside the images. Johnson et al., Scientific Data 2019 (MIMIC-CXR) and
arXiv 1901.07042 (MIMIC-CXR-JPG); https://physionet.org/content/mimic-cxr-jpg/
"""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..records import CHEXBERT_OBSERVATIONS
from .building import build
from .common import Source
from .egd import egd_readings
from .mimic_shared import PROTOCOL, find_reports, make_record, mimic_splits
from .reflacx import reflacx_readings
from .roots import find_root, first_file, require_file
from .samples import SAMPLES, sample_facts, sample_per_class
from .splits import choose_split
from .tables import chexpert_codes, number, read_table, without_duplicates

VERSION = 1


def load_mimic_cxr(
    root,
    split: str | None = None,
    *,
    reports_root=None,
    egd_root=None,
    reflacx_root=None,
    labels: str = "chexpert",
    missing_findings: str = "keep",
    views: tuple[str, ...] | None = None,
    sample: str | None = None,
    seed: int = 0,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """MIMIC-CXR as records, one per image.

    Args:
        root: MIMIC-CXR-JPG's folder (the one that holds `files/`).
        split: "train", "val", "test" or None for all.
        reports_root: the folder above the reports' `files/`; default: beside the images, `mimic-cxr-reports/` or
            MIMIC-CXR's own name there. Without reports, texts are empty and counted.
        egd_root, reflacx_root: gaze joined by dicom_id, every reading kept.
        labels: "chexpert" or "negbio".
        missing_findings: "keep", "drop", or "unlabelled" (take the paragraph without a header, drop if there is none).
        views: keep these view positions only, e.g. ("PA", "AP").
        sample: "5x200" for MIMIC-5x200 (see `sample_per_class`), drawn with `seed`.

    Raises:
        ValueError: wrong root (with the right one, if near), missing table or column, patients in two splits.
    """
    if missing_findings not in PROTOCOL:
        raise ValueError(f"missing_findings: {missing_findings!r} is none of {', '.join(PROTOCOL)}.")
    root = find_root(root, "MIMIC-CXR-JPG", "files", "*metadata.csv*")
    dropped: Counter = Counter()
    items = mimic_items(root, reports_root, labels, dropped)
    if egd_root or reflacx_root:
        _join_gaze(items, egd_root, reflacx_root, dropped)
    items = choose_split(items, split, split_lists, dropped=dropped)
    if views is not None:
        kept = [item for item in items if item["view_position"] in views]
        dropped[f"view not among {', '.join(views)}"] += len(items) - len(kept)
        items = kept
    if sample:
        items = sample_per_class(items, sample, CHEXBERT_OBSERVATIONS, seed)
    return build(
        "mimic_cxr",
        items,
        partial(make_record, missing_findings=missing_findings),
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol=PROTOCOL[missing_findings],
        split=split,
        dropped=dropped,
        sample=sample,
        **sample_facts("mimic", sample),
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


# MIMIC-5x200: frontal images, 200 positive for one of five observations alone, from all splits unless one is given.
# The official test split alone has too few; what is drawn from the training split must be left out of training.
load_mimic_5x200 = partial(load_mimic_cxr, sample="5x200", views=("PA", "AP"))


def mimic_items(root: Path, reports_root=None, labels: str = "chexpert", dropped: Counter | None = None) -> list[dict]:
    """What `make_record` needs of every image in the tables, in their order."""
    dropped = Counter() if dropped is None else dropped
    metadata = read_table(
        require_file(root, "MIMIC-CXR-JPG", "*metadata.csv*"),
        ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"),
    )
    metadata = without_duplicates(metadata, "dicom_id", dropped)
    split_of = mimic_splits(root)
    labels_of = mimic_labels(root, labels)
    reports = find_reports(root, reports_root)
    items = []
    for row in metadata.to_dict("records"):
        subject, study, dicom = row["subject_id"], row["study_id"], row["dicom_id"]
        folder = f"files/p{subject[:2]}/p{subject}/s{study}"
        files = [str(root / folder / f"{dicom}.jpg")]
        if reports:
            files.append(str(reports / f"{folder}.txt"))
        items.append(
            {
                "image_id": dicom,
                "study_id": study,
                "patient_id": subject,
                "view_position": row["ViewPosition"].strip().upper(),
                "image_width": int(number(row["Columns"], 0)),
                "image_height": int(number(row["Rows"], 0)),
                "labels": labels_of.get(study, [-1] * 14),
                "split": split_of.get(dicom),
                "files": files,
            }
        )
    return items


def mimic_labels(root: Path, labels: str) -> dict[str, list[int]]:
    """study_id -> label codes; empty without the table."""
    if labels not in ("chexpert", "negbio"):
        raise ValueError(f"labels: {labels!r} is neither chexpert nor negbio.")
    file = first_file(root, f"*{labels}.csv*")
    if file is None:
        return {}
    table = read_table(file, ("study_id", *CHEXBERT_OBSERVATIONS))
    return {row["study_id"]: chexpert_codes(row) for row in table.to_dict("records")}


def _join_gaze(items: list[dict], egd_root, reflacx_root, dropped: Counter) -> None:
    by_id = {item["image_id"]: item for item in items}
    sources = ((egd_root, egd_readings), (reflacx_root, reflacx_readings))
    for readings in (read(Path(folder), dropped) for folder, read in sources if folder):
        for dicom, found in readings.items():
            if dicom in by_id:
                by_id[dicom].setdefault("gaze", []).extend(found)
            else:
                dropped["gaze on an image that is not in the tables"] += len(found)


CITATION = """@article{johnson2019mimic,
  title={MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text reports},
  author={Johnson, Alistair E. W. and Pollard, Tom J. and Berkowitz, Seth J. and others},
  journal={Scientific Data}, volume={6}, pages={317}, year={2019}
}"""

SOURCE = Source(
    name="mimic_cxr",
    title="MIMIC-CXR-JPG",
    load=load_mimic_cxr,
    homepage="https://physionet.org/content/mimic-cxr-jpg/",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation=CITATION,
    published={"images": 377_110, "studies": 227_827, "patients": 65_379},
)
SOURCE_5X200 = replace(
    SOURCE,
    name="mimic_5x200",
    title=f"MIMIC-5x200 ({', '.join(SAMPLES['5x200'])})",
    load=load_mimic_5x200,
    published={"images": 1_000},
)
