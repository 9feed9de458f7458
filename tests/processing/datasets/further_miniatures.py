"""Miniatures of report sets, grounded sets, label sources and gaze without speech, in their published layouts.

Each was read off what its loader's docstring names. Every picture is generated.
"""

import json
from pathlib import Path

from tests.processing.datasets.miniatures import OBSERVATIONS, dicom, mimic_folder, picture, table, text

# The header of the published table.
PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
    "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
    "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,ExposureTime,"
    "RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,"
    "labelCUIS,LocalizationsCUIS"
).split(",")


def padchest(root: Path):
    """Patient p1 with a later and an earlier study, an image to exclude, one without labels, one not downloaded."""

    def row(image, day, study, patient, born, sex, view, method, labels):
        known = {"ImageID": image, "ImageDir": "7", "StudyDate_DICOM": day, "StudyID": study, "PatientID": patient}
        known |= {"PatientBirth": born, "PatientSex_DICOM": sex, "Projection": view, "MethodLabel": method}
        known |= {"Report": " sin hallazg  patolog . ", "Labels": labels}
        return [known.get(name, "0") for name in PADCHEST]

    table(
        root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
        PADCHEST,
        row("a.png", "20150914", "s2", "p1", "1950.0", "F", "PA", "Physician", "['normal', ' normal']"),
        row("b.png", "20140915", "s1", "p1", "1950.0", "F", "L", "RNN_model", "['pleural effusion', '']"),
        row("c.png", "20140915", "s3", "p2", "nan", "O", "AP_horizontal", "Physician", "nan"),
        row("d.png", "20140915", "s4", "p3", "1940.0", "M", "EXCLUDE", "Physician", "['exclude']"),
        row("e.png", "20140915", "s5", "p4", "1940.0", "M", "PA", "Physician", "['cardiomegaly']"),
    )
    picture(root / "7/a.png", 60, 70)
    picture(root / "images/7/b.png", 60, 70, 1)
    picture(root / "images/c.png", 60, 70, 2)
    return root


def padchest_gr(root: Path):
    def finding(text, labels=None, boxes=None):
        grounded = {"labels": labels, "boxes": boxes, "extra_boxes": [], "locations": [], "progression": None}
        return {"sentence_en": text, "sentence_es": f"es {text}", "abnormal": bool(labels)} | (
            grounded if labels else {}
        )

    content = [
        {
            "StudyID": "s1",
            "ImageID": "a.png",
            "findings": [
                finding("No effusion."),
                finding("Large heart. It is old", ["cardiomegaly"], [[0.25, 0.5, 0.75, 1.0]]),
                finding("Two nodules.", ["nodule"], [[0, 0, 0.1, 0.1], [0.5, 0, 0.6, 0.1]]),
            ],
        },
        {"StudyID": "s2", "ImageID": "b.png", "findings": [finding("Normal.")]},
        {"StudyID": "s3", "ImageID": "c.png", "findings": [finding("Lost.")]},
    ]
    text(root / "grounded_reports_20240819.json", json.dumps(content))
    table(
        root / "master_table.csv",
        ("StudyID", "ImageID", "PatientID", "PatientSex_DICOM", "StudyDate_DICOM", "label", "label_group", "split"),
        ("s1", "a.png", "p1", "F", "20140915", "cardiomegaly", "Cardiomegaly", "train"),
        ("s1", "a.png", "p1", "F", "20140915", "nodule", "Nodule", "train"),
        ("s2", "b.png", "p2", "M", "20140916", "normal", "", "validation"),
    )
    picture(root / "Padchest_GR_files/PadChest_GR/a.png", 80, 100)
    picture(root / "b.png", 80, 100, 1)
    return root


VINDR = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
    "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,"
    "Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,"
    "Tuberculosis"
).split(",")


def vindr_cxr(root: Path):
    """v1: two of three readers see an aortic enlargement, one a tumor; v2, of the test set, has no finding."""

    def votes(*seen):
        return [int(name in seen) for name in (*VINDR, "Other diseases", "No finding")]

    first = ("v1", "R1"), ("v1", "R2"), ("v1", "R3")
    seen = ("Aortic enlargement",), ("Aortic enlargement", "Lung tumor"), ("No finding",)
    table(
        root / "annotations/image_labels_train.csv",
        ("image_id", "rad_id", *VINDR, "Other diseases", "No finding"),
        *([*names, *votes(*found)] for names, found in zip(first, seen, strict=True)),
    )
    table(
        root / "annotations/image_labels_test.csv",
        ("image_id", *VINDR, "Other disease", "No finding"),
        ("v2", *votes("No finding")),
    )
    corners = ("x_min", "y_min", "x_max", "y_max")
    table(
        root / "annotations/annotations_train.csv",
        ("image_id", "rad_id", "class_name", *corners),
        ("v1", "R1", "Aortic enlargement", 10, 12.5, 30, 40),
        ("v1", "R2", "Aortic enlargement", 11, 12, 31, 41),
        ("v1", "R3", "No finding", "", "", "", ""),
    )
    table(
        root / "annotations/annotations_test.csv",
        ("image_id", "class_name", *corners),
        ("v2", "No finding", *[""] * 4),
    )
    dicom(root / "train/v1.dicom", "050Y", "F", "PA", 90, 80)
    dicom(root / "test/v2.dicom", "", "", "", 64, 64, 1)
    return root


CHEXPERT_PLUS = (
    ",path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,"
    "section_narrative,section_clinical_history,section_history,section_comparison,section_technique,"
    "section_procedure_comments,section_findings,section_impression,section_end_of_impression,section_summary,"
    "section_accession_number,age,sex,race,ethnicity,interpreter_needed,insurance_type,recent_bmi,deceased,split"
).split(",")


def chexpert_plus(root: Path):
    def row(path, view, order, findings="Clear  lungs.", **known):
        known |= {"path_to_image": path, "frontal_lateral": view, "patient_report_date_order": order}
        known |= {"section_clinical_history": "Cough", "section_findings": findings, "age": "82.0", "sex": "Male"}
        return [known.get(name, "") for name in CHEXPERT_PLUS]

    table(
        root / "df_chexpert_plus_240401.csv",
        CHEXPERT_PLUS,
        row("train/patient00001/study10/view1_frontal.jpg", "Frontal", "2", ap_pa="AP", section_impression="Clear."),
        row("train/patient00001/study2/view1_frontal.jpg", "Frontal", "1", ap_pa="PA"),
        row("train/patient00001/study2/view2_lateral.jpg", "Lateral", "1"),
        row("valid/patient00002/study1/view1_frontal.jpg", "Frontal", "1", "", ap_pa="AP", section_impression="Edema."),
        row("train/patient00003/study1/view1_frontal.jpg", "Frontal", "1", "", ap_pa="AP"),
    )
    for seed, path in enumerate(
        (
            "train/patient00001/study10/view1_frontal",
            "train/patient00001/study2/view1_frontal",
            "train/patient00001/study2/view2_lateral",
            "valid/patient00002/study1/view1_frontal",
            "train/patient00003/study1/view1_frontal",
        )
    ):
        picture(root / f"PNG/{path}.png", 60, 50, seed)
    labels = dict.fromkeys(OBSERVATIONS) | {"Cardiomegaly": 1.0, "Edema": -1.0, "Fracture": 0.0}
    line = {"path_to_image": "train/patient00001/study10/view1_frontal.jpg"} | labels
    text(root / "chexbert_labels/report_fixed.json", json.dumps(line) + "\n")
    return root


def rexgradient(root: Path):
    def study(patient, uid, day, images, **texts):
        paths = [f"../deid_png/{patient}/acc{uid}/studies/{uid}/series/1/instances/{name}.png" for name in images]
        known = {"PatientID": patient, "AccessionNumber": f"acc{uid}", "StudyInstanceUid": uid, "StudyDate": day}
        known |= {"StudyDescription": "CHEST", "PatientSex": "F", "PatientAge": "045Y", "Comparison": "None"}
        known |= {"Indication": "Cough", "Findings": "Clear lungs.", "Impression": "Normal."}
        return known | {"ImagePath": paths, "ImageViewPosition": [images[name] for name in images]} | texts

    train = {
        "GRDN1_accB": study("GRDN1", "B", "20200301", {"i2": "POSTERO_ANTERIOR", "i3": "LATERAL"}),
        "GRDN1_accA": study("GRDN1", "A", "20190301", {"i1": None}, Findings="None", Indication=None),
    }
    test = {"GRDN2_accC": study("GRDN2", "C", "20200101", {"i4": "LL", "i5": "AP"})}
    text(root / "metadata/train_metadata_view_position.json", json.dumps(train))
    text(root / "metadata/test_metadata_view_position.json", json.dumps(test))
    for seed, path in enumerate(("GRDN1/accB/studies/B", "GRDN1/accA/studies/A", "GRDN2/accC/studies/C")):
        for name in {"B": ("i2", "i3"), "A": ("i1",), "C": ("i4",)}[path[-1]]:
            picture(root / f"deid_png/{path}/series/1/instances/{name}.png", 60, 50, seed)
    return root


def openi_kaggle(root: Path):
    table(
        root / "indiana_reports.csv",
        ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"),
        ("1", "normal", "normal", "Xray Chest PA and Lateral", "Cough", "None.", "Clear  lungs.", "Normal."),
        ("2", "Cardiomegaly/borderline;Pulmonary Artery/enlarged", "", "", "", "", "", "Large heart."),
    )
    table(
        root / "indiana_projections.csv",
        ("uid", "filename", "projection"),
        ("1", "1_IM-0001-4001.dcm.png", "Frontal"),
        ("1", "1_IM-0001-3001.dcm.png", "Lateral"),
        ("2", "2_IM-0652-1001.dcm.png", "Frontal"),
        ("9", "9_IM-1.dcm.png", "Frontal"),
    )
    picture(root / "images/images_normalized/1_IM-0001-4001.dcm.png", 60, 70)
    picture(root / "images/images_normalized/1_IM-0001-3001.dcm.png", 60, 70, 1)
    picture(root / "images/images_normalized/2_IM-0652-1001.dcm.png", 60, 70, 2)
    return root


def openi_r2gen(root: Path):
    def item(name, split):
        paths = [f"{name}/0.png", f"{name}/1.png"]
        for seed, path in enumerate(paths):
            picture(root / "images" / path, 60, 70, seed)
        return {"id": name, "report": f" Report of {name}. ", "image_path": paths, "split": split}

    content = {
        "train": [item("CXR2384_IM-0942", "train")],
        "val": [],
        "test": [item("CXR1_IM-0001-4001", "test")],
    }
    text(root / "annotation.json", json.dumps(content))
    return root


def ms_cxr(root: Path):
    """Two phrases on d1, one of them with two boxes."""
    path = f"{mimic_folder('d1')}/d1.jpg"
    phrase = "Small right pleural effusion"
    rows = (
        ("d1", "Pleural Effusion", phrase, path, 10, 20, 30, 40, 200, 240, "train"),
        ("d1", "Pleural Effusion", phrase, path, 100, 20, 30, 40, 200, 240, "train"),
        ("d1", "Pneumonia", "Opacity. It may be pneumonia", path, 0, 0, 5, 5, 200, 240, "train"),
    )
    header = ("dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height")
    table(root / "MS_CXR_Local_Alignment_v1.1.0.csv", (*header, "split"), *rows)
    names = sorted({row[1] for row in rows})
    content = {
        "images": [{"id": 1, "file_name": "d1.jpg", "path": path, "width": 200, "height": 240, "num_annotations": 3}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": names.index(row[1]), "label_text": row[2], "bbox": row[4:8]}
            for n, row in enumerate(rows)
        ],
    }
    text(root / "coco/MS_CXR_Local_Alignment_v1.1.0.json", json.dumps(content))
    return root


def ms_cxr_t(root: Path):
    findings = ("consolidation", "edema", "pleural_effusion", "pneumonia", "pneumothorax")
    place = mimic_folder("d1").removeprefix("files/")
    table(
        root / "MS_CXR_T_temporal_image_classification_v1.0.0.csv",
        (
            *("subject_id", "study_id", "dicom_id", "previous_study_id", "previous_dicom_id"),
            *(f"{name}_{kind}" for name in findings for kind in ("progression", "label_quality")),
        ),
        (
            "10000032",
            "50414267",
            f"{place}/d1",
            "1",
            "p10/p10000032/s1/d0",
            "",
            "",
            "worsening",
            "one_expert",
            *[""] * 6,
        ),
    )
    return root


def gazesearch(root: Path):
    def scanpath(name, task, xs, ys, ts):
        known = {"name": f"{name}.jpg", "subject": 1, "task": task, "condition": "present", "bbox": [0, 0, 0, 0]}
        return known | {"X": xs, "Y": ys, "T": ts, "length": len(xs), "split": "valid"}

    name = "finding_visual_search_coco_format_train_test_filtered_max_6_split_train_valid_test_2024-07-22.json"
    content = [
        scanpath("d1", "lung opacity", [0, 223], [111, 112], [0.5, 0.25]),
        scanpath("d1", "edema", [10], [10], [1.0]),
        scanpath("d9", "edema", [10], [10], [1.0]),
    ]
    text(root / name, json.dumps(content))
    return root


def siim_gaze(file: Path, image: str):
    return text(file, json.dumps({image: [[0.5, 0.25, 30], [0.25, 0.75, 60], [1.5, 0.5, 6]], "elsewhere": [[0, 0, 1]]}))


def chexmask(file: Path, column: str, *rows):
    """Rows of (image, dice); the heart is the 2 x 3 pixels at column 4, row 1 of a picture of 10 x 8."""
    header = (column, "Dice RCA (Max)", "Dice RCA (Mean)", "Landmarks", "Left Lung", "Right Lung", "Heart")
    codes = ("1 2 11 2", "80 1", "15 2 25 2 35 2")
    landmarks = "[[1 2]\n [3 4]]"
    return table(
        file, (*header, "Height", "Width"), *((name, 0.9, dice, landmarks, *codes, 8, 10) for name, dice in rows)
    )


def radiologists(root: Path):
    names = ("Airspace Opacity", *(name for name in OBSERVATIONS if name != "Lung Opacity"))
    values = [1.0 if name in ("Airspace Opacity", "Edema") else 0.0 for name in names]
    return table(root / "mimic-cxr-2.1.0-test-set-labeled.csv", ("study_id", *names), ("50771383", *values))


def cxr_lt(root: Path):
    header = ("dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "fpath")
    for name, image, values in (
        ("train_labeled", "d1", (1, 0, 0)),
        ("development_labeled_task1", "d3", (0, 1, 0)),
        ("test_labeled_task1", "d4", (0, 0, 1)),
    ):
        row = (image, "1", "1", "PA", "", f"files/{image}.jpg", *values)
        table(root / f"cxr-lt-2024/{name}.csv", (*header, "Adenopathy", "Normal", "Fissure"), row)
    return root
