"""Report sets, grounded sets, label sources, masks and gaze without speech."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from processing.datasets import load
from processing.datasets.records import facts_of, label_names
from processing.datasets.sources.chexmask import rle_mask
from processing.datasets.sources.order import iso_date, oldest_first
from processing.datasets.sources.padchest import parse_labels
from processing.datasets.sources.phrases import grounded_text
from processing.gaze import gaze_targets, validate_reading
from processing.reports import split_sentences
from tests.processing.datasets import further_miniatures as further
from tests.processing.datasets import miniatures


def by_id(dataset):
    return {record["image_id"]: record for record in dataset}


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    return miniatures.mimic_cxr(tmp_path_factory.mktemp("mimic"))


def test_padchest(tmp_path):
    dataset = load("padchest", further.padchest(tmp_path))
    # The patient's earlier study first, though the table has it second.
    assert dataset["image_id"][:] == ["b", "a", "c"]
    assert label_names(dataset) == ["cardiomegaly", "exclude", "normal", "pleural effusion"]
    earlier, later, unknown = dataset
    assert (earlier["labels"], later["labels"], unknown["labels"]) == ([-1, -1, -1, 1], [-1, -1, 1, -1], [-1] * 4)
    assert (earlier["patient_age"], earlier["study_date"], later["study_date"]) == (64.0, "2014-09-15", "2015-09-14")
    assert [record["view_position"] for record in dataset] == ["LATERAL", "PA", "AP"]
    assert (later["findings"], later["indication"]) == ("sin hallazg patolog .", "A 65-year-old woman")
    assert (unknown["patient_age"], unknown["patient_sex"], unknown["indication"]) == (None, None, "")
    facts = facts_of(dataset)
    assert facts["dropped"] == {"marked for exclusion": 1, "image file missing": 1}
    assert facts["noted"] == {"no labels": 1}
    assert load("padchest", tmp_path, label_method="Physician")["image_id"][:] == ["a", "c"]
    with pytest.raises(ValueError, match=r"a\.png is no list but 'oops'"):
        parse_labels("oops", "table.csv", "a.png")


def test_the_published_table_of_padchest_parses():
    package = pytest.importorskip("torchxrayvision", reason="its package carries the table")
    from pathlib import Path

    from processing.datasets.sources.padchest import NEEDED, SOURCE
    from processing.datasets.sources.tables import read_table

    file = Path(package.__file__).parent / "data/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    table = read_table(file, NEEDED)
    assert len(table) in SOURCE.published["images"]
    assert table["StudyID"].nunique() == SOURCE.published["studies"]
    assert table["PatientID"].nunique() == SOURCE.published["patients"]
    labels = {label for text in table["Labels"].unique() for label in parse_labels(text, file, "")}
    assert len(labels) == 193 and {"normal", "pleural effusion", "cardiomegaly"} <= labels
    assert all(map(iso_date, table["StudyDate_DICOM"].unique()))


def test_padchest_gr_grounds_sentences(tmp_path):
    dataset = load("padchest_gr", further.padchest_gr(tmp_path))
    first, second = dataset
    sentences = split_sentences(first["findings"])
    assert sentences == ["No effusion.", "Large heart.", "It is old.", "Two nodules."]
    grounded = [(region["label"], sentences[region["sentence"]], region["box"]) for region in first["regions"]]
    assert grounded[0] == ("cardiomegaly", "Large heart.", [20, 50, 60, 100])
    assert [(label, sentence) for label, sentence, _ in grounded[1:]] == [("nodule", "Two nodules.")] * 2
    assert label_names(dataset) == ["cardiomegaly", "nodule"] and first["labels"] == [1, 1]
    assert (first["patient_sex"], first["study_date"]) == ("F", "2014-09-15") and second["regions"] == []
    assert facts_of(dataset)["dropped"] == {"not in the master table": 1}
    assert load("padchest_gr", tmp_path, "val")["image_id"][:] == ["b"]
    assert load("padchest_gr", tmp_path, "train", language="es")[0]["findings"].startswith("es No effusion.")
    file = tmp_path / "grounded_reports_20240819.json"
    file.write_text(file.read_text().replace("0.75", "75"))
    with pytest.raises(ValueError, match="'a'.*is not .x0, y0, x1, y1. in shares"):
        load("padchest_gr", tmp_path)


def test_vindr_readers_vote(tmp_path):
    dataset = load("vindr_cxr", further.vindr_cxr(tmp_path))
    train, test = dataset
    codes = dict(zip(label_names(dataset), train["labels"], strict=True))
    assert len(codes) == 28
    assert {name: code for name, code in codes.items() if code} == {
        "Aortic enlargement": 1,
        "Lung tumor": 2,
        "No finding": 2,
    }
    assert [region["box"] for region in train["regions"]] == [[10, 12.5, 30, 40], [11, 12, 31, 41]]
    assert (train["image_width"], train["image_height"], train["indication"]) == (90, 80, "A 50-year-old woman")
    assert test["labels"] == [0] * 27 + [1] and test["regions"] == []
    assert train["image"].size == (90, 80)
    assert load("vindr_cxr", tmp_path, "test")["image_id"][:] == ["v2"]
    (tmp_path / "annotations/annotations_test.csv").unlink()
    with pytest.raises(ValueError, match=r"needs annotations/annotations_test\.csv"):
        load("vindr_cxr", tmp_path)


def test_chexpert_plus(tmp_path):
    dataset = load("chexpert_plus", further.chexpert_plus(tmp_path))
    assert dataset["image_id"][:] == [
        "patient00001/study2/view1_frontal",
        "patient00001/study2/view2_lateral",
        "patient00001/study10/view1_frontal",
        "patient00002/study1/view1_frontal",
    ]
    early, lateral, late, other = dataset
    assert (late["findings"], late["impression"], late["indication"]) == ("Clear lungs.", "Clear.", "Cough")
    assert (late["patient_age"], late["patient_sex"], late["view_position"]) == (82.0, "M", "AP")
    assert [late["labels"][miniatures.OBSERVATIONS.index(n)] for n in ("Cardiomegaly", "Edema", "Fracture")] == [
        1,
        2,
        0,
    ]
    assert late["labels"].count(-1) == 11 and early["labels"] == [-1] * 14
    assert lateral["view_position"] == "LATERAL" and other["findings"] == ""
    assert facts_of(dataset)["dropped"] == {"neither findings nor impression": 1}
    assert load("chexpert_plus", tmp_path, "val")["image_id"][:] == ["patient00002/study1/view1_frontal"]
    assert len(load("chexpert_plus", tmp_path, missing_findings="drop")) == 3
    noted = facts_of(load("chexpert_plus", tmp_path, labels="impression"))["noted"]
    assert noted["no impression_fixed.json, labels not mentioned"] == 1
    miniatures.text(tmp_path / "chexbert_labels/report_fixed.json", "{}\n")
    with pytest.raises(ValueError, match=r"report_fixed\.json, line 1"):
        load("chexpert_plus", tmp_path)


def test_rexgradient(tmp_path):
    dataset = load("rexgradient", further.rexgradient(tmp_path))
    assert dataset["image_id"][:] == ["i1", "i2", "i3", "i4"]
    first, second, *_ = dataset
    assert (first["findings"], first["indication"], first["impression"]) == ("", "", "Normal.")
    assert (second["study_id"], second["patient_id"], second["study_date"]) == ("B", "GRDN1", "2020-03-01")
    assert (second["patient_age"], second["patient_sex"]) == (45.0, "F")
    assert [record["view_position"] for record in dataset] == ["", "PA", "LATERAL", "LL"]
    assert label_names(dataset) == [] and facts_of(dataset)["dropped"] == {"image file missing": 1}
    assert load("rexgradient", tmp_path, "test")["image_id"][:] == ["i4"]
    file = tmp_path / "metadata/test_metadata_view_position.json"
    file.write_text(file.read_text().replace("ImagePath", "Pictures"))
    with pytest.raises(ValueError, match=r"test_metadata.*study GRDN2_accC lacks 'ImagePath'"):
        load("rexgradient", tmp_path)


def test_open_i_of_kaggle_and_of_r2gen(tmp_path):
    dataset = load("openi_kaggle", further.openi_kaggle(tmp_path / "kaggle"))
    assert [(r["patient_id"], r["view_position"]) for r in dataset] == [
        ("CXR1", "PA"),
        ("CXR1", "LATERAL"),
        ("CXR2", "PA"),
    ]
    normal, _, large = dataset
    assert (normal["indication"], normal["findings"]) == ("Cough", "Clear lungs.") and normal["labels"][-1] == 1
    assert large["labels"][miniatures.OBSERVATIONS.index("Cardiomegaly")] == 1 and large["impression"] == "Large heart."
    assert facts_of(dataset)["dropped"] == {"image without a report": 1}
    r2gen = load("openi_r2gen", further.openi_r2gen(tmp_path / "r2gen"), "test")
    assert [(r["patient_id"], r["view_position"], r["findings"]) for r in r2gen] == [
        ("CXR1", "PA", "Report of CXR1_IM-0001-4001."),
        ("CXR1", "LATERAL", "Report of CXR1_IM-0001-4001."),
    ]
    miniatures.text(tmp_path / "r2gen/annotation.json", "[]")
    with pytest.raises(ValueError, match=r"annotation\.json: it is not R2Gen's annotation"):
        load("openi_r2gen", tmp_path / "r2gen")


@pytest.mark.parametrize("folder", ["", "coco"])
def test_ms_cxr_from_its_table_and_from_coco(mimic, tmp_path, folder):
    dataset = load("ms_cxr", further.ms_cxr(tmp_path) / folder, mimic_root=mimic)
    (record,) = dataset
    sentences = split_sentences(record["findings"])
    assert sentences == ["Small right pleural effusion.", "Opacity.", "It may be pneumonia."]
    assert [(region["label"], region["sentence"], region["box"]) for region in record["regions"]] == [
        ("Pleural Effusion", 0, [10, 20, 40, 60]),
        ("Pleural Effusion", 0, [100, 20, 130, 60]),
        ("Pneumonia", 1, [0, 0, 5, 5]),
    ]
    assert [name for name, code in zip(label_names(dataset), record["labels"], strict=True) if code == 1] == [
        "Pleural Effusion",
        "Pneumonia",
    ]
    assert (record["patient_id"], record["study_id"]) == ("10000032", "50414267")
    if not folder:
        assert len(load("ms_cxr", tmp_path, "train", mimic_root=mimic)) == 1
        with pytest.raises(ValueError, match="split: 'test' is not there"):
            load("ms_cxr", tmp_path, "test", mimic_root=mimic, official_splits=True)


def test_ms_cxr_t_tells_changes(mimic, tmp_path):
    dataset = load("ms_cxr_t", further.ms_cxr_t(tmp_path), "train", mimic_root=mimic)
    codes = dict(zip(label_names(dataset), dataset[0]["labels"], strict=True))
    judged = {"Edema improving": 0, "Edema stable": 0, "Edema worsening": 1}
    assert {name: code for name, code in codes.items() if code != -1} == judged and len(codes) == 15
    assert facts_of(dataset)["previous"] == {"d1": "d0"}
    file = tmp_path / "MS_CXR_T_temporal_image_classification_v1.0.0.csv"
    file.write_text(file.read_text().replace("worsening", "better"))
    with pytest.raises(ValueError, match="edema_progression of d1 is 'better'"):
        load("ms_cxr_t", tmp_path, mimic_root=mimic)


def test_mimic_studies_stand_in_order_with_their_dates(tmp_path):
    header = ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns", "StudyDate", "StudyTime")
    rows = [
        ("c", "10000032", "50000001", "PA", 80, 64, "21800507", "213014.531"),
        ("b", "10000032", "50000003", "PA", 80, 64, "21800507", "83014.0"),
        ("x", "10000999", "50000009", "PA", 80, 64, "", ""),
        ("a", "10000032", "50000002", "PA", 80, 64, "21790101", "233000"),
    ]
    miniatures.table(tmp_path / "mimic-cxr-2.0.0-metadata.csv", header, *rows)
    for row in rows:
        miniatures.picture(tmp_path / f"files/p10/p{row[1]}/s{row[2]}/{row[0]}.jpg")
    dataset = load("mimic_cxr", tmp_path)
    assert dataset["image_id"][:] == ["a", "b", "c", "x"]
    assert dataset["study_date"][:] == ["2179-01-01", "2180-05-07", "2180-05-07", None]


def test_mimic_dicoms_as_downloaded(mimic, tmp_path):
    folder = miniatures.mimic_folder("d1")
    miniatures.dicom(tmp_path / folder / "d1.dcm", "", "", "AP", 70, 60)
    header = ("subject_id", "study_id", "dicom_id", "path")
    miniatures.table(tmp_path / "cxr-record-list.csv.gz", header, ("10000032", "50414267", "d1", f"{folder}/d1.dcm"))
    (record,) = load("mimic_cxr", tmp_path)
    assert (record["view_position"], record["image_width"], record["image"].size) == ("AP", 70, (70, 60))
    assert record["labels"] == [-1] * 14
    # With the JPEGs' tables: their view, size, labels and split.
    dataset = load("mimic_cxr", tmp_path, "train", tables_root=mimic)
    record = by_id(dataset)["d1"]
    assert (record["view_position"], record["image_width"], record["labels"][:2]) == ("PA", 200, [1, 2])
    assert record["image"].size == (70, 60)


def test_labels_of_radiologists(mimic, tmp_path):
    further.radiologists(tmp_path)
    dataset = load("mimic_cxr", mimic, labels="radiologists", labels_root=tmp_path)
    (record,) = dataset
    positive = [name for name, code in zip(label_names(dataset), record["labels"], strict=True) if code == 1]
    assert record["image_id"] == "d4" and positive == ["Lung Opacity", "Edema"] and -1 not in record["labels"]
    assert facts_of(dataset)["dropped"]["not labelled by radiologists"] == 3
    with pytest.raises(ValueError, match=r"needs \*test-set-labeled"):
        load("mimic_cxr", mimic, labels="radiologists")


def test_labels_and_splits_of_cxr_lt(mimic, tmp_path):
    further.cxr_lt(tmp_path)
    options = {"labels": "cxr_lt_2024_task1", "labels_root": tmp_path}
    dataset = load("mimic_cxr", mimic, **options)
    assert label_names(dataset) == ["Adenopathy", "Normal", "Fissure"]
    assert {name: record["labels"] for name, record in by_id(dataset).items()} == {
        "d1": [1, 0, 0],
        "d3": [0, 1, 0],
        "d4": [0, 0, 1],
    }
    assert load("mimic_cxr", mimic, "val", **options)["image_id"][:] == ["d3"]
    with pytest.raises(ValueError, match=r"holds no labels\.csv"):
        load("mimic_cxr", mimic, labels="cxr_lt_2024", labels_root=tmp_path)
    with pytest.raises(ValueError, match="'chexbert' is none of chexpert, negbio"):
        load("mimic_cxr", mimic, labels="chexbert")


def test_gazesearch_reads_without_sentences(mimic, tmp_path):
    dataset = load("gazesearch", further.gazesearch(tmp_path), "train", mimic_root=mimic)
    (record,) = dataset
    opacity, edema = record["gaze"]
    assert (opacity["reader"], opacity["sentences"]) == ("GazeSearch: lung opacity", [])
    points = [(f["x"], f["y"], f["begin"], f["end"]) for f in opacity["fixations"]]
    assert points[0] == pytest.approx((0.5 / 224 * 200, 111.5 / 224 * 240, 0, 0.5))
    assert points[1] == pytest.approx((223.5 / 224 * 200, 112.5 / 224 * 240, 0.5, 0.75))
    assert record["findings"] == "Clear lungs." and record["labels"].count(1) == 2
    validate_reading(opacity)
    assert gaze_targets(opacity, (200, 240), 4).shape == (1, 16)
    assert facts_of(dataset)["dropped"]["image that is not in MIMIC-CXR-JPG's tables"] == 1


@pytest.mark.parametrize("make", [miniatures.siim_dicom, miniatures.siim_png])
def test_gaze_on_siim(tmp_path, make):
    root = make(tmp_path / "siim")
    name = load("siim", root)[0]["image_id"]
    file = further.siim_gaze(tmp_path / "cxr2_gaze_data.json", name)
    dataset = load("siim", root, gaze=file)
    record = by_id(dataset)[name]
    (reading,) = record["gaze"]
    points = [(f["x"], f["y"], f["begin"], f["end"]) for f in reading["fixations"]]
    assert points == [(32, 16, 0, 0.5), (16, 48, 0.5, 1.5)] and reading["sentences"] == []
    noted = facts_of(dataset)["noted"]
    assert noted == {"gaze on an image that is not among these": 1, "fixation outside the image": 1}
    with pytest.raises(ValueError, match="is a pickle, which could run code"):
        load("siim", root, gaze=tmp_path / "cxr2_gaze_data.pkl")
    miniatures.text(file, "[1]")
    with pytest.raises(ValueError, match="no table of"):
        load("siim", root, gaze=file)


@pytest.mark.parametrize("name", ["VinDr-CXR.csv", "VinDr-CXR.csv.gz"])
def test_chexmask_brings_masks(tmp_path, name):
    root = further.vindr_cxr(tmp_path / "vindr")
    for part, image in (("train", "v1"), ("test", "v2")):
        miniatures.dicom(root / part / f"{image}.dicom", width=20 if part == "train" else 64, height=16)
    file = further.chexmask(tmp_path / name, "image_id", ("other", 0.9), ("v1", 0.8), ("v2", 0.9))
    dataset = load("vindr_cxr", root, chexmask=file)
    record = by_id(dataset)["v1"]
    left, right, heart = record["regions"][-3:]
    assert [region["label"] for region in (left, right, heart)] == ["left lung", "right lung", "heart"]
    expected = np.zeros((8, 10), bool)
    expected[1:4, 4:6] = True
    assert np.array_equal(np.asarray(heart["mask"]) > 0, expected)
    assert heart["box"] == [8, 2, 12, 8]  # pixels of the original, twice as large
    assert right["box"] == [18, 14, 20, 16]
    assert facts_of(dataset)["noted"] == {"CheXmask's masks in other proportions than the image": 1}
    poor = further.chexmask(tmp_path / f"poor-{name}", "image_id", ("v1", 0.6), ("v2", 0.9))
    assert facts_of(load("vindr_cxr", root, chexmask=poor))["noted"]["CheXmask's Dice RCA below 0.7"] == 1
    with pytest.raises(ValueError, match="no usable row of these images"):
        load("vindr_cxr", root, chexmask=further.chexmask(tmp_path / f"none-{name}", "image_id", ("other", 0.9)))
    with pytest.raises(ValueError, match="there is no file"):
        load("vindr_cxr", root, chexmask=tmp_path / "nowhere.csv")


def test_chexmask_knows_chexpert_s_paths(tmp_path):
    root = miniatures.chexpert(tmp_path / "chexpert")
    path = "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg"
    miniatures.picture(root / "train/patient00001/study1/view1_frontal.jpg", 100, 80)
    dataset = load("chexpert", root, chexmask=further.chexmask(tmp_path / "CheXpert.csv", "Path", (path, 0.9)))
    assert len(by_id(dataset)["patient00001/study1/view1_frontal"]["regions"]) == 3


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_chexmask_codes_give_the_mask_back(mask):
    flat = np.concatenate([[0], mask.ravel(), [0]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(flat) == 1), np.flatnonzero(np.diff(flat) == -1)
    code = " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))
    assert np.array_equal(rle_mask(code, mask.shape[1], mask.shape[0]), mask)


@pytest.mark.parametrize("code", ["1 2 3", "0 2", "16 2"])
def test_broken_chexmask_codes(code):
    with pytest.raises(ValueError, match="code"):
        rle_mask(code, 4, 4)


PHRASES = st.from_regex(r"([A-Z][a-z]{0,5}( [a-z]{1,5}){0,2}[.?]?( |\Z)){0,2}", fullmatch=True)


@example([("?A? A", 1)])
@example([("No", 1), ("A? A", 2)])
@given(st.lists(st.tuples(PHRASES, st.integers(0, 2)), max_size=5))
def test_grounded_sentences_are_those_of_the_text(phrases):
    boxes = [(text, [(str(number), [0, 0, 1, 1])] * count) for number, (text, count) in enumerate(phrases)]
    text, regions = grounded_text(boxes)
    sentences = split_sentences(text)
    assert len(regions) == sum(count for _, count in phrases)
    for region in regions:
        phrase, place = phrases[int(region["label"])][0], region["sentence"]
        first = split_sentences(phrase)[:1]
        assert (place == -1 and not first) or first[0].rstrip(".?") in sentences[place]


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("20140915", "2014-09-15"),
        ("2014-09-15", "2014-09-15"),
        ("21800506.0", "2180-05-06"),
        ("", None),
        ("20141315", None),
    ],
)
def test_dates(text, date):
    assert iso_date(text) == date


def test_items_stand_oldest_first_by_patient():
    items = [
        {"patient_id": "p", "study_order": 10, "n": 1},
        {"patient_id": "q", "study_date": None, "n": 2},
        {"patient_id": "p", "study_order": 2, "n": 3},
        {"patient_id": "q", "study_date": "2020-01-01", "n": 4},
        {"patient_id": "p", "study_order": 2, "n": 5},
    ]
    assert [item["n"] for item in oldest_first(items)] == [3, 5, 1, 2, 4]


@pytest.mark.parametrize(
    ("name", "make", "file", "column"),
    [
        ("padchest_gr", further.padchest_gr, "master_table.csv", "PatientID"),
        ("vindr_cxr", further.vindr_cxr, "annotations/image_labels_train.csv", "Lung cyst"),
        ("vindr_cxr", further.vindr_cxr, "annotations/annotations_train.csv", "class_name"),
        ("chexpert_plus", further.chexpert_plus, "df_chexpert_plus_240401.csv", "section_findings"),
        ("openi_kaggle", further.openi_kaggle, "indiana_projections.csv", "projection"),
        ("ms_cxr", further.ms_cxr, "MS_CXR_Local_Alignment_v1.1.0.csv", "label_text"),
        ("ms_cxr_t", further.ms_cxr_t, "MS_CXR_T_temporal_image_classification_v1.0.0.csv", "edema_progression"),
    ],
)
def test_a_missing_column_is_named_with_its_file(mimic, tmp_path, name, make, file, column):
    path = make(tmp_path) / file
    path.write_text(path.read_text().replace(column, "Other"))
    options = {"mimic_root": mimic} if name.startswith("ms_cxr") else {}
    with pytest.raises(ValueError, match=rf"{path.name}: column '{column}' is missing; it has"):
        load(name, tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("padchest", further.padchest),
        ("padchest_gr", further.padchest_gr),
        ("vindr_cxr", further.vindr_cxr),
        ("chexpert_plus", further.chexpert_plus),
        ("rexgradient", further.rexgradient),
        ("openi_kaggle", further.openi_kaggle),
        ("openi_r2gen", further.openi_r2gen),
        ("gazesearch", further.gazesearch),
    ],
)
def test_a_root_one_level_up_is_corrected(tmp_path, name, make):
    make(tmp_path / "sets" / "right one")
    with pytest.raises(ValueError, match="right one has it: give that"):
        load(name, tmp_path / "sets")
