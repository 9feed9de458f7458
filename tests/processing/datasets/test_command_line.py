"""`python -m processing.datasets`: what it prints, writes and refuses."""

import subprocess
import sys

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from PIL import Image

from processing.datasets import load
from processing.datasets.__main__ import main
from processing.datasets.records import facts_of
from processing.datasets.storage.checking import interesting
from processing.datasets.storage.streaming import RecordStream
from tests.processing.datasets import miniatures


@pytest.fixture
def reflacx(tmp_path):
    return miniatures.reflacx(tmp_path / "reflacx"), miniatures.mimic_cxr(tmp_path / "mimic")


def test_check_counts_lists_and_draws(reflacx, tmp_path, capsys):
    root, mimic = reflacx
    sheet = tmp_path / "sheets" / "reflacx.png"
    arguments = [
        "check",
        "reflacx",
        str(root),
        "--option",
        f"mimic_root={mimic}",
        "--sheet",
        str(sheet),
        "--count",
        "2",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for line in (
        "REFLACX: 2 records",
        "  readings: 3",
        "  fixations: 6",
        "  sentences: 6",
        "images: 2 (published 2,616)",
        "dropped: reading marked as discarded: 1",
        "decoded 2 images, 0 of them unreadable",
    ):
        assert line in printed
    drawn = np.asarray(Image.open(sheet).convert("RGB"), int)
    cyan = (drawn[..., 0] < 60) & (drawn[..., 1] > 200) & (drawn[..., 2] > 200)
    white = (drawn > 250).all(axis=2)
    assert cyan.sum() > 50 and white[370:].sum() > 100  # fixations, and text under the pictures


def test_check_accounts_for_every_row_and_names_unknown_headings(tmp_path, capsys):
    root = miniatures.mimic_cxr(tmp_path / "mimic", tmp_path / "reports")
    report = tmp_path / "reports/files/p10/p10000032/s50414267.txt"
    report.write_text(report.read_text().replace(" IMPRESSION:", " ODD NEW HEADING: Seen.\n\n IMPRESSION:"))
    assert main(["check", "mimic_cxr", str(root), "--option", f"reports_root={tmp_path / 'reports'}"]) == 0
    printed = capsys.readouterr().out
    # Six rows of the metadata table: one twice, one whose image is missing, four records.
    assert "5 listed: 4 records, 1 refused" in printed
    assert "dropped: duplicate id: 1\ndropped: image file missing: 1\n" in printed
    assert "noted: unknown heading in a report: ODD NEW HEADING: 2" in printed
    facts = facts_of(load("mimic_cxr", root, reports_root=tmp_path / "reports"))
    assert facts["listed"] == 4 + sum(facts["refused"].values())
    table = root / "mimic-cxr-2.0.0-chexpert.csv.gz"
    miniatures.table(table, ("study_id", *miniatures.OBSERVATIONS), ("50414267", "7", *[""] * 13))
    assert main(["check", "mimic_cxr", str(root)]) == 1
    said = capsys.readouterr().err
    assert f"{table}, study 50414267: column 'Enlarged Cardiomediastinum' is '7', none of 1, 0, -1 and blank" in said


def test_check_names_missing_and_unreadable_files(tmp_path, capsys):
    root = miniatures.rsna(tmp_path)
    (root / "stage_2_train_images/aaa-1.dcm").unlink()
    path = root / "stage_2_train_images/bbb-2.dcm"
    path.write_bytes(path.read_bytes()[:-2000])
    assert main(["check", "rsna", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "dropped: image file missing: 1" in printed and "aaa-1.dcm" in printed
    assert "decoded 2 images, 1 of them unreadable" in printed and "bbb-2.dcm" in printed
    path = root / "stage_2_train_images/ccc-3.dcm"
    path.write_bytes(path.read_bytes()[:-2000])
    assert main(["check", "rsna", str(root)]) == 1
    assert "not one image can be read" in capsys.readouterr().err


def test_unusable_roots_and_wrong_arguments(tmp_path, capsys):
    assert main(["check", "nih", str(tmp_path)]) == 1
    assert "holds no Data_Entry_2017*.csv*" in capsys.readouterr().err
    for arguments in (["check", "unheard"], ["convert", "nih"], ["check", "nih", "--option", "novalue"], []):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    assert main(["check", "nih", str(miniatures.nih(tmp_path)), "--option", "unknown=1"]) == 1
    assert "options: nih: got an unexpected keyword argument 'unknown'" in capsys.readouterr().err
    assert main(["check", "egd", str(tmp_path)]) == 1
    assert "missing a required argument: 'mimic_root'" in capsys.readouterr().err


def test_preview(tmp_path, capsys):
    assert main(["preview", "nih", str(miniatures.nih(tmp_path)), "--count", "2"]) == 0
    printed = capsys.readouterr().out
    assert "00000001_000 PA" in printed and "Cardiomegaly, Effusion" in printed and "58-year-old man" in printed


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_convert(tmp_path, capsys, to):
    root, out = str(miniatures.nih(tmp_path / "nih")), str(tmp_path / "out")
    assert (
        main(["convert", "nih", root, "--split", "train_val", "--to", to, "--output_dir", out, "--max_shard", "1MB"])
        == 0
    )
    assert "2 records, 1 shards" in capsys.readouterr().out
    assert [record["image_id"] for record in RecordStream(out, "train_val")] == ["00000001_000", "00000001_001"]


def test_a_prepared_folder_opens_with_its_card(tmp_path, capsys):
    out = tmp_path / "hub"
    root = str(miniatures.nih(tmp_path / "nih"))
    assert main(["push_to_hub", "nih", root, "--repo", "a/b", "--output_dir", str(out), "--prepare_only"]) == 0
    card = (out / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    for part in ("NIH Clinical Center", "@inproceedings{wang2017chestxray", "| images | 3 |", "| dropped: image file"):
        assert part in body
    opened = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["train"]
    dataset = load("nih", root)
    assert len(opened) == 3 and opened.features == dataset.features
    assert np.array_equal(np.asarray(opened[2]["image"]), np.asarray(dataset[2]["image"]))


def test_credentialed_sources_are_not_passed_on(tmp_path, capsys):
    root = str(miniatures.rsna(tmp_path / "rsna"))
    out = str(tmp_path / "out")
    for flags in ([], ["--private"], ["--i_have_permission"]):
        assert main(["push_to_hub", "rsna", root, "--repo", "a/b", "--output_dir", out, "--prepare_only", *flags]) == 1
        assert "may not be passed on" in capsys.readouterr().err
    flags = ["--private", "--i_have_permission"]
    assert main(["push_to_hub", "rsna", root, "--repo", "a/b", "--output_dir", out, "--prepare_only", *flags]) == 0


def test_the_sheet_prefers_gaze_then_regions(tmp_path):
    mimic = miniatures.mimic_cxr(tmp_path / "mimic")
    dataset = load("mimic_cxr", mimic, reflacx_root=miniatures.reflacx(tmp_path / "reflacx"))
    assert interesting(dataset, 2) == [0, 1] and interesting(dataset, 10) == [0, 1, 2, 3]


def test_it_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "processing.datasets", "check", "nih", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: root:")
