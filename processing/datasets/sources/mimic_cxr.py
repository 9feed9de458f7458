"""MIMIC-CXR-JPG 2.x with MIMIC-CXR's reports, and gaze from EGD and REFLACX.

    files/p10/p10000032/s50414267/<dicom_id>.jpg
    mimic-cxr-2.0.0-metadata.csv.gz, -split.csv.gz, -chexpert.csv.gz, -negbio.csv.gz
    files/p10/p10000032/s50414267.txt      MIMIC-CXR's reports, here or under a root of their own

or MIMIC-CXR's DICOMs as downloaded:

    files/p10/p10000032/s50414267/<dicom_id>.dcm
    cxr-record-list.csv.gz                 subject_id, study_id, dicom_id, path

with the tables (columns as PhysioNet's page and public code that reads them name them) of MIMIC-CXR-JPG beside them or
under `tables_root`; without its metadata, size, view and date are read from the DICOMs. Tables may be unpacked, reports
may lie beside the images. Johnson et al., Scientific Data 2019 (MIMIC-CXR) and arXiv 1901.07042 (MIMIC-CXR-JPG);
https://physionet.org/content/mimic-cxr-jpg/
"""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..records import NOT_MENTIONED
from .building import build, recall, remembered
from .common import Source
from .egd import egd_readings
from .mimic_labels import label_items
from .mimic_shared import (
    PROTOCOL,
    STUDY_COLUMNS,
    facts_of_row,
    find_reports,
    make_record,
    mimic_splits,
    patients_table,
)
from .order import oldest_first
from .reflacx import reflacx_readings
from .remembering import Remembered
from .roots import find_root, first_file
from .samples import SAMPLES, sample_facts, sample_per_class
from .splits import choose_split
from .tables import number, read_table, without_duplicates

VERSION = 2


def load_mimic_cxr(
    root,
    split: str | None = None,
    *,
    reports_root=None,
    egd_root=None,
    reflacx_root=None,
    tables_root=None,
    labels: str = "chexpert",
    labels_root=None,
    patients=None,
    chexmask=None,
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
        root: MIMIC-CXR-JPG's folder, or that of MIMIC-CXR's DICOMs (the one that holds `files/`).
        split: "train", "val", "test" or None for all.
        reports_root: the folder above the reports' `files/`; default: beside the images, `mimic-cxr-reports/` or
            MIMIC-CXR's own name there. Without reports, texts are empty and counted.
        egd_root, reflacx_root: gaze joined by dicom_id, every reading kept.
        tables_root: where MIMIC-CXR-JPG's tables are, if not in `root`.
        labels: "chexpert", "negbio", "radiologists" (part of the test set), or CXR-LT's "cxr_lt_2023", "cxr_lt_2024",
            "cxr_lt_2024_task1" or "cxr_lt_2024_task2" (names and splits of its own); see `mimic_labels`.
        labels_root: where the labels' table is, if not there; CXR-LT's folder.
        patients: MIMIC-IV's `hosp/patients.csv.gz`, for age and sex (MIMIC-CXR has neither); see `study_facts`.
        chexmask: CheXmask's table, `MIMIC-CXR-JPG.csv`; see `chexmask.attach`.
        missing_findings: "keep", "drop", or "unlabelled" (take the paragraph without a header, drop if there is none).
        views: keep these view positions only, e.g. ("PA", "AP").
        sample: "5x200" for MIMIC-5x200 (see `sample_per_class`), drawn with `seed`.

    Raises:
        ValueError: wrong root (with the right one, if near), missing table or column, patients in two splits.
    """
    options = dict(locals())
    if missing_findings not in PROTOCOL:
        raise ValueError(f"missing_findings: {missing_findings!r} is none of {', '.join(PROTOCOL)}.")
    if sample and labels not in ("chexpert", "negbio"):
        raise ValueError(f"sample: it is drawn by chexpert or negbio, not {labels}.")
    root = find_root(root, "MIMIC-CXR", "files", "*metadata.csv*|cxr-record-list.csv*")
    memory = _memory(root, options)
    if (known := recall(memory)) is not None:
        return known
    dropped: Counter = Counter()
    items = mimic_items(root, reports_root, dropped, tables_root, patients)
    items, names = label_items(items, Path(tables_root or root), labels, labels_root, dropped)
    if egd_root or reflacx_root:
        _join_gaze(items, egd_root, reflacx_root, dropped)
    items = choose_split(items, split, split_lists, dropped=dropped)
    if views is not None:
        wanted = {view.strip().upper() for view in views}
        kept = [item for item in items if item["view_position"] in wanted]
        dropped[f"view not among {', '.join(views)}"] += len(items) - len(kept)
        items = kept
    if sample:
        items = sample_per_class(items, sample, names, seed)
    return build(
        "mimic_cxr",
        items,
        partial(make_record, missing_findings=missing_findings),
        label_names=names,
        text_protocol=PROTOCOL[missing_findings],
        split=split,
        dropped=dropped,
        sample=sample,
        **sample_facts("mimic", sample),
        labels=labels,
        chexmask=chexmask,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
        memory=memory,
    )


def _memory(root: Path, options: dict) -> Remembered:
    """Where the set lies that `load_mimic_cxr` built of these options before."""
    told = {name: str(value) for name, value in options.items() if name not in ("num_proc", "cache_dir")}
    told["reports"] = str(find_reports(root, options["reports_root"]))
    lists = options["split_lists"] and Path(options["split_lists"]).expanduser()
    lists = lists.parent if lists and lists.is_file() else lists  # a list brings in those beside it
    cxr_lt = options["labels_root"] and [
        options["labels_root"],
        *Path(options["labels_root"]).expanduser().glob("cxr-lt*"),
    ]
    tables = (root, options["tables_root"], *(cxr_lt or ()), options["patients"], options["chexmask"], lists)
    return remembered(
        "mimic_cxr", VERSION, told, tables, (options["egd_root"], options["reflacx_root"]), options["cache_dir"]
    )


# MIMIC-5x200: frontal images, 200 positive for one of five observations alone, from all splits unless one is given.
# The official test split alone has too few; what is drawn from the training split must be left out of training.
load_mimic_5x200 = partial(load_mimic_cxr, sample="5x200", views=("PA", "AP"))


def mimic_items(
    root: Path, reports_root=None, dropped: Counter | None = None, tables_root=None, patients=None
) -> list[dict]:
    """What `make_record` needs of every image in the tables but its labels, a patient's studies oldest first."""
    dropped = Counter() if dropped is None else dropped
    tables = Path(tables_root or root)
    records, metadata = first_file(root, "cxr-record-list.csv*"), first_file(tables, "*metadata.csv*")
    # In a folder with both kinds of download, the tables tell JPEGs.
    dicom_files = records is not None and first_file(root, "*metadata.csv*") is None
    sized = ("ViewPosition", "Rows", "Columns") if metadata else ()
    table = read_table(metadata or records, ("dicom_id", "subject_id", "study_id", *sized))
    split_of, reports = mimic_splits(tables), find_reports(root, reports_root)
    items = []
    wanted, known = ("dicom_id", "subject_id", "study_id", "Rows", "Columns", *STUDY_COLUMNS), patients_table(patients)
    table = without_duplicates(table, "dicom_id", dropped)
    for row in table.filter(items=wanted).to_dict("records"):
        subject, study, dicom = row["subject_id"], row["study_id"], row["dicom_id"]
        folder = f"files/p{subject[:2]}/p{subject}/s{study}"
        files = [f"{root}/{folder}/{dicom}.{'dcm' if dicom_files else 'jpg'}"]
        if reports:
            files.append(f"{reports}/{folder}.txt")
        items.append(
            {
                "image_id": dicom,
                "study_id": study,
                "patient_id": subject,
                **facts_of_row(row, known),
                "image_width": int(number(row.get("Columns"), 0)),
                "image_height": int(number(row.get("Rows"), 0)),
                "labels": [NOT_MENTIONED] * 14,
                "split": split_of.get(dicom),
                "files": files,
            }
        )
    return oldest_first(items)


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
