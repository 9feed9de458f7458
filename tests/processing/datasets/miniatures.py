"""Miniatures of the public data sets in their published layouts, quirks included. Every picture is generated.

What each was read off stands in its loader's docstring (`processing/datasets/sources/`).
"""

import csv
import gzip
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

OBSERVATIONS = (
    "Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,"
    "Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices,No Finding"
).split(",")


def pixels(width, height, seed=0):
    ramp = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width))
    return (ramp + np.random.default_rng(seed).integers(0, 15, (height, width))).astype(np.uint8)


def picture(path, width=64, height=80, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(width, height, seed)).save(path)
    return path


def dicom(path, age="062Y", sex="M", view="PA", width=64, height=64, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Modality, data.PhotometricInterpretation = "CR", "MONOCHROME2"
    data.Rows, data.Columns, data.SamplesPerPixel = height, width, 1
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # RSNA writes ages without a unit
        data.PatientAge, data.PatientSex, data.ViewPosition = age, sex, view
    data.PixelData = pixels(width, height, seed).tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def table(path, header, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open(path, "wt", newline="") if path.suffix == ".gz" else open(path, "w", newline="")
    with opened as file:
        csv.writer(file).writerows([header, *rows])
    return path


def text(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))
    return path


# MIMIC-CXR: three patients. d1 PA and d2 without a view in one study; d3 whose report has no findings header; d4 whose
# report is missing and which the tables list twice; d5 that was not downloaded.

MIMIC = {
    "d1": ("10000032", "50414267", "PA", "train"),
    "d2": ("10000032", "50414267", "", "train"),
    "d3": ("10000764", "57375967", "AP", "validate"),
    "d4": ("10000898", "50771383", "LATERAL", "test"),
    "d5": ("10000898", "50771383", "AP", "test"),
}


def mimic_folder(dicom_id):
    subject, study, _, _ = MIMIC[dicom_id]
    return f"files/p{subject[:2]}/p{subject}/s{study}"


def mimic_cxr(root: Path, reports: Path | None = None, suffix=".csv.gz"):
    reports = reports or root
    for seed, name in enumerate(("d1", "d2", "d3", "d4")):
        picture(root / mimic_folder(name) / f"{name}.jpg", 200, 240, seed)
    when = {"d3": ("21790101", "83014.0")}
    rows = [
        (name, s, t, "CHEST (PA AND LAT)", view, 240, 200, *when.get(name, ("21800506", "213014.531")), "", "", "Erect")
        for name, (s, t, view, _) in MIMIC.items()
    ]
    header = (
        *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns"),
        *("StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning"),
        "PatientOrientationCodeSequence_CodeMeaning",
    )
    table(root / f"mimic-cxr-2.0.0-metadata{suffix}", header, *rows, rows[3])
    splits = [(name, t, s, split) for name, (s, t, _, split) in MIMIC.items()]
    table(root / f"mimic-cxr-2.0.0-split{suffix}", ("dicom_id", "study_id", "subject_id", "split"), *splits)
    labels = ["1.0", "-1.0", "0.0"] + [""] * 11
    table(
        root / f"mimic-cxr-2.0.0-chexpert{suffix}",
        ("subject_id", "study_id", *OBSERVATIONS),
        ("1", "50414267", *labels),
    )
    other = ["", "1.0"] + [""] * 12
    table(
        root / f"mimic-cxr-2.0.0-negbio{suffix}", ("subject_id", "study_id", *OBSERVATIONS), ("1", "50414267", *other)
    )
    text(
        reports / "files/p10/p10000032/s50414267.txt",
        " FINAL REPORT\n INDICATION:  ___F with cough\n\n HISTORY: Asthma.\n\n FINDINGS:\n\n Clear lungs.\n\n"
        " IMPRESSION:\n\n Normal.\n",
    )
    text(
        reports / "files/p10/p10000764/s57375967.txt",
        " EXAMINATION:  CHEST\n\n INDICATION: Fièvre\n\n The heart is mildly enlarged.\n\n IMPRESSION: Large heart.",
        "latin-1",
    )
    return root


# EGD: d1 has two rows in the master sheet, a blink, a lost sample, a look beside the image; a calibration picture.


# The headers of the published tables.
EGD_SHEET = (
    "dicom_id,path,study_id,patient_id,stay_id,gender,anchor_age,image_top_pad,image_bottom_pad,image_left_pad,"
    "image_right_pad,dx1,dx1_icd,dx2,dx2_icd,dx3,dx3_icd,dx4,dx4_icd,dx5,dx5_icd,dx6,dx6_icd,dx7,dx7_icd,dx8,dx8_icd,"
    "dx9,dx9_icd,normal_reports,Normal,CHF,pneumonia,consolidation,enlarged_cardiac_silhouette,"
    "linear__patchy_atelectasis,lobar__segmental_collapse,"
    "not_otherwise_specified_opacity___pleural__parenchymal_opacity__,pleural_effusion_or_thickening,"
    "pulmonary_edema__hazy_opacity,normal_anatomically,elevated_hemidiaphragm,hyperaeration,vascular_redistribution,"
    "atelectasis__chx,cardiomegaly__chx,consolidation__chx,edema__chx,enlarged_cardiomediastinum__chx,fracture__chx,"
    "lung_lesion__chx,lung_opacity__chx,no_finding__chx,pleural_effusion__chx,pleural_other__chx,pneumonia__chx,"
    "pneumothorax__chx,support_devices__chx,cxr_exam_indication"
).split(",")
EGD_FIXATIONS = (
    "SESSION_ID,MEDIA_ID,DICOM_ID,CNT,Time (in secs),TIMETICK(f=10000000),FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,FPOGV,BPOGX,"
    "BPOGY,BPOGV,LPCX,LPCY,LPD,LPS,LPV,RPCX,RPCY,RPD,RPS,RPV,BKID,BKDUR,BKPMIN,LPMM,LPMMV,RPMM,RPMMV,SACCADE_MAG,"
    "SACCADE_DIR,VID_FRAME,X_ORIGINAL,Y_ORIGINAL"
).split(",")


def egd(root: Path, dicom_ids=("d1",), transcripts=True):
    rows, chx = [], [f"{name.lower().replace(' ', '_')}__chx" for name in OBSERVATIONS]
    for name in (*dicom_ids, dicom_ids[0]):
        subject, study, _, _ = MIMIC[name]
        labels = ["1", "", "-1", "0"] + [""] * 10
        path = f"{mimic_folder(name)}/{name}.dcm"
        known = dict(zip(chx, labels, strict=True)) | {"dicom_id": name, "path": path, "study_id": study}
        known |= {"patient_id": subject, "gender": "F", "anchor_age": "20 - 30", "image_top_pad": 0, "CHF": 1}
        rows.append(known | {"cxr_exam_indication": "___F with  CHF// edema?"})
    rows.append({"dicom_id": "calibration", "path": "calibration_image.png"})
    table(root / "master_sheet.csv", EGD_SHEET, *([row.get(name, "") for name in EGD_SHEET] for row in rows))
    fixations = []
    for name in dicom_ids:
        for end, begin, seconds, valid, blink, x, y in (
            ("1.1", "0.6", "0.5", "1", "0", "50", "60"),
            ("0.55", "0.05", "0.5", "1", "0", "10", "20"),  # rows out of order
            ("1.6", "1.3", "0.3", "1", "4", "50", "60"),  # blink
            ("1.9", "1.7", "0.2", "0", "0", "50", "60"),  # lost
            ("2.2", "2.0", "0.2", "1", "0", "-1", "-1"),  # beside the image
            ("2.9", "2.3", "0.6", "1", "0", "500", "60"),  # outside its 200 columns
            ("3.5", "3.0", "0.5", "1", "0", "199", "239"),
        ):
            known = {"SESSION_ID": 1, "DICOM_ID": name, "Time (in secs)": end, "FPOGS": begin, "FPOGD": seconds}
            known |= {"FPOGX": 0.5, "FPOGY": 0.5, "FPOGV": valid, "BKID": blink, "X_ORIGINAL": x, "Y_ORIGINAL": y}
            fixations.append([known.get(name, "0") for name in EGD_FIXATIONS])
    table(root / "fixations.csv", EGD_FIXATIONS, *fixations)
    table(
        root / "bounding_boxes.csv",
        ("dicom_id", "bbox_name", "x1", "x2", "y1", "y2"),
        (dicom_ids[0], "cardiac silhouette", 60, 140, 100, 200),
    )
    for name in dicom_ids if transcripts else ():
        phrases = [
            {"phrase": "The heart", "begin_time": 0.0, "end_time": 1.0},
            {"phrase": "is large.", "begin_time": 1.0, "end_time": 1.5},
            {"phrase": "No edema. Clear.", "begin_time": 2.0, "end_time": 3.5},
        ]
        content = {"full_text": " ".join(p["phrase"] for p in phrases), "time_stamped_text": phrases}
        text(root / "audio_segmentation_transcripts" / name / "transcript.json", json.dumps(content))
    return root


# REFLACX: two readings of d1, one discarded of d3, and phase 2 asks for another label than phase 1.

FIXATION_COLUMNS = (
    "timestamp_start_fixation,timestamp_end_fixation,{0}x_position,{0}y_position,"
    "angular_resolution_x_pixels_per_degree,angular_resolution_y_pixels_per_degree,xmin_shown_from_image,"
    "ymin_shown_from_image,xmax_shown_from_image,ymax_shown_from_image,window_width,window_level"
)


def reflacx_reading(folder: Path, average=False):
    table(
        folder / "fixations.csv",
        FIXATION_COLUMNS.format("average_" if average else "").split(","),
        (0.2, 0.7, 100, 120, 30, 31, 0, 0, 200, 240, 1, 0.5),
        (0.8, 1.0, 20, 20, 30, 31, 50, 50, 150, 150, 1, 0.5),  # zoomed in: beside the part shown
        (1.1, 1.6, 90, 80, 60, 62, 50, 50, 150, 150, 1, 0.5),
        (1.7, 1.8, "", "", 60, 62, 50, 50, 150, 150, 1, 0.5),  # lost
    )
    table(
        folder / "timestamps_transcription.csv",
        ("word", "timestamp_start_word", "timestamp_end_word"),
        *(("Heart", 0.1, 0.4), ("is", 0.4, 0.5), ("large", 0.5, 0.9), (".", 0.9, 0.9)),
        *(("No", 1.2, 1.3), ("effusion", 1.3, 1.8), (".", 1.8, 1.8)),
    )
    text(folder / "transcription.txt", "Heart is large. No effusion.")
    table(
        folder / "anomaly_location_ellipses.csv",
        ("xmin", "ymin", "xmax", "ymax", "certainty", "Enlarged cardiac silhouette", "Fracture", "Other"),
        (60, 100, 140, 200, 5, True, False, ""),
        (10, 20, 30, 40, 2, False, False, "bowel gas, true"),
        (10, 20, 10, 40, 2, False, True, ""),
    )
    table(folder / "chest_bounding_box.csv", ("xmin", "ymin", "xmax", "ymax"), (5, 6, 195, 236))


def reflacx(root: Path):
    base = (
        "id",
        "split",
        "eye_tracking_data_discarded",
        "image",
        "dicom_id",
        "subject_id",
        "image_size_x",
        "image_size_y",
    )
    prefix = "physionet.org/files/mimic-cxr/2.0.0/"

    def row(name, dicom_id, discarded, *labels):
        subject, _, _, split = MIMIC[dicom_id]
        path = f"{prefix}{mimic_folder(dicom_id)}/{dicom_id}.dcm"
        return (name, split, discarded, path, dicom_id, subject, 200, 240, *labels)

    main = root / "main_data"
    table(
        main / "metadata_phase_1.csv",
        (*base, "Fracture", "Support devices", "Other"),
        row("P101R1", "d1", False, 2, True, "bowel gas"),
        row("P101R2", "d1", False, 0, False, ""),
        row("P101R2", "d1", False, 0, False, ""),
        row("P102R1", "d3", True, 0, False, ""),
    )
    table(main / "metadata_phase_2.csv", (*base, "Fracture", "Edema"), row("P201R1", "d2", False, 0, 3))
    reflacx_reading(main / "P101R1")
    reflacx_reading(main / "P101R2", average=True)
    reflacx_reading(main / "P102R1")
    reflacx_reading(main / "P201R1")
    return root


def mimic_eye(root: Path):
    patient = root / "patient_10000032"
    picture(patient / "CXR-JPG/s50414267/d1.jpg", 200, 240)
    text(patient / "CXR-DICOM/s50414267.txt", "FINDINGS: Clear lungs.")
    egd(patient / "EyeGaze")
    base = ("id", "eye_tracking_data_discarded", "image", "dicom_id", "subject_id", "image_size_x", "image_size_y")
    path = f"{mimic_folder('d1')}/d1.dcm"
    row = ("P101R1", False, path, "d1", "10000032", 200, 240, 0)
    table(patient / "REFLACX/metadata.csv", (*base, "Fracture"), row)
    reflacx_reading(patient / "REFLACX/main_data/P101R1")
    table(patient / "REFLACX/gaze_data/P101R1/gaze.csv", ("timestamp_sample",), (0.1,))
    picture(root / "patient_10000764/CXR-JPG/s57375967/d3.jpg", 200, 240, 1)
    header = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")
    row = ("d1", "10000032", "50414267", "PA", "21800506", "213014.531")
    table(root / "spreadsheets/cxr_meta.csv", header, row)
    table(root / "spreadsheets/CXR-JPG/cxr_split.csv", ("dicom_id", "split"), ("d1", "train"), ("d3", "validate"))
    labels = ("50414267", "1.0", *[""] * 13)
    table(root / "spreadsheets/CXR-JPG/cxr_chexpert.csv", ("study_id", *OBSERVATIONS), labels)
    return root


def cogaze_release(root: Path):
    """Items of the release's annotation (facts of MK-runner/CoGaze's `mimic-annotation`)."""

    def item(name, heatmap=None, serialization=("clear",), labels=None, second="y"):
        subject, study, view, _ = MIMIC[name]
        path = f"p10/p{subject}/s{study}"
        return {
            "id": name,
            "subject_id": int(subject),
            "study_id": int(study),
            "anchor_scan": {
                "image_path": [f"{path}/{'x' if name == 'd4' else name}.jpg", f"{path}/{second}.jpg"],
                "view_position": [view, "pa"],
            },
            "findings": f" Findings of {name}. ",
            "findings_factual_serialization": list(serialization),
            "indication_pure": "Cough",
            "history_pure": "",
            "disease_labels": labels or [0] * 14,
            "sentence_gaze_heatmap": heatmap,
            "similar_case": {"findings": "Clear before."},
            "disease_prediction": ["Edema"],
        }

    heatmap = {"image_dir": "gaze/P101R1", "transcript_full_text": "Heart is large. No effusion."}
    content = {
        "train": [
            item("d1", heatmap, labels=[0, 1, 2, 3] + [0] * 10),
            item("d2", serialization=()),
            item("d2", second="d1") | {"id": "d2 and d1"},
        ],
        "val": [item("d3")],
        "test": [item("d4")],
    }
    text(root / "mimic-annotation.json", json.dumps(content))
    lookup = {"0": "Heart is large.", "1": "No effusion.", "full_text": "Heart is large. No effusion."}
    text(root / "gaze/P101R1/sentence-heatmap-lookup.json", json.dumps(lookup))
    for seed, key in enumerate(("0", "1", "report")):
        picture(root / f"gaze/P101R1/{key}_heatmap.jpg", 100, 120, seed)
    return root


STRUCTURED = "Lungs and Airways:\n- Clear lungs.\n\nPleura:\n- No effusion."


def srrg(root: Path, chexpert_plus: Path):
    mimic = f"{mimic_folder('d1')}"
    chexpert = "PNG/train/patient00007/study1"
    for name in ("view1_frontal.png", "view2_lateral.png"):
        picture(chexpert_plus / chexpert / name, 90, 100)
    content = {
        "train": [
            {
                "id": "mimic_50414267",
                "image_paths": [f"{mimic}/d2.jpg", f"{mimic}/d1.jpg"],
                "view_positions": ["AP", "PA"],
                "findings_section": STRUCTURED,
                "history_section": "Cough.",
            },
            {
                "id": "chexpert_1",
                "image_paths": [f"{chexpert}/view2_lateral.png", f"{chexpert}/view1_frontal.png"],
                "view_positions": ["LATERAL", "AP"],
                "findings_section": "Pleura:\n- Thickened.",
                "history_section": None,
            },
            {
                "id": "mimic_2",
                "image_paths": [f"{mimic}/d1.jpg"],
                "view_positions": ["PA"],
                "findings_section": "Free text.",
                "history_section": "",
            },
        ],
        "test": [],
    }
    text(root / "srrg_findings.json", json.dumps(content))
    return root


def srrg_hub(root: Path, chexpert_plus: Path):
    """Parquet files as in StanfordAIMI/srrg_findings_impression: columns and splits read off its card and viewer."""
    srrg(root / "json", chexpert_plus)
    items = json.loads((root / "json/srrg_findings.json").read_text())["train"]
    (root / "json/srrg_findings.json").unlink()
    plain = [{key: value for key, value in item.items() if key != "view_positions"} for item in items]
    plain[0]["id"] = "1"
    test = [plain[0] | {"id": "2", "image_paths": [f"{mimic_folder('d3')}/d3.jpg"]}]
    (root / "data").mkdir()
    sections = dict.fromkeys(("impression_section", "technique_section", "comparison_section", "exam_type_section"), "")
    for split, rows in (("train", plain), ("validate", []), ("test", test), ("test_reviewed", test)):
        rows = pa.Table.from_pylist(
            [row | sections for row in rows], pa.Table.from_pylist([plain[0] | sections]).schema
        )
        pq.write_table(rows, root / f"data/{split}-00000-of-00001.parquet")
    header = ("path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id")
    study = "train/patient00007/study1"
    rows = (f"{study}/view1_frontal.jpg", "Frontal", "AP", 7), (f"{study}/view2_lateral.jpg", "Lateral", "", 7)
    table(chexpert_plus / "df_chexpert_plus_240401.csv", header, *rows)
    return root


def chexpert_full(root: Path):
    """CheXpert at full resolution, as its archive unpacks, with the test set's labels per study."""
    small = chexpert(root / "small")
    batch = "CheXpert-v1.0 batch {}"
    for name in ("train.csv", "valid.csv"):
        place = root / batch.format("1 (validate & csv)") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text((small / name).read_text().replace("CheXpert-v1.0-small", "CheXpert-v1.0"))
    places = {"patient00001": "2 (train 1)", "patient00002": "3 (train 2)", "patient64541": "1 (validate & csv)"}
    for patient, number in places.items():
        source = next(small.glob(f"*/{patient}"))
        (root / batch.format(number)).mkdir(exist_ok=True)
        source.rename(root / batch.format(number) / patient)
    shutil.rmtree(small)
    truth = ("CheXpert-v1.0/test/patient64741/study1", *["0.0"] * 13, "1.0")
    other = ("CheXpert-v1.0/test/patient64742/study1", *["0.0"] * 13, "1.0")
    table(root / "test/groundtruth.csv", ("Study", *OBSERVATIONS), truth, other)
    picture(root / "test/patient64741/study1/view1_frontal.jpg")
    picture(root / "test/patient64741/study1/view2_lateral.jpg")
    return root


def chexpert(root: Path):
    """CheXpert's small copy: train.csv and valid.csv as published (columns of its own tables)."""
    prefix = "CheXpert-v1.0-small"
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS)
    labels = [""] * 14
    train = [
        (
            f"{prefix}/train/patient00001/study1/view1_frontal.jpg",
            "Female",
            "68",
            "Frontal",
            "AP",
            "1.0",
            "-1.0",
            *labels[2:],
        ),
        (f"{prefix}/train/patient00001/study1/view2_lateral.jpg", "Female", "68", "Lateral", "", *labels[1:], "1.0"),
        (f"{prefix}/train/patient00002/study2/view1_frontal.jpg", "Unknown", "0", "Frontal", "PA", "0.0", *labels[1:]),
        (f"{prefix}/train/patient00003/study1/view1_frontal.jpg", "Male", "40", "Frontal", "PA", *labels),
    ]
    valid = [
        (f"{prefix}/valid/patient64541/study1/view1_frontal.jpg", "Male", "73", "Frontal", "AP", *labels[1:], "1.0")
    ]
    table(root / "train.csv", header, *train, train[0])
    table(root / "valid.csv", header, *valid)
    for index, row in enumerate(train[:3] + valid):
        picture(root / row[0].removeprefix(f"{prefix}/"), 90, 70, index)
    # The fourth is cut short: its header cannot be read.
    text(root / train[3][0].removeprefix(f"{prefix}/"), "\xff\xd8", "latin-1")
    return root


def nih(root: Path):
    header = (
        *("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender"),
        *("View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"),
    )
    rows = [
        ("00000001_000.png", "Cardiomegaly|Effusion", 0, 1, "58", "M", "PA", 2682, 2749, 0.143, 0.143),
        ("00000001_001.png", "No Finding", 3, 1, "062Y", "F", "AP", 2500, 2048, 0.143, 0.143),
        ("00000002_000.png", "Hernia", 1, 2, "414", "M", "PA", 2500, 2048, 0.143, 0.143),
        ("00000003_000.png", "Mass", 0, 3, "30", "F", "PA", 2500, 2048, 0.143, 0.143),
    ]
    table(root / "Data_Entry_2017_v2020.csv", header, *rows)
    picture(root / "images_001/images/00000001_000.png", 64, 64, 1)
    picture(root / "images_001/images/00000001_001.png", 64, 64, 2)
    picture(root / "images_012/images/00000002_000.png", 64, 64, 3)
    text(
        root / "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Infiltrate,225.5,547.0,86.5,79.0\n",
    )
    text(root / "train_val_list.txt", "00000001_000.png\n00000001_001.png")
    text(root / "test_list.txt", "00000002_000.png\n00000003_000.png")
    return root


def rsna(root: Path):
    table(
        root / "stage_2_train_labels.csv",
        ("patientId", "x", "y", "width", "height", "Target"),
        ("aaa-1", "", "", "", "", 0),
        ("bbb-2", "264.0", "152.0", "213.0", "379.0", 1),
        ("bbb-2", "562.0", "152.0", "256.0", "453.0", 1),
        ("ccc-3", "", "", "", "", 0),
    )
    table(
        root / "stage_2_detailed_class_info.csv",
        ("patientId", "class"),
        *(("aaa-1", "No Lung Opacity / Not Normal"), ("bbb-2", "Lung Opacity"), ("bbb-2", "Lung Opacity")),
        ("ccc-3", "Normal"),
    )
    dicom(root / "stage_2_train_images/aaa-1.dcm", "51", "F", "AP", seed=1)
    dicom(root / "stage_2_train_images/bbb-2.dcm", "048Y", "M", "PA", seed=2)
    dicom(root / "stage_2_train_images/ccc-3.dcm", "", "F", "", seed=3)
    return root


# The mask of 3, 1 and 1 pixels: column 2 rows 1-3, column 4 row 0, column 4 row 2, in a picture of 64 x 64.
RLE = f"{2 * 64 + 1} 3 {4 * 64 - (2 * 64 + 4)} 1 1 1"


def siim_dicom(root: Path):
    uid = "1.2.276.0.7230010.3.1.4.8323329.{}.1517875201.850819"
    for index in (1, 2):
        inner = uid.format(f"{index}9"), uid.format(f"{index}8")
        dicom(root / "dicom-images-train" / inner[0] / inner[1] / f"{uid.format(index)}.dcm", seed=index)
    table(
        root / "train-rle.csv",
        ("ImageId", " EncodedPixels"),
        (uid.format(1), f" {RLE}"),
        (uid.format(1), " 0 2"),
        (uid.format(2), " -1"),
        (uid.format(3), " -1"),
    )
    return root


def siim_png(root: Path):
    mask = np.zeros((32, 32), np.uint8)
    mask[4:10, 2:5] = 255
    for name in ("0_train_1_", "1_train_0_", "2_test_0_"):
        picture(root / "png_images" / f"{name}.png", 64, 64)
        (root / "png_masks").mkdir(exist_ok=True)
        Image.fromarray(mask if "_1_" in name else mask * 0).save(root / "png_masks" / f"{name}.png")
    header = ("new_filename", "ImageId", "has_pneumo")
    table(root / "stage_1_train_images.csv", header, ("0_train_1_.png", "1.2.3", 1), ("1_train_0_.png", "1.2.4", 0))
    table(root / "stage_1_test_images.csv", header, ("2_test_0_.png", "1.2.5", 0))
    return root


def shenzhen(root: Path):
    readings = {
        "CHNCXR_0001_0": ("male 45yrs\nnormal", "utf-8"),
        "CHNCXR_0002_1": ("Femal, 8 months\nsecondary PTB\u00b0 in the right upper field\n", "latin-1"),
        "CHNCXR_0003_1": None,
    }
    for seed, (name, reading) in enumerate(readings.items()):
        picture(root / f"CXR_png/{name}.png", 70, 60, seed)
        if reading:
            text(root / f"ClinicalReadings/{name}.txt", *reading)
    return root


def tbx11k(root: Path):
    header = ("fname", "image_height", "image_width", "source", "bbox", "target", "tb_type", "image_type")
    box = "{'xmin': 180.5, 'ymin': 65.25, 'width': 50.0, 'height': 45.5}"
    other = "{'xmin': 300.0, 'ymin': 70.0, 'width': 10.0, 'height': 20.0}"
    table(
        root / "data.csv",
        header,
        ("h0001.png", 512, 512, "train", "none", "no_tb", "none", "healthy"),
        ("tb0003.png", 512, 512, "val", box, "tb", "active_tb", "tb"),
        ("tb0003.png", 512, 512, "val", other, "tb", "latent_tb", "tb"),
        ("test1.png", 512, 512, "test", "none", "", "none", ""),
    )
    picture(root / "images/h0001.png", 64, 64, 1)
    picture(root / "images/tb0003.png", 64, 64, 2)
    return root


def tbx11k_official(root: Path):
    """TBX11K as its authors' archive unpacks (folders, lists and COCO files as its repository describes them)."""
    for seed, name in enumerate(("health/h0001", "sick/s0002", "tb/tb0003", "test/test_1", "extra/da+db/d1")):
        picture(root / f"imgs/{name}.png", 64, 64, seed)
    text(root / "lists/TBX11K_train.txt", "health/h0001.png\ntb/tb0003.png\n")
    text(root / "lists/TBX11K_val.txt", "sick/s0002.png\n")
    content = {
        "images": [{"id": 7, "file_name": "tb/tb0003.png", "height": 512, "width": 512}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [180.5, 65.25, 50, 45.5]},
            {"image_id": 7, "category_id": 2, "bbox": [180.5, 65.25, -1, 45.5]},
        ],
        "categories": [{"id": 1, "name": "ActiveTuberculosis"}, {"id": 2, "name": "ObsoletePulmonaryTuberculosis"}],
    }
    text(root / "annotations/json/TBX11K_train.json", json.dumps(content))
    return root


def openi_report(number, images=(), findings="The lungs are XXXX clear.", mesh=("normal",)):
    parents = "".join(f'<parentImage id="{name}"/>' for name in images)
    sections = {"COMPARISON": "", "INDICATION": "Positive TB test", "FINDINGS": findings, "IMPRESSION": "Normal."}
    texts = "".join(f'<AbstractText Label="{label}">{body}</AbstractText>' for label, body in sections.items())
    terms = "".join(f"<major>{term}</major>" for term in mesh)
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{number}"/><Abstract>{texts}</Abstract>'
        f"<MeSH>{terms}</MeSH>{parents}</eCitation>"
    )


def openi(root: Path):
    name = "CXR1_1_IM-0001-3001"
    text(root / "ecgen-radiology/1.xml", openi_report(1, [name, "CXR1_1_IM-0001-4001"]))
    text(root / "ecgen-radiology/2.xml", openi_report(2, mesh=["Cardiomegaly/mild", "Aorta/tortuous"]))
    text(root / "ecgen-radiology/3.xml", openi_report(3, ["CXR3_IM-1"], "", ["Pleural Effusion/left/small"]))
    picture(root / f"images/{name}.png", 80, 90)
    dicom(root / "images/CXR3_IM-1.dcm", width=70, height=60)
    table(
        root / "nlmcxr_dicom_metadata.csv.gz",
        ("imageid", "View Position", "Rows", "Columns"),
        (name, "PA", 2828, 2320),
        ("CXR3_IM-1", "LL", 60, 70),
    )
    return root
