import json
import re

import numpy as np
import pytest
from PIL import Image

from processing.datasets.phantom import loading as phantom
from processing.datasets.phantom.__main__ import main
from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.phantom.loading import (
    CHUNK,
    GALLERY_CLASSES,
    load_phantom,
    load_phantom_gallery,
    phantom_records,
    study_share,
)
from processing.datasets.phantom.plan import OBSERVATION_OF
from processing.datasets.phantom.study import draw_study
from processing.datasets.records import CHEXBERT_OBSERVATIONS, facts_of, label_names, record_features

SIZE, IMAGE_SIZE = CHUNK + 8, 64


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("phantom")


@pytest.fixture(scope="module")
def dataset(cache):
    return load_phantom("test", size=SIZE, image_size=IMAGE_SIZE, num_proc=2, cache_dir=cache)


def test_records_follow_the_schema(dataset):
    assert dataset.features == record_features()
    assert label_names(dataset) == list(CHEXBERT_OBSERVATIONS)
    assert facts_of(dataset)["source"] == "phantom"
    assert len(set(dataset["study_id"])) == SIZE < len(dataset) <= 2 * SIZE
    assert len(set(dataset["image_id"])) == len(dataset)
    assert set(dataset["view_position"]) == {"PA", "AP", "LATERAL"}
    for record in dataset:
        assert record["image"].size == (IMAGE_SIZE, IMAGE_SIZE) and record["image"].mode == "L"
        assert np.asarray(record["image"]).std() > 10
        assert (record["image_width"], record["image_height"]) == phantom.ORIGINAL_SIZE
        assert 18 <= record["patient_age"] <= 94 and record["patient_sex"] in ("M", "F")
        assert phantom_labels(f"{record['findings']} {record['impression']}") == record["labels"]
        json.dumps(record["gaze"], allow_nan=False)


def test_frontal_images_have_gaze_within_the_original(dataset):
    for record in dataset:
        assert bool(record["gaze"]) == (record["view_position"] != "LATERAL")
        assert len({reading["reader"] for reading in record["gaze"]}) == len(record["gaze"]) <= 2
        for reading in record["gaze"]:
            assert reading["sentences"] and reading["fixations"]
            places = [(fixation["x"], fixation["y"]) for fixation in reading["fixations"]]
            assert 0 <= np.min(places) and np.max(places) <= min(phantom.ORIGINAL_SIZE)
    assert any(len(record["gaze"]) == 2 for record in dataset)


def test_regions_belong_to_their_sentence(dataset):
    labels = {}
    for record in dataset:
        written = re.split(r"(?<=\.)\s+", record["findings"])
        for region in record["regions"]:
            assert written[region["sentence"]]
            said = phantom_labels(written[region["sentence"]])[CHEXBERT_OBSERVATIONS.index(region["label"])]
            assert said in (1, 2)
            labels[region["label"]] = labels.get(region["label"], 0) + 1
            if record["gaze"]:
                spoken = [sentence["text"] for sentence in record["gaze"][0]["sentences"]]
                assert len(spoken) == len(written)
                words = set(re.findall(r"[a-z]+", spoken[region["sentence"]].lower()))
                assert words <= set(re.findall(r"[a-z]+", written[region["sentence"]].lower()))
            mask = np.asarray(region["mask"]) > 0
            x0, y0, x1, y1 = np.array(region["box"]) / phantom.ORIGINAL_SIZE[0] * IMAGE_SIZE
            assert mask[round(y0) : round(y1), round(x0) : round(x1)].sum() == mask.sum() > 0
            assert mask[round(y0)].any() and mask[:, round(x1) - 1].any()
    assert len(labels) >= 9 and set(labels) <= set(OBSERVATION_OF.values())


def test_fixations_during_a_lesions_sentence_lie_on_it(dataset):
    on_lesion, areas = [], []
    for record in dataset:
        for region in record["regions"] if record["gaze"] else []:
            reading = record["gaze"][0]
            sentence = reading["sentences"][region["sentence"]]
            x0, y0, x1, y1 = region["box"]
            for fixation in reading["fixations"]:
                if sentence["begin"] <= fixation["begin"] and fixation["end"] <= sentence["end"]:
                    sigma = fixation["sigma_x"] / 2
                    inside = x0 - sigma <= fixation["x"] <= x1 + sigma and y0 - sigma <= fixation["y"] <= y1 + sigma
                    on_lesion.append(inside)
                    areas.append((x1 - x0 + 2 * sigma) * (y1 - y0 + 2 * sigma) / np.prod(phantom.ORIGINAL_SIZE))
    assert np.mean(on_lesion) > 0.65 > np.mean(areas) + 0.25


def test_every_frontal_lesion_is_mostly_visible(dataset):
    shown = {record["image_id"]: len(record["regions"]) for record in dataset if record["view_position"] != "LATERAL"}
    there = {}
    for index in range(SIZE):
        plan, _ = draw_study("test", index)
        there |= {f"{plan.study_id}-{view.lower()}": len(plan.lesions) for view in plan.views}
    assert sum(shown.values()) > 0.9 * sum(there[image_id] for image_id in shown)


def test_same_records_for_any_size_and_number_of_processes(dataset, tmp_path):
    few = load_phantom("test", size=5, image_size=IMAGE_SIZE, num_proc=1, cache_dir=tmp_path)
    raw = [dataset.with_format("arrow")[: len(few)].to_pylist(), few.with_format("arrow")[:].to_pylist()]
    assert raw[0] == raw[1]
    assert len(set(few["study_id"])) == 5


def test_other_seeds_and_splits_have_other_patients():
    records = [phantom_records(split, 0, seed, 32)[0] for split, seed in (("train", 0), ("test", 0), ("train", 1))]
    for key in ("patient_id", "study_id", "image_id"):
        assert len({record[key] for record in records}) == 3
    assert len({record["image"]["bytes"] for record in records}) == 3


def test_rendered_studies_are_kept(dataset, cache):
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    again = load_phantom("test", size=SIZE, image_size=IMAGE_SIZE, cache_dir=cache)
    assert again["findings"][:] == dataset["findings"][:]
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == files
    assert not list(cache.rglob("*.partial"))


def test_shares_of_gaze_are_nested(cache, dataset):
    kept = {}
    for fraction in (0.0, 0.1, 0.5, 1.0):
        part = load_phantom("test", size=SIZE, image_size=IMAGE_SIZE, gaze_fraction=fraction, cache_dir=cache)
        assert part.features == dataset.features and part.column_names == dataset.column_names
        kept[fraction] = {record["study_id"] for record in part if record["gaze"]}
        for ours, whole in zip(part, dataset, strict=True):
            assert ours["gaze"] in ([], whole["gaze"]) and ours["findings"] == whole["findings"]
    assert not kept[0.0] and kept[0.1] < kept[0.5] < kept[1.0]
    assert 0.25 < len(kept[0.5]) / len(kept[1.0]) < 0.75
    shares = [study_share(f"study {number}") for number in range(2000)]
    assert abs(np.mean(shares) - 0.5) < 0.03 and 0 <= min(shares) < max(shares) < 1


def test_gallery(cache):
    gallery = load_phantom_gallery(2, image_size=32, num_proc=1, cache_dir=cache)
    assert len(gallery) == 10 and len(set(gallery["patient_id"])) == 10
    columns = [CHEXBERT_OBSERVATIONS.index(name) for name in GALLERY_CLASSES]
    assert [[record["labels"][column] for column in columns].count(1) for record in gallery] == [1] * 10
    for name, column in zip(GALLERY_CLASSES, columns, strict=True):
        assert sum(record["labels"][column] == 1 for record in gallery) == 2, name
    assert set(gallery["view_position"]) <= {"PA", "AP"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"split": "val"}, "split"),
        ({"size": 0}, "size"),
        ({"gaze_fraction": 1.5}, "gaze_fraction"),
        ({"size": 1, "image_size": 8}, "image_size"),
    ],
)
def test_wrong_arguments_are_named(options, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        load_phantom(**options, num_proc=1, cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.arrow")) and not list(tmp_path.rglob("*.partial"))


def test_command_line(cache, dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COGAZE_CACHE", str(cache))
    sheet = tmp_path / "sheet.png"
    options = ["--size", "8", "--split", "test", "--image-size", str(IMAGE_SIZE)]
    main(["--contact-sheet", str(sheet), "--stats", *options])
    with Image.open(sheet) as picture:
        assert min(picture.size) > 400
    printed = capsys.readouterr().out
    assert "8 studies" in printed and all(name in printed for name in CHEXBERT_OBSERVATIONS)
    with pytest.raises(SystemExit):
        main([])
