import io

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from processing.datasets.phantom.study import draw_study
from processing.datasets.phantom.text import write_report
from processing.datasets.records import CHEXBERT_OBSERVATIONS, describe
from training.evaluation.shortcuts import (
    context_auroc,
    pixels_auroc,
    shortcut_auroc,
    tiny_pictures,
)

NAMES = ["bright", "told", "random", "never"]


def made(first, size, names=NAMES):
    """Label 0 shows in the picture's corner, label 1 in the words, label 2 nowhere, label 3 is never positive."""
    rng = np.random.default_rng(first)
    columns = {key: [] for key in ("image", "indication", "history", "labels", "patient_id")}
    for index in range(size):
        codes = [int(code) for code in rng.choice([0, 1, -1, 2], len(names))]
        codes[3] = 0
        pixels = rng.integers(60, 180, (40, 40))
        pixels[:10, :10] += 60 if codes[0] in (1, 2) else 0
        buffer = io.BytesIO()
        PILImage.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        columns["image"].append({"bytes": buffer.getvalue(), "path": None})
        columns["indication"].append(rng.choice(["pain", "cough"]) if rng.random() < 0.5 else "")
        columns["history"].append("fever and chills" if codes[1] in (1, 2) else "fatigue")
        columns["labels"].append(codes)
        columns["patient_id"].append(f"p{first + index // 2}")
    features = Features({name: Value("string") for name in columns})
    features |= {"image": Image(), "labels": List(Value("int8"))}
    return describe(Dataset.from_dict(columns, features=features), label_names=names)


def test_shortcuts_find_what_is_there_and_no_more():
    scores = shortcut_auroc(made(0, 300), made(10_000, 200))
    result = {
        f"shortcut_{kind}": {
            name.partition("/")[2]: score.value
            for name, score in scores.items()
            if name.startswith(f"shortcut_{kind}_auroc/")
        }
        for kind in ("pixels", "context")
    }
    assert set(result["shortcut_pixels"]) == set(result["shortcut_context"]) == {"bright", "told", "random"}
    assert result["shortcut_pixels"]["bright"] > 0.95 and result["shortcut_context"]["told"] == 1.0
    for nothing in (
        result["shortcut_pixels"]["told"],
        result["shortcut_pixels"]["random"],
        result["shortcut_context"]["bright"],
        result["shortcut_context"]["random"],
    ):
        assert 0.38 < nothing < 0.62
    assert scores["shortcut_pixels_auroc"].value == pytest.approx(np.mean(list(result["shortcut_pixels"].values())))
    assert scores["shortcut_context_auroc"].value == pytest.approx(np.mean(list(result["shortcut_context"].values())))


def test_tiny_pictures_are_averages():
    pixels = np.kron(np.arange(1024).reshape(32, 32) % 251, np.ones((7, 7))).astype(np.uint8)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG")
    data = Dataset.from_dict({"image": [{"bytes": buffer.getvalue()}]}, features=Features({"image": Image()}))
    assert np.array_equal(tiny_pictures(data)[0], np.arange(1024) % 251)


def test_splits_that_cannot_be_compared_are_refused():
    train = made(0, 40)
    with pytest.raises(ValueError, match="patient p0"):
        pixels_auroc(train, train)
    with pytest.raises(ValueError, match="label names"):
        context_auroc(train, made(10_000, 40, ["a", "b", "c", "d"]))
    with pytest.raises(ValueError, match="no finding"):
        context_auroc(train, made(10_000, 1))


def test_a_finding_of_one_patient_alone_is_left_out():
    """No fold can hold it back and be fitted to it as well."""
    train, test = made(0, 60), made(10_000, 40)
    labels = [
        [*codes[:3], int(patient == "p0")] for codes, patient in zip(train["labels"], train["patient_id"], strict=True)
    ]
    labels[2][3] = 1
    train = train.remove_columns("labels").add_column("labels", labels)
    patients = ["p0" if row < 3 else patient for row, patient in enumerate(train["patient_id"])]
    train = train.remove_columns("patient_id").add_column("patient_id", patients)
    seen = [[*codes[:3], row % 2] for row, codes in enumerate(test["labels"])]
    test = test.remove_columns("labels").add_column("labels", seen)
    names = {"label_names": NAMES}
    assert set(context_auroc(describe(train, **names), describe(test, **names))) == {"bright", "told", "random"}


@pytest.mark.slow
def test_the_phantoms_context_hints_without_giving_away():
    splits = []
    for split, size in (("train", 2000), ("test", 500)):
        rows = []
        for plan, context in (draw_study(split, index) for index in range(size)):
            report = write_report(plan, context)
            row = {"indication": report.indication, "history": report.history, "labels": list(report.labels)}
            rows += [row | {"patient_id": plan.patient.patient_id}] * len(plan.views)
        splits.append(describe(Dataset.from_list(rows), label_names=list(CHEXBERT_OBSERVATIONS)))
    aurocs = context_auroc(*splits)
    assert len(aurocs) == 13
    assert 0.55 < np.mean(list(aurocs.values())) < 0.70
