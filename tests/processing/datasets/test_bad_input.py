"""Wrong roots, broken tables and files, and the cache that records are built into."""

import json
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from processing.datasets import load, names, registry
from processing.datasets.records import facts_of, record_features
from processing.datasets.sources import building
from processing.datasets.sources.common import age_in_years, blank_record, indication_of
from processing.datasets.sources.splits import check_patients, read_split_lists
from processing.datasets.sources.tables import read_table
from tests.processing.datasets import miniatures


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("mimic_cxr", miniatures.mimic_cxr),
        ("mimic_eye", miniatures.mimic_eye),
        ("chexpert", miniatures.chexpert),
        ("nih", miniatures.nih),
        ("rsna", miniatures.rsna),
        ("siim", miniatures.siim_dicom),
        ("shenzhen", miniatures.shenzhen),
        ("tbx11k", miniatures.tbx11k),
        ("openi", miniatures.openi),
    ],
)
def test_a_root_one_level_up_or_down_is_corrected(tmp_path, name, make):
    root = tmp_path / "sets" / "right one"
    make(root)
    for wrong in (root.parent, next(path for path in sorted(root.iterdir()) if path.is_dir())):
        if name == "openi" and wrong != root.parent:
            continue  # a folder of reports alone is a root too
        with pytest.raises(ValueError, match="right one has it: give that"):
            load(name, wrong)
    with pytest.raises(ValueError, match="is not a folder"):
        load(name, tmp_path / "nowhere")


def test_other_roots_are_checked_too(tmp_path):
    with pytest.raises(ValueError, match="egd holds no master_sheet.csv, which EGD needs"):
        (tmp_path / "egd").mkdir()
        load("egd", tmp_path / "egd", mimic_root=tmp_path)
    with pytest.raises(ValueError, match="root: nih needs|NIH ChestX-ray14 needs the folder"):
        load("nih")
    with pytest.raises(ValueError, match=f"'nhi' is no data set; there are .*{names()[-1]}"):
        load("nhi", tmp_path)


@pytest.mark.parametrize(
    ("name", "make", "file", "column"),
    [
        ("mimic_cxr", miniatures.mimic_cxr, "mimic-cxr-2.0.0-metadata.csv", "ViewPosition"),
        ("chexpert", miniatures.chexpert, "train.csv", "Support Devices"),
        ("nih", miniatures.nih, "Data_Entry_2017_v2020.csv", "Finding Labels"),
        ("rsna", miniatures.rsna, "stage_2_train_labels.csv", "Target"),
        ("siim", miniatures.siim_dicom, "train-rle.csv", "EncodedPixels"),
        ("tbx11k", miniatures.tbx11k, "data.csv", "bbox"),
    ],
)
def test_a_missing_column_is_named_with_its_file(tmp_path, name, make, file, column):
    make(tmp_path) if name != "mimic_cxr" else make(tmp_path, suffix=".csv")
    path = tmp_path / file
    path.write_text(path.read_text().replace(column, "Other"))
    with pytest.raises(ValueError, match=rf"{file}: column '{column}' is missing; it has"):
        load(name, tmp_path)


def test_truncated_and_other_tables(tmp_path):
    whole = miniatures.table(tmp_path / "a.csv.gz", ("x", "y"), *((i, i) for i in range(2000))).read_bytes()
    miniatures.text(tmp_path / "cut.csv.gz", "").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.csv.gz: it cannot be read as a table"):
        read_table(tmp_path / "cut.csv.gz")
    with pytest.raises(ValueError, match="empty.csv"):
        read_table(miniatures.text(tmp_path / "empty.csv", ""))
    table = read_table(miniatures.text(tmp_path / "latin.csv", "name, y\nRené,NA\n", "latin-1"), ("name|id", "y"))
    assert table.to_dict("records") == [{"name": "René", "y": "NA"}]


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ("id,a,b\nx,1,2,\ny,3,4,\n", "row 2 has 4 values and the header 3"),
        ("id,a,b\nx,1,2\ny,3,4,\n", "row 3 has 4 values and the header 3"),
        ("id,a,b\nx,1\ny,3,4\n", "row 2 has 2 values and the header 3"),
    ],
)
def test_rows_that_are_longer_or_shorter_than_the_header_are_refused(tmp_path, content, row):
    with pytest.raises(ValueError, match=rf"t.csv: {row} names"):
        read_table(miniatures.text(tmp_path / "t.csv", content))
    even = read_table(miniatures.text(tmp_path / "t.csv", "id,a,\nx,1,\n\ny,,\n"))
    assert even.to_dict("list") == {"id": ["x", "y"], "a": ["1", ""], "Unnamed: 2": ["", ""]}
    blank = read_table(miniatures.text(tmp_path / "t.csv", "id,a,,\nx,1\n"))  # as NIH's boxes are published
    assert blank.to_dict("list") == {"id": ["x"], "a": ["1"]}


def test_unusable_images_are_dropped_and_counted(tmp_path):
    root = miniatures.tbx11k(tmp_path)
    rows = [(f"{name}.png", 64, 64, "train", "none", "no_tb", "none", "healthy") for name in ("empty", "text", "bomb")]
    with open(root / "data.csv", "a") as file:
        file.writelines(",".join(map(str, row)) + "\n" for row in rows)
    miniatures.text(root / "images/empty.png", "")
    miniatures.text(root / "images/text.png", "no picture")
    Image.new("1", (20_000, 20_000)).save(root / "images/bomb.png")
    dataset = load("tbx11k", root)
    assert len(dataset) == 2
    dropped = facts_of(dataset)["dropped"]
    assert dropped["image header unreadable"] == 2
    assert sum(count for reason, count in dropped.items() if "pixels" in reason) == 1
    assert "bomb.png" in str(facts_of(dataset)["dropped_examples"])


@pytest.mark.parametrize("name", ["shenzhen", "rsna"])
def test_a_file_cut_short_is_named_when_it_is_read(tmp_path, name):
    root = getattr(miniatures, name)(tmp_path)
    path = sorted([*root.rglob("*.png"), *root.rglob("*.dcm")])[1]
    path.write_bytes(path.read_bytes()[:-1500])
    dataset = load(name, root)
    assert dataset[0]["image"].mode == "L"
    with pytest.raises(ValueError, match=path.name):
        dataset[1]


def test_nothing_to_load_gives_the_reasons(tmp_path):
    root = miniatures.shenzhen(tmp_path)
    for path in root.glob("CXR_png/*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"shenzhen: not one record could be made: image header unreadable \(3\)"):
        load("shenzhen", root)


def test_broken_values_are_named(tmp_path):
    root = miniatures.tbx11k(tmp_path / "tbx")
    (root / "data.csv").write_text((root / "data.csv").read_text().replace("'ymin'", "'top'", 1))
    with pytest.raises(ValueError, match="bbox of tb0003 is no dictionary"):
        load("tbx11k", root)
    root = miniatures.chexpert(tmp_path / "chexpert")
    (root / "train.csv").write_text((root / "train.csv").read_text().replace(",1.0,-1.0,", ",7,-1.0,", 1))
    with pytest.raises(ValueError, match="train.csv, CheXpert.*column 'Enlarged Cardiomediastinum' is '7', none of"):
        load("chexpert", root)


def test_split_lists_and_patients(tmp_path):
    with pytest.raises(ValueError, match="holds no train, val or test list"):
        read_split_lists(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        read_split_lists(tmp_path / "train.txt")
    for name in ("train_val_list.txt", "valid.csv", "test_split.txt", "notes.md"):
        miniatures.text(tmp_path / name, "a.png,1\n\n")
    assert read_split_lists(tmp_path) == {"train_val": ["a"], "val": ["a"], "test": ["a"]}
    check_patients({"train_val": {"1", "2"}, "val": {"2"}, "train": {"1"}, "train_10": {"1"}, "test": {"3"}})
    with pytest.raises(ValueError, match="7 patients are in both test and train: 1, 2, 3, 4, 5 ...; split by patient"):
        check_patients({"train_1": set("1234567"), "test": set("12345678")})


@pytest.mark.parametrize(
    ("text", "years"),
    [("062Y", 62), ("62", 62), ("18M", 1.5), ("45yrs", 45), ("20 - 30", 25), ("414", None), ("", None), ("0", None)]
    + [("1e400", None), ("1,5", None), ("male 45yrs, TB", 45), ("-7", None), ("3 months", 0.25)],
)
def test_ages(text, years):
    assert age_in_years(text) == years


def test_indications():
    assert indication_of(62, "M") == "A 62-year-old man"
    assert indication_of(62, "F", 3) == "Follow-up visit 3 of a 62-year-old woman."
    assert indication_of(62, None) == "A 62-year-old patient"
    assert indication_of(None, "F") == "Woman" and indication_of(None, None, 2) == ""


# The cache


def slow_record(item, noted):
    """Fails at an item whose file says so, and leaves a trace of every record made."""
    with open(item["trace"], "a") as trace:
        trace.write(item["image_id"] + "\n")
    if open(item["files"][0]).read() == "fail":
        raise RuntimeError("no luck")
    return blank_record() | {"study_id": item["image_id"], "image_id": item["image_id"], "labels": [1]}


@pytest.fixture
def items(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "CHUNK", 2)
    files = [miniatures.text(tmp_path / f"{index}.txt", "fine") for index in range(6)]
    trace = str(tmp_path / "trace")
    return [{"image_id": str(index), "files": [str(file)], "trace": trace} for index, file in enumerate(files)]


def build(items, **options):
    return building.build("test", items, slow_record, label_names=["a"], **options)


def trace(items):
    path = items[0]["trace"]
    made = open(path).read().split() if os.path.exists(path) else []
    open(path, "w").close()
    return made


def test_an_interrupted_build_goes_on_and_a_changed_file_is_read_again(items):
    file = items[4]["files"][0]
    miniatures.text(building.Path(file), "fail")
    with pytest.raises(ValueError, match=r"test: record '4' \(.*4.txt\): no luck"):
        build(items)
    assert trace(items) == ["0", "1", "2", "3", "4"]
    miniatures.text(building.Path(file), "fine")
    first = build(items)
    assert trace(items) == ["4", "5"] and first["image_id"][:] == list("012345")
    assert build(items)._fingerprint == first._fingerprint and trace(items) == []
    os.utime(items[0]["files"][0], ns=(1, 1))
    build(items)
    assert trace(items) == ["0", "1"]
    build(items, version=2)
    assert len(trace(items)) == 6


def test_processes_build_what_one_builds(items):
    alone = build(items)
    trace(items)
    for path in building.cache_folder().rglob("*"):
        if path.is_file():
            path.unlink()
    pooled = build(items, num_proc=2)
    assert sorted(trace(items)) == list("012345")
    assert pooled["image_id"][:] == alone["image_id"][:] and pooled._fingerprint == alone._fingerprint


def test_half_written_parts_are_not_taken(items):
    build(items)
    trace(items)
    sidecar = sorted(building.cache_folder().rglob("*.json"))[0]
    sidecar.unlink()
    assert len(build(items)) == 6 and len(trace(items)) == 2


def test_radiographs_survive_the_ways_of_datasets(tmp_path):
    dataset = load("rsna", miniatures.rsna(tmp_path))
    picture = np.asarray(dataset[1]["image"])
    assert dataset.features == record_features() and record_features() == dataset.features
    ways = {
        "select": dataset.select([1])[0],
        "filter": dataset.filter(lambda record: record["image_id"] == "bbb-2")[0],
        "map": dataset.map(lambda record: {"history": "x"})[1],
        "map from its cache": dataset.map(lambda record: {"history": "x"})[1],
        "iterable": list(dataset.to_iterable_dataset())[1],
    }
    dataset.save_to_disk(tmp_path / "saved")
    from datasets import concatenate_datasets, load_from_disk

    ways["disk"] = building.open_radiographs(load_from_disk(tmp_path / "saved"))[1]
    ways["concatenated"] = concatenate_datasets([dataset, dataset])[4]
    for way, record in ways.items():
        assert np.array_equal(np.asarray(record["image"]), picture), way
    assert facts_of(dataset.select([0]))["label_names"] == ["pneumonia"]


def test_every_registered_source_says_what_it_is():
    for name in names():
        source = registry.source(name)
        assert source.name == name and source.licence and source.citation.startswith("@") and callable(source.load)
        assert all(isinstance(count, int | tuple) for count in source.published.values())
    licences = Counter(registry.source(name).credentialed for name in names())
    assert not registry.source("nih").credentialed and licences[True] == 22
    json.dumps([registry.source(name).published for name in names()])
