"""Boxes of gaze maps against the boxes of data sets."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoConfig

from processing.datasets import load
from processing.datasets.records import describe, record_features
from processing.datasets.sources.common import blank_record
from tests.processing.datasets import miniatures
from training.calibrate_boxes import main as calibrate_boxes
from training.evaluation.boxes import WHOLE_LUNG, box_scores, choose_settings, frames_of, ground, maps_of, questions
from training.evaluation.scorers import load_scorer
from training.metrics.boxes import iou

SENTENCES = "There is a small left pleural effusion. No pneumothorax."


def dataset(count=4, sentence=0, label="effusion", size=(100, 80)):
    rng = np.random.default_rng(0)
    records = []
    for row in range(count):
        picture = Image.fromarray(rng.integers(0, 255, size[::-1], dtype=np.uint8))
        box = [60.0, 40.0, 90.0, 75.0]
        own = {"image": picture, "image_width": size[0], "image_height": size[1], "findings": SENTENCES}
        own |= {name: f"{row}" for name in ("image_id", "study_id", "patient_id")}
        regions = [{"label": label, "box": box, "mask": None, "sentence": sentence}] if row % 2 == 0 else []
        records.append(blank_record() | own | {"regions": regions})
    return describe(Dataset.from_list(records, features=record_features()), source="x", label_names=[])


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint):
    return load_scorer(tiny_checkpoint, batch_size=3)


def test_sentences_are_asked_where_boxes_belong_to_them_and_labels_where_not():
    asked = questions(dataset())
    assert [question.text for question in asked[:2]] == ["There is a small left pleural effusion.", "No pneumothorax."]
    assert len(asked) == 8 and [len(question.truth) for question in asked] == [1, 0, 0, 0, 1, 0, 0, 0]
    np.testing.assert_allclose(asked[0].truth, [[0.6, 0.5, 0.9, 0.9375]])
    asked = questions(dataset(sentence=-1))
    assert [(question.row, question.text, len(question.truth)) for question in asked] == [
        (row, "There is effusion.", (row + 1) % 2) for row in range(4)
    ]


def test_nih_and_rsna_boxes_through_their_loaders(tmp_path, scorer):
    for name, label in (("nih", "Infiltration"), ("rsna", "pneumonia")):
        root = tmp_path / name
        getattr(miniatures, name)(root)
        if name == "nih":  # the miniature's third picture is of another test
            miniatures.picture(root / "images_012/images/00000003_000.png", 64, 64, 4)
        else:  # boxes are in pixels of 1024 x 1024
            for seed, patient in enumerate(("aaa-1", "bbb-2", "ccc-3")):
                picture = root / f"stage_2_train_images/{patient}.dcm"
                miniatures.dicom(picture, "51", "F", "AP", width=1024, height=1024, seed=seed)
        data = load(name, root=root, cache_dir=tmp_path / "cache")
        asked = questions(data)
        assert len(asked) == len(data) and {question.label for question in asked} == {label}
        assert sum(len(question.truth) for question in asked) == {"nih": 1, "rsna": 2}[name]
        for question in asked:
            assert ((question.truth >= 0) & (question.truth <= 1)).all()
        found = box_scores(scorer, data, {"threshold": 0.6}, None, 5)
        assert 0 <= found["box_iou"].value <= 1 and found["box_none_accuracy"].value is not None


def test_a_box_outside_the_picture_is_named():
    with pytest.raises(ValueError, match="image 0.*within its 50 x 40 pixels"):
        questions(dataset(size=(50, 40)))


def test_maps_do_not_hang_on_the_batch_or_the_order(scorer):
    data = dataset()
    asked = questions(data)
    maps = maps_of(scorer, data, asked)
    backwards = maps_of(load_scorer_of_one(scorer), data, asked[::-1])
    torch.testing.assert_close(maps, backwards.flip(0), atol=1e-5, rtol=1e-4)
    items = ground(scorer, frames_of(data, asked), asked, maps, {})
    assert all(len(item.found) == 0 for item in items[1::2]) and all(len(item.found) for item in items[::2])


def load_scorer_of_one(scorer):
    return type(scorer)(scorer.model, scorer.processor, batch_size=1)


def test_settings_are_chosen_by_what_they_find(scorer):
    data = dataset()
    asked = questions(data)
    rows, columns = scorer.processor.grid_size
    # Maps that look right into the boxes: the best settings find them, of all that are tried.
    x0, y0, x1, y1 = scorer.processor.crop_box((100, 80), (100, 80))
    y, x = np.mgrid[:rows, :columns]
    x, y = x0 + (x + 0.5) / columns * (x1 - x0), y0 + (y + 0.5) / rows * (y1 - y0)
    inside = (x > 60) & (x < 90) & (y > 40) & (y < 75)
    gaze = torch.tensor(inside / inside.sum()).float().reshape(1, -1).expand(len(asked), -1)
    settings = choose_settings(scorer, data, gaze, asked)
    found = ground(scorer, frames_of(data, asked), asked[:1], gaze[:1], vars(settings))[0]
    plain = ground(scorer, frames_of(data, asked), asked[:1], gaze[:1], {"threshold": 0.2, "smoothing": 1.5})[0]
    assert iou(found.found, found.truth).max() >= iou(plain.found, plain.truth).max()
    with pytest.raises(ValueError, match="no boxes"):
        choose_settings(scorer, data.select([1, 3]))


def test_the_command_saves_settings_that_the_checkpoint_opens_with(
    tiny_checkpoint, small_phantom, phantom_cache, tmp_path
):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    data = {"name": "phantom", "split": "train", "size": 12, "image_size": 64, "cache_dir": str(phantom_cache)}
    settings = calibrate_boxes(["--checkpoint", str(folder), "--validation_data", json.dumps(data)])
    assert AutoConfig.from_pretrained(folder).box_settings == vars(settings)
    assert json.loads((folder / "boxes.json").read_text())["settings"] == vars(settings)
    found = box_scores(load_scorer(str(folder)), small_phantom, vars(settings), small_phantom, 10)
    assert WHOLE_LUNG in found["box_map@0.3"].baselines and found["box_iou"].interval
    with pytest.raises(ValueError, match="checkpoint"):
        calibrate_boxes(["--checkpoint", str(tmp_path / "nowhere")])
