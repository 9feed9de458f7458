"""MIMIC-EYE 1.0.0: the MIMIC-CXR images that EGD and REFLACX read, with both gazes, sorted by patient.

    patient_<subject_id>/CXR-JPG/s<study_id>/<dicom_id>.jpg
                         CXR-DICOM/s<study_id>.txt
                         REFLACX/metadata.csv, main_data/<id>/..., gaze_data/<id>/gaze.csv
                         EyeGaze/master_sheet.csv, fixations.csv, audio_segmentation_transcripts/<dicom_id>/...
    spreadsheets/        cxr_meta.csv, CXR-JPG/{cxr_chexpert,cxr_negbio,cxr_split}.csv: told by their columns here

The tree was read off the set's own description as a public copy quotes it. Patients have tables of their own too
(CXR-JPG/cxr_meta.csv ...), with the same rows, which are not read.

Hsieh et al., MIMIC-Eye 1.0.0, PhysioNet 2023; https://physionet.org/content/mimic-eye-multimodal-datasets/
"""

from collections import Counter
from functools import partial
from pathlib import Path

from ..records import CHEXBERT_OBSERVATIONS
from .building import build
from .common import Source
from .egd import egd_readings
from .mimic_shared import PROTOCOL, SPLITS, STUDY_COLUMNS, facts_of_row, make_record
from .order import oldest_first
from .reflacx import reflacx_readings
from .roots import find_root
from .splits import choose_split
from .tables import header_of, read_table, study_codes

VERSION = 2


def load_mimic_eye(
    root,
    split: str | None = None,
    *,
    missing_findings: str = "keep",
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """MIMIC-EYE as records, one per image, with all readings of both studies.

    Args:
        root: the folder that holds `patient_*`.
        split: "train", "val", "test" (MIMIC-CXR's, where a table under `spreadsheets/` has them) or None.
        missing_findings: as in `load_mimic_cxr`.
    """
    root = find_root(root, "MIMIC-EYE", "patient_*")
    dropped: Counter = Counter()
    facts, labels = _tables(root)
    items = []
    for patient in sorted(root.glob("patient_*")):
        readings = _readings(patient, dropped)
        for image in sorted(patient.glob("CXR-JPG/s*/*.jpg")):
            study = image.parent.name
            row = facts.get(image.stem, {})
            items.append(
                {
                    "image_id": image.stem,
                    "study_id": study[1:],
                    "patient_id": patient.name.removeprefix("patient_"),
                    **facts_of_row(row, {}),
                    "image_width": 0,
                    "image_height": 0,
                    "labels": labels.get(study[1:], [-1] * 14),
                    "gaze": readings.pop(image.stem, []),
                    "split": SPLITS.get(row.get("split", ""), row.get("split")),
                    "files": [str(image), str(patient / "CXR-DICOM" / f"{study}.txt")],
                }
            )
        if readings:
            dropped["reading of an image that is not there"] += sum(map(len, readings.values()))
    return build(
        "mimic_eye",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        partial(make_record, missing_findings=missing_findings),
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol=PROTOCOL[missing_findings],
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _readings(patient: Path, dropped: Counter) -> dict[str, list[dict]]:
    readings: dict[str, list[dict]] = {}
    if (patient / "EyeGaze" / "fixations.csv").is_file():
        readings = egd_readings(patient / "EyeGaze", dropped)
    if (patient / "REFLACX" / "metadata.csv").is_file():
        for dicom, found in reflacx_readings(patient / "REFLACX", dropped).items():
            readings.setdefault(dicom, []).extend(found)
    return readings


def _tables(root: Path) -> tuple[dict[str, dict], dict[str, list[int]]]:
    """dicom_id -> view, date and split; study_id -> labels. Whatever the tables are called."""
    facts: dict[str, dict] = {}
    labels: dict[str, list[int]] = {}
    for file in sorted((root / "spreadsheets").rglob("*.csv*")):
        columns = header_of(file)
        if "dicom_id" in columns and columns & {*STUDY_COLUMNS, "split"}:
            wanted = [name for name in (*STUDY_COLUMNS, "split") if name in columns]
            for row in read_table(file).to_dict("records"):
                facts.setdefault(row["dicom_id"], {}).update({name: row[name] for name in wanted if row[name]})
        if "study_id" in columns and set(CHEXBERT_OBSERVATIONS) <= columns and "negbio" not in file.name:
            labels.update(study_codes(file, read_table(file)))
    return facts, labels


SOURCE = Source(
    name="mimic_eye",
    title="MIMIC-EYE",
    load=load_mimic_eye,
    homepage="https://physionet.org/content/mimic-eye-multimodal-datasets/",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation="""@misc{hsieh2023mimiceye,
  title={MIMIC-Eye: Integrating MIMIC Datasets with REFLACX and Eye Gaze for Multimodal Deep Learning Applications},
  author={Hsieh, Chihcheng and Ouyang, Chun and Nascimento, Jacinto C. and others},
  publisher={PhysioNet}, year={2023}
}""",
    published={"images": 3_689, "patients": 3_192},
)
