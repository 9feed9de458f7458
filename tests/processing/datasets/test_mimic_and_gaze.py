"""MIMIC-CXR and what is read on its images, from miniatures in the published layouts."""

import numpy as np
import pytest
from transformers import BitImageProcessor

from processing.datasets import load
from processing.datasets.records import facts_of, label_names
from processing.gaze import gaze_targets, heatmap_targets, validate_reading
from processing.processing_cogaze import CoGazeProcessor
from processing.tokenization import build_tokenizer
from tests.processing.datasets import miniatures


@pytest.fixture
def mimic(tmp_path):
    return miniatures.mimic_cxr(tmp_path / "mimic-cxr-jpg", tmp_path / "mimic-cxr")


def by_id(dataset):
    return {record["image_id"]: record for record in dataset}


def test_mimic_records(mimic):
    dataset = load("mimic_cxr", mimic)
    records = by_id(dataset)
    assert list(records) == ["d1", "d2", "d3", "d4"]
    first = records["d1"]
    assert (first["image"].mode, first["image"].size) == ("L", (200, 240))
    assert (first["image_width"], first["image_height"]) == (200, 240)
    assert (first["patient_id"], first["study_id"], first["view_position"]) == ("10000032", "50414267", "PA")
    assert (first["indication"], first["history"]) == ("___F with cough", "Asthma.")
    assert (first["findings"], first["impression"]) == ("Clear lungs.", "Normal.")
    assert first["labels"] == [1, 2, 0] + [-1] * 11
    assert records["d2"]["view_position"] == "" and records["d2"]["study_id"] == first["study_id"]
    assert records["d3"]["findings"] == "" and records["d3"]["impression"] == "Large heart."
    assert records["d3"]["indication"] == "Fièvre" and records["d3"]["labels"] == [-1] * 14
    assert records["d4"]["findings"] == "" == records["d4"]["impression"]
    facts = facts_of(dataset)
    assert facts["dropped"] == {"duplicate id": 1, "image file missing": 1}
    assert facts["noted"] == {
        "text file not in UTF-8, read as Latin-1": 1,
        "no findings": 2,
        "report file missing": 1,
    }
    assert facts["dropped_examples"]["image file missing"][0].endswith("d5.jpg")
    assert label_names(dataset) == miniatures.OBSERVATIONS


def test_mimic_splits_views_labels_and_missing_findings(mimic):
    assert list(by_id(load("mimic_cxr", mimic, "val"))) == ["d3"]
    assert list(by_id(load("mimic_cxr", mimic, views=("PA", "AP")))) == ["d1", "d3"]
    assert load("mimic_cxr", mimic, labels="negbio")[0]["labels"] == [-1, 1] + [-1] * 12
    dropping = load("mimic_cxr", mimic, missing_findings="drop")
    assert list(by_id(dropping)) == ["d1", "d2"]
    assert facts_of(dropping)["dropped"]["no findings"] == 2
    unlabelled = load("mimic_cxr", mimic, missing_findings="unlabelled")
    assert by_id(unlabelled)["d3"]["findings"] == "The heart is mildly enlarged."
    keeping = load("mimic_cxr", mimic)
    assert len({keeping._fingerprint, dropping._fingerprint, unlabelled._fingerprint}) == 3
    assert "unlabelled paragraph" in facts_of(unlabelled)["text_protocol"]
    with pytest.raises(ValueError, match="split: 'dev'"):
        load("mimic_cxr", mimic, "dev")


def test_mimic_unpacked_tables_and_reports_beside_the_images(tmp_path):
    root = miniatures.mimic_cxr(tmp_path / "all", suffix=".csv")
    assert load("mimic_cxr", root)[0]["findings"] == "Clear lungs."


def test_mimic_joins_all_readings_of_an_image(mimic, tmp_path):
    dataset = load(
        "mimic_cxr",
        mimic,
        egd_root=miniatures.egd(tmp_path / "egd"),
        reflacx_root=miniatures.reflacx(tmp_path / "reflacx"),
    )
    records = by_id(dataset)
    assert [reading["reader"] for reading in records["d1"]["gaze"]] == ["EGD", "P101R1", "P101R2"]
    assert [reading["reader"] for reading in records["d2"]["gaze"]] == ["P201R1"]
    assert records["d3"]["gaze"] == [] == records["d4"]["gaze"]
    assert facts_of(dataset)["dropped"]["reading marked as discarded"] == 1
    for record in records.values():
        for reading in record["gaze"]:
            validate_reading(reading)


def test_egd_fixations_and_sentences(mimic, tmp_path):
    dataset = load("egd", miniatures.egd(tmp_path / "egd"), mimic_root=mimic)
    assert len(dataset) == 1
    record = dataset[0]
    (reading,) = record["gaze"]
    rows = [(f["x"], f["y"], f["begin"], f["end"]) for f in reading["fixations"]]
    assert rows == [pytest.approx(row) for row in ((10, 20, 0.05, 0.55), (50, 60, 0.6, 1.1), (199, 239, 3.0, 3.5))]
    assert all(f["sigma_x"] is None and f["shown"] == [] for f in reading["fixations"])
    # "No edema. Clear." lasts 1.5 s; 9 of its 15 letters without the blank are the first sentence's.
    assert [s["text"] for s in reading["sentences"]] == ["The heart is large.", "No edema.", "Clear."]
    times = [(s["begin"], s["end"]) for s in reading["sentences"]]
    assert times == [(0.0, 1.5), pytest.approx((2.0, 2.9)), pytest.approx((2.9, 3.5))]
    assert record["labels"] == [1, -1, 2, 0] + [-1] * 10
    assert (record["patient_age"], record["patient_sex"]) == (25.0, "F")
    assert record["indication"] == "___F with CHF// edema?" and record["findings"] == "Clear lungs."
    (region,) = record["regions"]
    assert (region["label"], region["box"]) == ("cardiac silhouette", [60, 100, 140, 200])
    facts = facts_of(dataset)
    assert facts["dropped"] == {
        "blink": 1,
        "lost gaze sample": 1,
        "fixation beside the image": 1,
        "no MIMIC-CXR path": 1,
    }
    assert facts["noted"] == {
        "further row of the same image in the master sheet": 1,
        "fixation outside the part shown": 1,
    }
    targets = gaze_targets(reading, (200, 240), 4)
    assert targets.shape == (4, 16) and targets[-1].sum() <= 1.5


def test_egd_transcripts_without_full_stops_give_a_sentence_per_phrase(tmp_path):
    from processing.datasets.sources.egd import transcript_sentences

    phrases = [{"phrase": name, "begin_time": i, "end_time": i + 1} for i, name in enumerate(("heart large", "clear"))]
    file = miniatures.text(tmp_path / "t.json", __import__("json").dumps({"time_stamped_text": phrases}))
    assert [s["text"] for s in transcript_sentences(file)] == ["heart large", "clear"]
    with pytest.raises(ValueError, match=r"broken.json"):
        transcript_sentences(miniatures.text(tmp_path / "broken.json", '{"time_stamped_text": [{"phrase": "x"}'))


def test_reflacx_readings(mimic, tmp_path):
    dataset = load("reflacx", miniatures.reflacx(tmp_path / "reflacx"), mimic_root=mimic)
    records = by_id(dataset)
    assert list(records) == ["d1", "d2"]
    first, second = records["d1"]["gaze"]
    assert (first["reader"], second["reader"]) == ("P101R1", "P101R2")
    assert first["fixations"] == second["fixations"]
    assert [(f["x"], f["y"], f["sigma_x"], f["sigma_y"]) for f in first["fixations"]] == [
        (100, 120, 30, 31),
        (90, 80, 60, 62),
    ]
    assert first["fixations"][1]["shown"] == [50, 50, 150, 150]
    assert [f["begin"] for f in first["fixations"]] == pytest.approx([0.2, 1.1])
    assert [s["text"] for s in first["sentences"]] == ["Heart is large.", "No effusion."]
    times = np.array([(s["begin"], s["end"]) for s in first["sentences"]])
    assert times == pytest.approx(np.array([(0.1, 0.9), (1.2, 1.8)]))
    assert label_names(dataset) == ["Fracture", "Support devices", "Edema"]
    # Highest certainty of the readings: 3 and more is present; phase 1 did not ask for edema; "Other" is free text.
    assert records["d1"]["labels"] == [0, 1, -1] and records["d2"]["labels"] == [0, -1, 1]
    assert records["d1"]["label_certainty"] == [2, 5, -1] and records["d2"]["label_certainty"] == [0, -1, 3]
    regions = [(r["label"], r["box"]) for r in records["d2"]["regions"]]
    assert regions == [("Enlarged cardiac silhouette", [60, 100, 140, 200]), ("Other", [10, 20, 30, 40])]
    assert records["d2"]["region_certainty"] == [5, 2]
    facts = facts_of(dataset)
    assert facts["dropped"] == {
        "reading marked as discarded": 1,
        "reading given twice": 1,
        "ellipse without a box": 4,
        "lost gaze sample": 3,
        "image without a usable reading": 1,
    }
    assert facts["noted"]["fixation outside the part shown"] == 3
    # Seconds that the two fixations left overlap each sentence: 0.2-0.7 lies in 0.1-0.9, 1.2-1.6 in 1.2-1.8.
    seconds = gaze_targets(first, (200, 240), 1, crop=(-10_000, -10_000, 10_000, 10_000))[:, 0]
    assert seconds[0] == pytest.approx(0.5, abs=1e-3)
    assert seconds[2] - seconds[0] == pytest.approx(seconds[1] * 0.5 / 0.4, rel=1e-3)


def test_mimic_eye(tmp_path):
    dataset = load("mimic_eye", miniatures.mimic_eye(tmp_path))
    records = by_id(dataset)
    assert [reading["reader"] for reading in records["d1"]["gaze"]] == ["EGD", "P101R1"]
    assert (records["d1"]["view_position"], records["d1"]["labels"][0]) == ("PA", 1)
    assert (records["d1"]["findings"], records["d3"]["findings"]) == ("Clear lungs.", "")
    assert records["d3"]["image_width"] == 200 and records["d3"]["patient_id"] == "10000764"
    assert list(by_id(load("mimic_eye", tmp_path, "val"))) == ["d3"]


def test_the_release_brings_heatmap_pictures(mimic, tmp_path):
    dataset = load("cogaze_release", miniatures.cogaze_release(tmp_path / "annotation"), mimic_root=mimic)
    records = by_id(dataset)
    assert set(records) == {"d1", "d2 and d1", "d3"}  # d2 has no serialization; d4's first picture is not there
    # The released code takes the first image of an item, whatever its view.
    assert records["d2 and d1"]["view_position"] == ""
    preferring = load("cogaze_release", tmp_path / "annotation", mimic_root=mimic, variant="preferred")
    assert by_id(preferring)["d2 and d1"]["view_position"] == "PA"
    with pytest.raises(ValueError, match="variant: 'first' is neither"):
        load("cogaze_release", tmp_path / "annotation", mimic_root=mimic, variant="first")
    first = records["d1"]
    assert first["view_position"] == "PA" and first["image"].size == (200, 240)
    assert (first["findings"], first["indication"]) == ("Findings of d1.", "Cough")
    assert first["labels"] == [-1, 1, 0, 2] + [-1] * 10
    assert (first["similar_report"], first["diseases"]) == ("Clear before.", ["Edema"])
    (reading,) = first["gaze"]
    assert [sentence["text"] for sentence in reading["sentences"]] == ["Heart is large.", "No effusion."]
    assert [np.asarray(picture).shape for picture in reading["heatmaps"]] == [(120, 100)] * 3
    targets = heatmap_targets(reading["heatmaps"], 3)
    assert targets.shape == (3, 9) and records["d3"]["gaze"] == [] == reading["fixations"]
    tokenizer = build_tokenizer(["Heart is large. No effusion."], vocab_size=300)
    frame = {"size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}}
    batch = CoGazeProcessor(BitImageProcessor(**frame), tokenizer, grid_size=(3, 3)).collate(list(dataset))
    assert batch["gaze_targets"].shape == (3, 9) and batch["transcript_is_full"].tolist() == [False, False, True]
    # The processor crops the pictures as it crops the radiograph: 200 of 240 rows.
    assert np.array_equal(batch["gaze_targets"], heatmap_targets(reading["heatmaps"], 3, (200, 240), (0, 20, 200, 220)))
    assert facts_of(dataset)["dropped"] == {"no findings_factual_serialization": 1, "image file missing": 1}
    with pytest.raises(ValueError, match=r"train\[0\] has no 'findings'"):
        bad = miniatures.text(
            tmp_path / "bad.json", '{"train": [{"id": 1, "subject_id": 1, "study_id": 1, "anchor_scan": 1}]}'
        )
        load("cogaze_release", bad, mimic_root=mimic)


def test_srrg(mimic, tmp_path):
    plus = tmp_path / "plus"
    root = miniatures.srrg(tmp_path / "srrg", plus)
    dataset = load("srrg", root, "train", mimic_root=mimic, chexpert_plus_root=plus)
    first, second = dataset
    assert (first["image_id"], first["view_position"], first["history"]) == ("d1", "PA", "Cough.")
    assert first["findings"] == miniatures.STRUCTURED
    assert (first["patient_id"], first["study_id"]) == ("10000032", "50414267")
    assert (second["patient_id"], second["view_position"], second["image"].size) == ("patient00007", "AP", (90, 100))
    assert facts_of(dataset)["dropped"] == {"findings without a structured header": 1}
    only_mimic = load("srrg", root, mimic_root=mimic)
    assert len(only_mimic) == 1 and facts_of(only_mimic)["dropped"]["chexpert_root not given"] == 1


def test_srrg_from_the_hub(mimic, tmp_path):
    plus = tmp_path / "plus"
    root = miniatures.srrg_hub(tmp_path / "srrg", plus)
    dataset = load("srrg", root, "train", mimic_root=mimic, chexpert_plus_root=plus)
    first, second = dataset
    # Views come from the image sets' tables; an id says nothing of where the images lie.
    assert (first["image_id"], first["view_position"], first["findings"]) == ("d1", "PA", miniatures.STRUCTURED)
    assert (second["view_position"], second["image"].size) == ("AP", (90, 100))
    assert len(load("srrg", root, "test_reviewed", mimic_root=mimic)) == 1
    everything = load("srrg", root, mimic_root=mimic, chexpert_plus_root=plus / "PNG")
    assert facts_of(everything)["dropped"]["reviewed copy of a test report"] == 1 and len(everything) == 3
    with pytest.raises(ValueError, match=r"train-0.parquet: it is no whole parquet file"):
        load("srrg", miniatures.text(tmp_path / "cut/train-0.parquet", "PAR1").parent, mimic_root=mimic)


def test_views_are_asked_for_in_any_case(mimic):
    assert list(by_id(load("mimic_cxr", mimic, views=("pa", "Ap")))) == ["d1", "d3"]


def test_studies_without_a_name_are_counted(mimic):
    import gzip

    file = mimic / "mimic-cxr-2.0.0-metadata.csv.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"57375967", b"nan")))
    dataset = load("mimic_cxr", mimic)
    assert list(by_id(dataset)) == ["d1", "d2", "d4"] and facts_of(dataset)["dropped"]["no study_id"] == 1


def test_mimic_5x200_takes_images_of_one_class_alone(mimic):
    rows = []
    for name, positive in (("d1", ["Edema"]), ("d2", ["Edema"]), ("d3", ["Atelectasis"])):
        rows.append((name, miniatures.MIMIC[name][1], positive))
    with pytest.raises(ValueError, match="5x1 needs 1 images of Atelectasis alone, and there are 0"):
        load("mimic_5x200", mimic, None, sample="5x1")


def test_gaze_without_a_transcript_is_kept_for_the_whole_report(mimic, tmp_path):
    (reading,) = load("egd", miniatures.egd(tmp_path, transcripts=False), mimic_root=mimic)[0]["gaze"]
    assert reading["sentences"] == [] and len(reading["fixations"]) == 3
    validate_reading(reading)
