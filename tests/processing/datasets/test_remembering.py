"""A set is found again by its files, and never when one of them changed."""

import os
from pathlib import Path

import pytest

from processing.datasets import load
from processing.datasets.records import facts_of
from processing.datasets.sources.remembering import LOST, file_stamps, folder_stamps
from tests.processing.datasets import miniatures


@pytest.fixture
def mimic(tmp_path):
    return miniatures.mimic_cxr(tmp_path / "mimic-cxr-jpg", tmp_path / "mimic-cxr")


def rewrite(path: Path, old: str, new: str):
    """Change a text and its time, as an editor would."""
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def test_a_set_is_found_again_as_it_was(mimic):
    first = load("mimic_cxr", mimic)
    # A table that looks the same and cannot be read any more: it is not read.
    file = mimic / "mimic-cxr-2.0.0-metadata.csv.gz"
    before = file.stat()
    file.write_bytes(b"0" * before.st_size)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = load("mimic_cxr", mimic)
    assert facts_of(first) == facts_of(second) and first._fingerprint == second._fingerprint
    assert first.features == second.features and first[:] == second[:]
    assert second[0]["image"].mode == "L"
    with pytest.raises(ValueError, match="cannot be read as a table"):
        load("mimic_cxr", mimic, "train")


def test_changed_files_are_never_read_from_the_cache(mimic):
    assert load("mimic_cxr", mimic)[0]["findings"] == "Clear lungs."
    report = mimic.parent / "mimic-cxr/files/p10/p10000032/s50414267.txt"
    rewrite(report, "Clear lungs", "Heart large")  # of the same length
    assert load("mimic_cxr", mimic)[0]["findings"] == "Heart large."
    picture = mimic / miniatures.mimic_folder("d4") / "d4.jpg"
    picture.rename(picture.with_suffix(".away"))
    assert facts_of(load("mimic_cxr", mimic))["dropped"]["image file missing"] == 2
    picture.with_suffix(".away").rename(picture)
    # One that the tables name and that was not there before.
    miniatures.picture(mimic / miniatures.mimic_folder("d5") / "d5.jpg", 200, 240)
    assert len(load("mimic_cxr", mimic)) == 5


def test_changed_tables_options_and_gaze_are_never_read_from_the_cache(mimic, tmp_path):
    load("mimic_cxr", mimic)
    file = mimic / "mimic-cxr-2.0.0-chexpert.csv.gz"
    labels = ("1", "50414267", "0.0", *[""] * 13)
    miniatures.table(file, ("subject_id", "study_id", *miniatures.OBSERVATIONS), labels)
    assert load("mimic_cxr", mimic)[0]["labels"][0] == 0
    gaze = miniatures.reflacx(tmp_path / "reflacx")
    assert len(load("mimic_cxr", mimic, reflacx_root=gaze)[0]["gaze"]) == 2
    rewrite(gaze / "main_data/P101R1/timestamps_transcription.csv", "large", "small")
    assert load("mimic_cxr", mimic, reflacx_root=gaze)[0]["gaze"][0]["sentences"][0]["text"] == "Heart is small."
    lists = miniatures.text(tmp_path / "lists/train.txt", "d1.jpg\n")
    assert len(load("mimic_cxr", mimic, "train", split_lists=lists)) == 1
    rewrite(lists, "d1.jpg", "d1.jpg\nd2.jpg")
    assert len(load("mimic_cxr", mimic, "train", split_lists=lists)) == 2
    assert len(load("mimic_cxr", mimic, views=["PA"])) == 1


def test_a_chunk_that_was_deleted_is_built_again(mimic, tmp_path):
    cache = tmp_path / "cache"
    assert len(load("mimic_cxr", mimic, cache_dir=cache)) == 4
    for file in cache.rglob("*.arrow"):
        file.unlink()
    assert len(load("mimic_cxr", mimic, cache_dir=cache)) == 4


def test_stamps_of_files_and_folders(tmp_path):
    inner = miniatures.text(tmp_path / "a/b/c.txt", "four")
    assert file_stamps([str(inner), str(tmp_path / "nowhere")]).tolist() == [[4, inner.stat().st_mtime_ns], list(LOST)]
    assert folder_stamps(tmp_path) == [] == folder_stamps(None) == folder_stamps(tmp_path / "nowhere")
    assert [path for path, *_ in folder_stamps(tmp_path, below=True)] == [str(inner)]
    assert folder_stamps(inner) == folder_stamps(inner.parent)
