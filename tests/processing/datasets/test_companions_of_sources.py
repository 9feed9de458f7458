"""Companions found among a data set's records, by date or by order."""

import io

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from processing.datasets import load
from processing.datasets.records import describe, record_features
from processing.datasets.sources.common import blank_record
from processing.datasets.sources.companions import with_companions
from processing.datasets.storage.shards import write_shards
from processing.datasets.storage.streaming import RecordStream
from tests.processing.datasets import further_miniatures as further
from tests.processing.datasets import miniatures

# image, study, patient, view, date
STUDIES = [
    ("a2", "s2", "p", "PA", "2180-05-06"),
    ("a1l", "s1", "p", "LATERAL", "2180-01-01"),
    ("a1", "s1", "p", "AP", "2180-01-01"),
    ("a2l", "s2", "p", "LATERAL", "2180-05-06"),
    ("a2x", "s2", "p", "LL", "2180-05-06"),
    ("a3", "s3", "p", "AP", "2180-05-07"),
    ("b1", "t1", "q", "PA", "2181-01-01"),
]


def png(seed) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 20), dtype=np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def dataset(dates=True, **facts) -> Dataset:
    rows = []
    for seed, (image, study, patient, view, date) in enumerate(STUDIES):
        own = {"image": png(seed), "image_width": 20, "image_height": 20, "image_id": image, "study_id": study}
        own |= {"patient_id": patient, "view_position": view, "study_date": date if dates else None}
        rows.append(blank_record() | own | {"findings": f"Report of {study}.", "labels": [1]})
    return describe(Dataset.from_list(rows, features=record_features()), source="made", label_names=["x"], **facts)


def found(data) -> dict:
    return {
        record["image_id"]: [(c["role"], c["image_id"], c["days"]) for c in record["companions"]] for record in data
    }


def test_the_prior_is_the_last_earlier_study_and_its_frontal_image():
    made = with_companions(dataset(), priors=True, views=True)
    assert made.features == record_features() and made.info.description == dataset().info.description
    companions = found(made)
    assert companions["a2"] == [("view", "a2l", 0), ("view", "a2x", 0), ("prior", "a1", 126)]
    assert companions["a3"] == [("prior", "a2", 1)]
    assert companions["a1l"] == [("view", "a1", 0)] and companions["b1"] == []
    texts = dict(zip(made["image_id"], made["prior_findings"], strict=True))
    assert texts["a2"] == texts["a2l"] == "Report of s1." and texts["a1"] == "" == texts["b1"]
    first = made[0]["companions"][2]
    np.testing.assert_array_equal(np.asarray(first["image"]), np.asarray(made[2]["image"]))


def test_the_prior_keeps_its_place_among_many_views():
    companions = found(with_companions(dataset(), priors=True, views=True, most=1))
    assert companions["a2"] == [("prior", "a1", 126)] and companions["a1"] == [("view", "a1l", 0)]
    assert found(with_companions(dataset(), priors=True))["a2"] == [("prior", "a1", 126)]
    assert found(with_companions(dataset(), views=True))["a3"] == []


def test_records_in_order_need_no_dates():
    companions = found(with_companions(dataset(dates=False, studies_ordered=True), priors=True))
    assert companions["a1"] == [("prior", "a2", None)] and companions["a3"] == [("prior", "a1", None)]
    with pytest.raises(ValueError, match="priors: made tells neither dates nor an order"):
        with_companions(dataset(dates=False), priors=True)
    with pytest.raises(ValueError, match="max_companions: 0"):
        with_companions(dataset(), views=True, most=0)


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_shards_and_streams_carry_companions(tmp_path, to):
    made = with_companions(dataset(), priors=True, views=True)
    write_shards(made, tmp_path, to=to)
    stream = RecordStream(tmp_path)
    for record, read in zip(made, stream, strict=True):
        assert read["prior_findings"] == record["prior_findings"]
        for own, other in zip(record["companions"], read["companions"], strict=True):
            assert {**own, "image": 0} == {**other, "image": 0}
            np.testing.assert_array_equal(np.asarray(own["image"]), np.asarray(other["image"]))
    stream.leave_pictures()
    assert isinstance(next(iter(stream))["companions"][0]["image"], dict)


def test_any_source_is_asked_for_companions(tmp_path):
    mimic = miniatures.mimic_cxr(tmp_path / "mimic-cxr-jpg", tmp_path / "mimic-cxr")
    records = {record["image_id"]: record for record in load("mimic_cxr", mimic, priors=True, views=True)}
    assert [c["image_id"] for c in records["d1"]["companions"]] == ["d2"]
    assert records["d3"]["companions"] == [] == load("mimic_cxr", mimic)[0]["companions"]
    assert load("mimic_cxr", mimic, views=("PA",), priors=True)["image_id"] == ["d1"]


def test_ms_cxr_t_has_the_earlier_image_and_the_change(tmp_path):
    mimic = miniatures.mimic_cxr(tmp_path / "mimic-cxr-jpg")
    root = further.ms_cxr_t(tmp_path)
    plain = load("ms_cxr_t", root, mimic_root=mimic)[0]
    assert plain["companions"] == [] and plain["changes"] == [{"label": "Edema", "change": "worse"}]
    miniatures.picture(mimic / "files/p10/p10000032/s1/d0.jpg", 200, 240, 9)
    (companion,) = load("ms_cxr_t", root, mimic_root=mimic, cache_dir=tmp_path / "other")[0]["companions"]
    assert (companion["role"], companion["image_id"], companion["days"]) == ("prior", "d0", None)
    assert companion["image"].size == (200, 240)
