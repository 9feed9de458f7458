"""Data sets of one run, loaded together."""

import warnings

import pytest

from tests.processing.datasets import further_miniatures, miniatures
from training.data.loading import load_together


def test_overlapping_sources_of_one_run_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("COGAZE_CACHE", str(tmp_path / "cache"))
    mimic = str(miniatures.mimic_cxr(tmp_path / "mimic"))
    phrases = {"name": "ms_cxr", "root": str(further_miniatures.ms_cxr(tmp_path / "ms_cxr")), "mimic_root": mimic}
    specs = {"train_data": {"name": "mimic_cxr", "root": mimic}, "validation_data": None, "test_data": phrases}
    with pytest.warns(UserWarning, match=r"train_data \(mimic_cxr\) and test_data \(ms_cxr\).*1 patients and 1 images"):
        data = load_together(specs)
    assert list(data) == ["train_data", "test_data"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_together({"train_data": specs["train_data"], "validation_data": specs["train_data"] | {"split": "val"}})
