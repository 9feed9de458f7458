"""Montgomery County and VinBigData, from miniatures in their layouts (what these were read off: see the loaders)."""

import numpy as np
import pytest
from PIL import Image

from processing.datasets import load
from processing.datasets.overlaps import overlap
from processing.datasets.records import facts_of, label_names
from tests.processing.datasets import miniatures


def montgomery(root):
    """0001 is a normal woman with both masks; 0104's reading and left mask are missing; a notice lies among them."""
    for seed, name in enumerate(("MCUCXR_0001_0", "MCUCXR_0104_1", "thumbs")):
        miniatures.picture(root / f"CXR_png/{name}.png", 60, 50, seed)
    miniatures.text(
        root / "ClinicalReadings/MCUCXR_0001_0.txt", "Patient's Sex: F\r\nPatient's Age: 027Y\r\nnormal\r\n"
    )
    for side, column, name in (("left", 5, "0001_0"), ("right", 35, "0001_0"), ("right", 35, "0104_1")):
        mask = np.zeros((50, 60), np.uint8)
        mask[10:40, column : column + 20] = 255
        folder = root / f"ManualMask/{side}Mask"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).convert("1").save(folder / f"MCUCXR_{name}.png")
    return root


def vinbigdata(root, suffix=".dicom", meta=True):
    header = ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max")
    miniatures.table(
        root / "train.csv",
        header,
        ("v1", "Cardiomegaly", 3, "R10", 10.0, 12.0, 30.0, 40.0),
        ("v1", "Cardiomegaly", 3, "R8", 11.0, 12.0, 31.0, 41.0),
        ("v1", "Nodule/Mass", 8, "R8", 1.0, 2.0, 5.0, 6.0),
        ("v1", "No finding", 14, "R9", "", "", "", ""),
        *(("v2", "No finding", 14, reader, "", "", "", "") for reader in ("R1", "R2", "R3")),
    )
    for seed, name in enumerate(("v1", "v2")):
        if suffix == ".dicom":
            miniatures.dicom(root / f"train/{name}.dicom", "050Y", "F", "", 90, 80, seed)
        else:
            miniatures.picture(root / f"train/{name}{suffix}", 45, 40, seed)
    if meta:
        miniatures.table(root / "train_meta.csv", ("image_id", "dim0", "dim1"), ("v1", 80, 90), ("v2", 80, 90))
    return root


def test_montgomery(tmp_path):
    dataset = load("montgomery", montgomery(tmp_path / "set"))
    first, second = dataset
    assert (first["labels"], second["labels"], label_names(dataset)) == ([0], [1], ["tuberculosis"])
    assert (first["patient_age"], first["patient_sex"], first["impression"]) == (27.0, "F", "normal")
    assert first["indication"] == "A 27-year-old woman" and second["indication"] == second["impression"] == ""
    # The folder names the image's side, the region the patient's.
    assert [(r["label"], r["box"]) for r in first["regions"]] == [
        ("right lung", [5, 10, 25, 40]),
        ("left lung", [35, 10, 55, 40]),
    ]
    assert (np.asarray(first["regions"][0]["mask"]) > 0).sum() == 600
    assert [region["label"] for region in second["regions"]] == ["left lung"]
    facts = facts_of(dataset)
    assert facts["dropped"] == {"file name without a label": 1}
    assert facts["noted"] == {"clinical reading missing": 1, "mask file missing": 1}
    assert load("montgomery", tmp_path / "set", demographics=False)["indication"][:] == ["", ""]
    tbx11k = load("tbx11k", miniatures.tbx11k(tmp_path / "tbx11k"))
    assert "Montgomery" in str(overlap(dataset, tbx11k))
    with pytest.raises(ValueError, match="set has it: give that"):
        load("montgomery", tmp_path)


@pytest.mark.parametrize("suffix", [".dicom", ".png"])
def test_vinbigdata_readers_vote(tmp_path, suffix):
    dataset = load("vinbigdata", vinbigdata(tmp_path, suffix))
    first, second = dataset
    told = {name: code for name, code in zip(label_names(dataset), first["labels"], strict=True) if code}
    assert told == {"Cardiomegaly": 1, "Nodule/Mass": 2, "No finding": 2} and second["labels"] == [0] * 14 + [1]
    assert [r["box"] for r in first["regions"]] == [[10, 12, 30, 40], [11, 12, 31, 41], [1, 2, 5, 6]]
    # Boxes are in pixels of the DICOM, in a copy of half its size too.
    assert (first["image_width"], first["image_height"]) == (90, 80)
    assert first["indication"] == ("A 50-year-old woman" if suffix == ".dicom" else "")


def test_vinbigdata_refuses_boxes_without_their_size_and_unknown_classes(tmp_path):
    root = vinbigdata(tmp_path, ".png", meta=False)
    with pytest.raises(ValueError, match=r"'v1' .*v1\.png.*train_meta\.csv .image_id, dim0, dim1."):
        load("vinbigdata", root)
    file = root / "train.csv"
    file.write_text(file.read_text().replace("Nodule/Mass", "Nodule"))
    with pytest.raises(ValueError, match=r"train\.csv: row 4 has the class_name 'Nodule', none of"):
        load("vinbigdata", root)
