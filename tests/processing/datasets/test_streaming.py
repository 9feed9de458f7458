"""Shards and the stream that reads them."""

import itertools

import numpy as np
import pytest
import torch
import yaml
from datasets import Image, concatenate_datasets, load_dataset, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.datasets import load
from processing.datasets.records import facts_of
from processing.datasets.storage.shards import MANIFEST, size_in_bytes, write_shards
from processing.datasets.storage.streaming import RecordStream
from tests.processing.datasets import miniatures

COUNT = 53


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("tbx11k")
    box = "{'xmin': 1, 'ymin': 2, 'width': 3, 'height': 4}"
    header = ("fname", "image_height", "image_width", "source", "bbox", "target", "tb_type", "image_type")
    rows = [(f"i{index:03d}.png", 64, 64, "train", box, "tb", "active_tb", "tb") for index in range(COUNT)]
    miniatures.table(root / "data.csv", header, *rows)
    for index in range(COUNT):
        miniatures.picture(root / f"images/i{index:03d}.png", 64, 64, index)
    return load("tbx11k", root, cache_dir=root / "cache")


@pytest.fixture(scope="module", params=["parquet", "webdataset"])
def shards(request, dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    done = write_shards(dataset, out, request.param, max_shard="40KB")
    assert done["records"] == COUNT and done["shards"] > 3 and done["skipped"] == {}
    return out


def identities(records):
    return [record["image_id"] for record in records]


def same(first, second):
    first, second = dict(first), dict(second)
    pictures = [np.asarray(record.pop("image")) for record in (first, second)]
    return np.array_equal(*pictures) and first == second


def test_a_stream_gives_what_the_data_set_gives(dataset, shards):
    stream = RecordStream(shards)
    facts = facts_of(dataset)
    assert facts.pop("dropped_examples") == {}  # the files' paths stay at home
    assert len(stream) == COUNT and stream.facts == facts
    assert all(same(record, dataset[index]) for index, record in enumerate(stream))
    assert identities(stream) == dataset["image_id"][:]  # once more


def test_parts_keep_to_their_size(shards):
    sizes = [path.stat().st_size for path in shards.iterdir() if path.name != MANIFEST]
    assert max(sizes) < 80_000 and len(sizes) > 3


def test_shuffling_gives_every_record_once_in_an_order_of_the_epoch(dataset, shards):
    stream = RecordStream(shards, shuffle_buffer=16, seed=3)
    first = identities(stream)
    assert sorted(first) == dataset["image_id"][:] != first
    assert identities(stream) == first
    stream.set_epoch(1)
    second = identities(stream)
    assert sorted(second) == sorted(first) and second != first
    assert identities(RecordStream(shards, shuffle_buffer=16, seed=4)) != first


@pytest.mark.parametrize("consumed", [0, 1, 20, 52, 53])
@pytest.mark.parametrize("buffer", [0, 16, 1000])
def test_reading_goes_on_exactly_where_it_stopped(shards, consumed, buffer):
    stream = RecordStream(shards, shuffle_buffer=buffer)
    stream.set_epoch(2)
    whole = identities(stream)
    stream.set_epoch(2)
    assert identities(itertools.islice(stream, consumed)) == whole[:consumed]
    state = stream.state_dict()
    resumed = RecordStream(shards, shuffle_buffer=buffer)
    resumed.load_state_dict(state)
    assert identities(resumed) == whole[consumed:]
    resumed.set_epoch(2)
    assert identities(resumed) == whole
    with pytest.raises(ValueError, match="seed 0, this stream has 1"):
        RecordStream(shards, seed=1).load_state_dict(state)


def test_processes_share_the_records(shards):
    parts = [identities(RecordStream(shards, shuffle_buffer=8, rank=rank, world_size=3)) for rank in range(3)]
    assert [len(part) for part in parts] == [COUNT // 3] * 3
    assert len(set().union(*parts)) == COUNT // 3 * 3
    with pytest.raises(ValueError, match="rank: 3"):
        RecordStream(shards, rank=3, world_size=3)
    with pytest.raises(ValueError, match="cannot share"):
        RecordStream(shards, rank=0, world_size=COUNT + 1)


def loader(stream, workers=2, batch=4, **options):
    return torch.utils.data.DataLoader(stream, batch_size=batch, num_workers=workers, collate_fn=identities, **options)


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
@pytest.mark.parametrize("drop_last", [False, True])
def test_loader_workers_share_and_resume(shards, drop_last):
    stream = RecordStream(shards, shuffle_buffer=8, rank=1, world_size=2)
    batches = list(loader(stream, drop_last=drop_last))
    given = sum(batches, [])
    assert len(set(given)) == len(given) == (24 if drop_last else 26)
    for done in (1, 4, 6):
        resumed = RecordStream(shards, shuffle_buffer=8, rank=1, world_size=2)
        resumed.load_state_dict(stream.state_after(done, 4, num_workers=2, drop_last=drop_last))
        assert sorted(sum(loader(resumed, drop_last=drop_last), [])) == sorted(sum(batches[done:], []))
    resumed.load_state_dict(stream.state_after(3, 4, num_workers=2))
    with pytest.raises(ValueError, match="same number of loader workers"):
        list(loader(resumed, workers=0))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 30), st.integers(0, 40))
def test_the_order_of_a_buffer(count, buffer, seed):
    stream = object.__new__(RecordStream)
    stream.shuffle_buffer, stream.seed, stream.epoch, stream.rank = buffer, seed, 0, 0
    order = list(stream._order(count, 0))
    assert sorted(order) == list(range(count))
    # A record cannot come before the buffer has reached it.
    assert all(position < turn + max(buffer, 1) for turn, position in enumerate(order))


def test_parquet_opens_with_datasets_alone(dataset, tmp_path):
    write_shards(dataset, tmp_path, max_shard="40KB")
    files = [str(path) for path in sorted(tmp_path.glob("*.parquet"))]
    opened = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert opened.features == dataset.features and all(same(opened[i], dataset[i]) for i in (0, 30, 52))


def test_two_processes_write_what_one_writes_and_splits_share_a_folder(dataset, tmp_path):
    write_shards(dataset, tmp_path, split="train", num_proc=2)
    write_shards(dataset.select(range(5)), tmp_path, split="val")
    assert identities(RecordStream(tmp_path)) == dataset["image_id"][:]
    assert identities(RecordStream(tmp_path, "val")) == dataset["image_id"][:5]
    with pytest.raises(ValueError, match=r"split: 'test' .*\['train', 'val'\]"):
        RecordStream(tmp_path, "test")
    with pytest.raises(ValueError, match="parquet shards already"):
        write_shards(dataset, tmp_path, "webdataset")
    with pytest.raises(ValueError, match=f"holds no {MANIFEST}"):
        RecordStream(tmp_path / "elsewhere")


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_masks_dicoms_gaze_and_heatmaps_travel_along(tmp_path, to):
    mimic = miniatures.mimic_cxr(tmp_path / "mimic")
    sets = {
        "siim": load("siim", miniatures.siim_dicom(tmp_path / "siim")),
        "reflacx": load("reflacx", miniatures.reflacx(tmp_path / "reflacx"), mimic_root=mimic),
        "cogaze": load("cogaze_release", miniatures.cogaze_release(tmp_path / "cogaze"), mimic_root=mimic),
    }
    for name, dataset in sets.items():
        write_shards(dataset, tmp_path / "out" / name, to)
        for streamed, record in zip(RecordStream(tmp_path / "out" / name), dataset, strict=True):
            assert np.array_equal(np.asarray(streamed["image"]), np.asarray(record["image"]))
            heatmaps = [[np.asarray(p) for g in r["gaze"] for p in g.pop("heatmaps", ())] for r in (streamed, record)]
            assert all(np.array_equal(*pair) for pair in zip(*heatmaps, strict=True))
            assert streamed["gaze"] == record["gaze"] and streamed["labels"] == record["labels"]
            for ours, theirs in zip(streamed["regions"], record["regions"], strict=True):
                assert ours["box"] == theirs["box"]
                assert np.array_equal(np.asarray(ours["mask"]), np.asarray(theirs["mask"]))


def test_reduced_pictures_keep_the_original_geometry(tmp_path):
    dataset = load("mimic_cxr", miniatures.mimic_cxr(tmp_path / "mimic"))
    write_shards(dataset, tmp_path / "out", image_size=100)
    record = next(iter(RecordStream(tmp_path / "out")))
    assert record["image"].size == (100, 120)
    assert (record["image_width"], record["image_height"]) == (200, 240)
    whole = np.asarray(dataset[0]["image"].resize((100, 120)), float)
    assert np.abs(np.asarray(record["image"]) - whole).mean() < 3


def test_an_unreadable_picture_stops_the_writing_or_is_counted(tmp_path):
    root = miniatures.shenzhen(tmp_path / "shenzhen")
    dataset = load("shenzhen", root)
    path = root / "CXR_png/CHNCXR_0002_1.png"
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(ValueError, match=path.name):
        write_shards(dataset, tmp_path / "out")
    done = write_shards(dataset, tmp_path / "out", skip_unreadable=True)
    assert done["records"] == 2 and [path.name in message for message in done["skipped"]] == [True]
    assert identities(RecordStream(tmp_path / "out")) == ["CHNCXR_0001_0", "CHNCXR_0003_1"]


def test_a_damaged_shard_is_named(shards, dataset, tmp_path):
    write_shards(dataset, tmp_path)
    stream = RecordStream(tmp_path, transform=lambda record: record["missing"])
    with pytest.raises(ValueError, match=r"train-00000.parquet record 0 \(i000\)"):
        next(iter(stream))


@pytest.mark.parametrize(("text", "size"), [("500MB", 500_000_000), ("1.5 GB", 1_500_000_000), (1000, 1000)])
def test_sizes(text, size):
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["big", "5 parsecs", ""])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="max_shard"):
        size_in_bytes(text)


def test_records_stored_before_a_column_was_added_still_load(dataset, tmp_path):
    old = dataset.remove_columns("study_date")
    write_shards(old, tmp_path / "shards", "parquet")
    assert "study_date" not in next(iter(RecordStream(tmp_path / "shards")))
    old.save_to_disk(tmp_path / "saved")
    both = concatenate_datasets([load_from_disk(tmp_path / "saved"), dataset.cast_column("image", Image())])
    assert len(both) == 2 * COUNT and both[0]["study_date"] is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m["splits"]["train"][0].update(file="../../../etc/passwd"), "does not lie in the folder"),
        (lambda m: m["splits"]["train"][0].update(file="/etc/passwd"), "does not lie in the folder"),
        (lambda m: m["splits"]["train"][0].update(file="http://127.0.0.1/a"), "does not lie in the folder"),
        (lambda m: m["splits"]["train"][0].pop("records"), "lacks 'records'"),
        (lambda m: m["splits"].update(train=3), "malformed"),
        (lambda m: m.pop("features"), "lacks 'features'"),
        (lambda m: m.update(format="zip"), "format 'zip'"),
    ],
)
def test_a_manifest_is_checked_before_any_of_its_files_is_opened(dataset, tmp_path, change, named):
    write_shards(dataset.select(range(3)), tmp_path)
    manifest = yaml.safe_load((tmp_path / MANIFEST).read_text())
    change(manifest)
    (tmp_path / MANIFEST).write_text(yaml.safe_dump(manifest))
    with pytest.raises(ValueError, match=f"manifest.yaml.*{named}"):
        RecordStream(tmp_path)


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_a_shard_that_is_cut_short_is_named(dataset, tmp_path, to):
    write_shards(dataset.select(range(3)), tmp_path, to)
    shard = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".parquet", ".tar"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{shard.name}.*cut short"):
        list(RecordStream(tmp_path))


def test_what_a_killed_conversion_left_is_swept_by_the_next(dataset, tmp_path):
    (tmp_path / ".train-4242-0-1.tmp").write_bytes(b"half a shard")
    (tmp_path / ".val-4242-0-1.tmp").write_bytes(b"of another split")
    write_shards(dataset, tmp_path, split="train")
    assert [path.name for path in tmp_path.glob(".*")] == [".val-4242-0-1.tmp"]
