"""CheXpert, NIH, RSNA, SIIM, Shenzhen, TBX11K and Open-I, from miniatures in the published layouts."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from processing.datasets import load
from processing.datasets.records import facts_of, label_names
from processing.datasets.sources.nih import MINI_COLUMNS, NIH_LABELS
from processing.datasets.sources.siim import rle_mask
from processing.datasets.sources.tables import read_table
from tests.processing.datasets import miniatures


def by_id(dataset):
    return {record["image_id"]: record for record in dataset}


def test_chexpert(tmp_path):
    dataset = load("chexpert", miniatures.chexpert(tmp_path))
    records = by_id(dataset)
    frontal = records["patient00001/study1/view1_frontal"]
    assert frontal["labels"] == [1, 2] + [-1] * 12
    assert (frontal["patient_age"], frontal["patient_sex"], frontal["view_position"]) == (68.0, "F", "AP")
    assert (frontal["image_width"], frontal["image_height"], frontal["image"].size) == (90, 70, (90, 70))
    assert frontal["indication"] == "A 68-year-old woman"
    lateral = records["patient00001/study1/view2_lateral"]
    assert (lateral["view_position"], lateral["labels"][-1]) == ("LATERAL", 1)
    assert lateral["study_id"] == frontal["study_id"] == "patient00001/study1"
    unknown = records["patient00002/study2/view1_frontal"]
    assert (unknown["patient_age"], unknown["patient_sex"], unknown["indication"]) == (None, None, "")
    assert facts_of(dataset)["dropped"] == {"duplicate id": 1, "image header unreadable": 1}
    assert list(by_id(load("chexpert", tmp_path, "val"))) == ["patient64541/study1/view1_frontal"]
    assert load("chexpert", tmp_path, "val", demographics=False)[0]["indication"] == ""


def test_chexpert_full_resolution_and_test_labels(tmp_path):
    dataset = load("chexpert", miniatures.chexpert_full(tmp_path))
    records = by_id(dataset)
    assert records["patient00001/study1/view1_frontal"]["image"].size == (90, 70)
    assert {"patient00002/study2/view1_frontal", "patient64541/study1/view1_frontal"} < set(records)
    test = by_id(load("chexpert", tmp_path, "test"))
    assert list(test) == ["patient64741/study1/view1_frontal", "patient64741/study1/view2_lateral"]
    assert [record["view_position"] for record in test.values()] == ["", "LATERAL"]
    assert all(record["labels"] == [0] * 13 + [1] for record in test.values())
    assert facts_of(dataset)["dropped"]["test study without images"] == 1


def test_chexpert_lists_are_paths_not_file_names(tmp_path):
    root = miniatures.chexpert(tmp_path / "chexpert")
    path = "CheXpert-v1.0/train/patient00002/study2/view1_frontal.jpg"
    lists = miniatures.text(
        tmp_path / "lists/train.txt", f"{path}\nCheXpert-v1.0/train/patient9/study1/view1_frontal.jpg"
    )
    dataset = load("chexpert", root, "train", split_lists=lists)
    assert dataset["image_id"][:] == ["patient00002/study2/view1_frontal"]
    assert facts_of(dataset)["dropped"]["in the split list, not in the data"] == 1
    published = miniatures.text(tmp_path / "5x200.csv", f"Path,Atelectasis\n{path},1.0\n")
    assert load("chexpert_5x200", root, sample_list=published)["image_id"][:] == dataset["image_id"][:]
    with pytest.raises(ValueError, match="5x200.csv names no image of this split"):
        load("chexpert", root, "val", sample_list=published)


def test_chexpert_samples_are_positive_for_one_class_alone(tmp_path):
    names = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    rows = []
    for index, name in enumerate(names * 3 + ("both", "unsure", "fracture too", "lateral")):
        labels = dict.fromkeys(miniatures.OBSERVATIONS, "")
        one = {names[0]: "1"}
        mixed = {"both": {names[1]: "1"}, "unsure": {names[1]: "-1"}, "fracture too": {"Fracture": "1"}}
        labels |= {name: "1"} if name in names else one | mixed.get(name, {})
        path = f"CheXpert-v1.0/train/patient{index:05d}/study1/view1_frontal.jpg"
        rows.append((path, "Male", "50", "Lateral" if name == "lateral" else "Frontal", "AP", *labels.values()))
        miniatures.picture(tmp_path / path.removeprefix("CheXpert-v1.0/"), seed=index)
    miniatures.table(tmp_path / "train.csv", ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *labels), *rows)
    dataset = load("chexpert_5x200", tmp_path, sample="5x2")
    columns = [label_names(dataset).index(name) for name in names]
    positive = np.array(dataset["labels"])[:, columns] == 1
    assert positive.sum(axis=0).tolist() == [2] * 5 and positive.sum(axis=1).tolist() == [1] * 10
    facts = facts_of(dataset)
    assert facts["sample"] == "5x2" and facts["name"] == "chexpert_5x2" and len(facts["classes"]) == 5
    again, other = (
        load("chexpert_5x200", tmp_path, sample="5x2"),
        load("chexpert_5x200", tmp_path, sample="5x2", seed=1),
    )
    assert dataset["image_id"] == again["image_id"] != other["image_id"]
    with pytest.raises(ValueError, match="needs 200 images of Atelectasis alone, and there are 3"):
        load("chexpert_5x200", tmp_path)


def test_nih(tmp_path):
    dataset = load("nih", miniatures.nih(tmp_path))
    records = by_id(dataset)
    first = records["00000001_000"]
    assert [name for name, code in zip(NIH_LABELS, first["labels"], strict=True) if code] == [
        "Cardiomegaly",
        "Effusion",
    ]
    assert set(first["labels"]) == {0, 1} and label_names(dataset) == list(NIH_LABELS)
    assert first["indication"] == "Follow-up visit 0 of a 58-year-old man."
    # Boxes are x, y, w, h in the published 1024 x 1024, whatever size the copy has.
    assert (first["image_width"], first["image_height"], first["image"].size) == (1024, 1024, (64, 64))
    assert [(r["label"], r["box"]) for r in first["regions"]] == [("Infiltration", [225.5, 547.0, 312.0, 626.0])]
    assert records["00000001_001"]["indication"] == "Follow-up visit 3 of a 62-year-old woman."
    assert records["00000001_001"]["labels"] == [0] * 14
    assert records["00000002_000"]["patient_age"] is None
    assert records["00000002_000"]["indication"] == "Follow-up visit 1 of a man."
    assert facts_of(dataset)["dropped"] == {"image file missing": 1}
    assert list(by_id(load("nih", tmp_path, "test"))) == ["00000002_000"]
    assert list(by_id(load("nih", tmp_path, "train_val"))) == ["00000001_000", "00000001_001"]


def test_nih_refuses_unknown_labels(tmp_path):
    file = miniatures.nih(tmp_path) / "Data_Entry_2017_v2020.csv"
    file.write_text(file.read_text().replace("Hernia", "Dragon"))
    with pytest.raises(ValueError, match="00000002_000.png has the label 'Dragon'"):
        load("nih", tmp_path)


def test_nih_in_flat_folders(tmp_path):
    miniatures.nih(tmp_path)
    (tmp_path / "images").mkdir()
    for path in tmp_path.glob("images_*/images/*.png"):
        path.rename(tmp_path / "images" / path.name)
    assert len(load("nih", tmp_path)) == 3


def test_nih_folders_inside_of_images(tmp_path):
    miniatures.nih(tmp_path)
    (tmp_path / "images/images_001").mkdir(parents=True)
    for path in tmp_path.glob("images_*/images/*.png"):
        path.rename(tmp_path / "images/images_001" / path.name)
    assert len(load("nih", tmp_path)) == 3


def test_blank_and_negative_boxes_and_unknown_codes_are_counted(tmp_path):
    root = miniatures.rsna(tmp_path / "rsna")
    with open(root / "stage_2_train_labels.csv", "a") as file:
        file.write("bbb-2,1,2,-3,4,1\nbbb-2,,,,,1\nbbb-2,264.0,152.0,213.0,379.0,1\nccc-3,,,,,?\n")
    dataset = load("rsna", root)
    assert len(by_id(dataset)["bbb-2"]["regions"]) == 2
    assert facts_of(dataset)["dropped"] == {
        "box negative or empty": 1,
        "box without four numbers": 1,
        "box given twice": 1,
        "Target is neither 0 nor 1": 1,
    }
    root = miniatures.siim_png(tmp_path / "siim")
    with open(root / "stage_1_train_images.csv", "a") as file:
        file.write("0_train_1_.png,1.2.3,0\n1_train_9_.png,1.2.9,maybe\n")
    dataset = load("siim", root)
    assert by_id(dataset)["1.2.3"]["labels"] == [1] and len(dataset) == 3
    assert facts_of(dataset)["dropped"] == {"duplicate id": 1, "has_pneumo is neither 0 nor 1": 1}


def test_nih_mini_with_an_adapter_of_columns(real_data):
    dataset = load("nih", real_data / "nih_mini", table="val.csv", columns=MINI_COLUMNS)
    assert len(dataset) == 161 and facts_of(dataset)["dropped"] == {}
    first = dataset[0]
    assert (first["image_id"], first["patient_age"], first["patient_sex"]) == ("00001300_000", 58.0, "F")
    assert (first["indication"], first["labels"], first["image"].size) == ("A 58-year-old woman", [0] * 14, (512, 512))
    assert sum(code[NIH_LABELS.index("Pneumonia")] for code in dataset["labels"]) == 66


@pytest.mark.parametrize("lists", ["lists", "lists/train.txt"])
def test_benchx_lists_by_stem_and_file_name(tmp_path, lists):
    root = miniatures.nih(tmp_path / "nih")
    miniatures.text(tmp_path / "lists/train.txt", "00000001_001.png\n00000001_000.png\n00000009_000.png\n")
    miniatures.text(tmp_path / "lists/train_1.txt", "00000001_001\n")
    miniatures.text(tmp_path / "lists/val.csv", "00000002_000.png,1\n")
    dataset = load("nih", root, "train", split_lists=tmp_path / lists)
    assert list(by_id(dataset)) == ["00000001_001", "00000001_000"]
    assert facts_of(dataset)["dropped"] == {"in the split list, not in the data": 1}
    assert list(by_id(load("nih", root, "train_1", split_lists=tmp_path / "lists"))) == ["00000001_001"]
    assert list(by_id(load("nih", root, "val", split_lists=tmp_path / "lists"))) == ["00000002_000"]
    with pytest.raises(ValueError, match=r"split: 'test'.*\['train', 'train_1', 'val'\]"):
        load("nih", root, "test", split_lists=tmp_path / "lists")


def test_patients_in_two_splits_are_refused_by_name(tmp_path):
    root = miniatures.nih(tmp_path / "nih")
    miniatures.text(tmp_path / "lists/train.txt", "00000001_000.png\n00000002_000.png\n")
    miniatures.text(tmp_path / "lists/test_list.txt", "00000001_001.png\n")
    with pytest.raises(ValueError, match="1 patients are in both test and train: 1;"):
        load("nih", root, "train", split_lists=tmp_path / "lists")
    with pytest.raises(ValueError, match="both test and train"):
        load("nih", root, split_lists=tmp_path / "lists/train.txt")


def test_rsna(tmp_path):
    dataset = load("rsna", miniatures.rsna(tmp_path))
    records = by_id(dataset)
    assert [record["labels"] for record in records.values()] == [[0], [1], [0]]
    positive = records["bbb-2"]
    assert positive["image"].mode == "L" and positive["image"].size == (64, 64)
    assert np.array_equal(np.asarray(positive["image"]), miniatures.pixels(64, 64, 2))
    boxes = [region["box"] for region in positive["regions"]]
    assert boxes == [[264, 152, 264 + 213, 152 + 379], [562, 152, 562 + 256, 152 + 453]]
    assert (positive["patient_age"], positive["view_position"]) == (48.0, "PA")
    assert [record["indication"] for record in records.values()] == [
        "A 51-year-old woman",
        "A 48-year-old man",
        "Woman",
    ]
    against_normal = load("rsna", tmp_path, classes=("Lung Opacity", "Normal"))
    assert list(by_id(against_normal)) == ["bbb-2", "ccc-3"]
    assert facts_of(against_normal)["dropped"] == {"class not asked for": 1}
    with pytest.raises(ValueError, match="'Opacity' is none of"):
        load("rsna", tmp_path, classes=("Opacity",))


def test_siim_dicoms_and_relative_column_major_codes(tmp_path):
    dataset = load("siim", miniatures.siim_dicom(tmp_path))
    positive, negative = dataset
    assert (positive["labels"], negative["labels"], negative["regions"]) == ([1], [0], [])
    first, second = positive["regions"]
    mask = np.asarray(first["mask"])
    expected = np.zeros((64, 64), bool)
    expected[1:4, 2] = expected[0, 4] = expected[2, 4] = True
    assert mask.shape == (64, 64) and np.array_equal(mask > 0, expected)
    assert first["box"] == [2, 0, 5, 4] and second["box"] == [0, 0, 1, 2]
    assert positive["indication"] == "A 62-year-old man" and positive["image"].size == (64, 64)
    assert facts_of(dataset)["dropped"] == {"image file missing": 1}


def test_siim_lists_name_the_png_copy(tmp_path):
    root = miniatures.siim_dicom(tmp_path / "siim")
    header = ("new_filename", "ImageId", "has_pneumo")
    uid = "1.2.276.0.7230010.3.1.4.8323329.2.1517875201.850819"
    miniatures.table(root / "stage_1_train_images.csv", header, ("7_train_0_.png", uid, 0))
    miniatures.text(tmp_path / "lists/val.txt", "7_train_0_\n")
    assert load("siim", root, "val", split_lists=tmp_path / "lists")["image_id"][:] == [uid]


def test_siim_png_copy(tmp_path):
    dataset = load("siim", miniatures.siim_png(tmp_path))
    records = by_id(dataset)
    assert [record["labels"] for record in records.values()] == [[1], [0], [0]]
    (region,) = records["1.2.3"]["regions"]
    assert region["box"] == [4, 8, 10, 20]  # the mask is half as large as the picture
    assert np.asarray(region["mask"]).sum() == 6 * 3
    assert list(by_id(load("siim", tmp_path, "test"))) == ["1.2.5"]


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_length_codes_give_the_mask_back(mask):
    flat = np.concatenate([[0], mask.T.ravel(), [0]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(flat) == 1), np.flatnonzero(np.diff(flat) == -1)
    offsets = starts - np.concatenate([[0], ends[:-1]]) if len(starts) else starts
    code = " ".join(f"{offset} {length}" for offset, length in zip(offsets, ends - starts, strict=True))
    assert np.array_equal(rle_mask(code, mask.shape[1], mask.shape[0]), mask)


@pytest.mark.parametrize("code", ["1 2 3", "a b", "0 17", "-1 2"])
def test_broken_run_length_codes(code):
    with pytest.raises(ValueError):
        rle_mask(code, 4, 4)


def test_shenzhen(tmp_path):
    dataset = load("shenzhen", miniatures.shenzhen(tmp_path))
    normal, infant, silent = dataset
    assert [record["labels"] for record in (normal, infant, silent)] == [[0], [1], [1]]
    assert (normal["indication"], normal["impression"]) == ("A 45-year-old man", "normal")
    assert infant["patient_age"] == pytest.approx(8 / 12) and infant["indication"] == "A 8-month-old girl"
    assert infant["impression"] == "secondary PTB° in the right upper field" and infant["findings"] == ""
    assert (silent["indication"], silent["view_position"], silent["image"].size) == ("", "PA", (70, 60))
    assert facts_of(dataset)["noted"] == {"text file not in UTF-8, read as Latin-1": 1, "clinical reading missing": 1}
    miniatures.text(tmp_path / "lists/ShenzhenCXR_train_data.txt", "CHNCXR_0001_0.png,0\n")
    miniatures.text(tmp_path / "lists/ShenzhenCXR_test_data.txt", "CHNCXR_0002_1.png,1\n")
    assert list(by_id(load("shenzhen", tmp_path, "test", split_lists=tmp_path / "lists"))) == ["CHNCXR_0002_1"]


def test_tbx11k(tmp_path):
    dataset = load("tbx11k", miniatures.tbx11k(tmp_path))
    healthy, sick = dataset
    assert (healthy["labels"], sick["labels"], healthy["regions"]) == ([0], [1], [])
    assert [(region["label"], region["box"]) for region in sick["regions"]] == [
        ("active_tb", [180.5, 65.25, 230.5, 110.75]),
        ("latent_tb", [300, 70, 310, 90]),
    ]
    assert (sick["image_width"], sick["indication"]) == (512, "")
    assert facts_of(dataset)["dropped"] == {"no label": 1}
    miniatures.text(tmp_path / "lists/train.txt", "tb0003\n")
    assert list(by_id(load("tbx11k", tmp_path, "train", split_lists=tmp_path / "lists"))) == ["tb0003"]


def test_tbx11k_official(tmp_path):
    dataset = load("tbx11k", miniatures.tbx11k_official(tmp_path))
    records = by_id(dataset)
    assert {name: record["labels"] for name, record in records.items()} == {"h0001": [0], "s0002": [0], "tb0003": [1]}
    (region,) = records["tb0003"]["regions"]
    assert (region["label"], region["box"]) == ("ActiveTuberculosis", [180.5, 65.25, 230.5, 110.75])
    dropped = {"box negative or empty": 1, "no label": 1, "picture of another set": 1}
    assert facts_of(dataset)["dropped"] == dropped
    assert list(by_id(load("tbx11k", tmp_path, "val"))) == ["s0002"]


def test_openi_folder(tmp_path):
    dataset = load("openi", miniatures.openi(tmp_path))
    png, dicom = dataset
    assert (png["image_id"], png["study_id"], png["view_position"]) == ("CXR1_1_IM-0001-3001", "CXR1", "PA")
    assert (png["indication"], png["findings"]) == ("Positive TB test", "The lungs are XXXX clear.")
    assert png["labels"] == [-1] * 13 + [1] and png["image"].size == (80, 90)
    assert (dicom["view_position"], dicom["findings"], dicom["impression"]) == ("LL", "", "Normal.")
    assert label_names(dataset)[dicom["labels"].index(1)] == "Pleural Effusion" and dicom["image"].size == (70, 60)
    facts = facts_of(dataset)
    assert facts["dropped"] == {"report without an image": 1, "image file missing": 1}
    miniatures.text(tmp_path / "ecgen-radiology/4.xml", "<eCitation><uId")
    with pytest.raises(ValueError, match=r"4\.xml: it is no Open-I report"):
        load("openi", tmp_path)


def test_openi_without_a_root_reads_all_reports_of_torchxrayvision():
    pytest.importorskip("torchxrayvision", reason="its package carries the reports")
    dataset = load("openi").select_columns(
        ["study_id", "image_id", "findings", "impression", "indication", "view_position"]
    )
    studies = {row["study_id"]: row for row in dataset}
    # Seven of the 3,955 are refused: their indication says a sentence of the findings.
    assert len(studies) == 3948 and set(facts_of(dataset)["dropped"].values()) == {14}
    present = {
        name: sum(bool(row[name]) for row in studies.values()) for name in ("indication", "findings", "impression")
    }
    assert present == {"indication": 3858, "findings": 3418, "impression": 3914}
    views = [row["view_position"] for row in dataset if row["image_id"]]
    assert (len(views), views.count("PA"), views.count("LL")) == (7456, 3584, 713)


def test_published_tables_of_nih_and_siim_parse():
    package = pytest.importorskip("torchxrayvision", reason="its package carries the tables")
    from pathlib import Path

    from processing.datasets.sources.nih import _boxes, _labels

    data = Path(package.__file__).parent / "data"
    rows = read_table(data / "Data_Entry_2017_v2020.csv.gz").to_dict("records")
    assert (len(rows), len({row["Patient ID"] for row in rows})) == (112_120, 30_805)
    assert sum(not any(_labels(row, data)) for row in rows) == 60_361
    assert sum(map(len, _boxes(data, Counter()).values())) == 984
    codes = read_table(data / "siim-pneumothorax-train-rle.csv.gz", ("ImageId", "EncodedPixels"))["EncodedPixels"]
    codes = [code for code in codes if code.strip() != "-1"]
    assert len(codes) == 3_576
    for code in codes[::400]:
        assert rle_mask(code, 1024, 1024).sum() == sum(map(int, code.split()[1::2]))
