import json
import shutil

import pytest
import torch

from processing.datasets.storage.shards import write_shards
from tests.training.training_runs import flags, in_two_processes, weights
from training import pretrain as pretrain_command
from training.data.loading import load_data, stored_columns
from training.data.streams import STATE, StreamLoader
from training.pretraining.training import pretrain


@pytest.fixture(scope="module")
def shards(small_phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    assert write_shards(small_phantom, out, "parquet", max_shard="20KB")["shards"] > 2
    write_shards(small_phantom.select(range(4)), out, "parquet", split="val")
    return out


@pytest.fixture(scope="module")
def run(tiny_run, shards):
    data = {"name": "shards", "root": str(shards)}
    train, validation = data | {"split": "train", "shuffle_buffer": 6}, data | {"split": "val"}
    return tiny_run | {"train_data": json.dumps(train), "validation_data": json.dumps(validation)}


def ids(records):
    return [record["image_id"] for record in records if record is not None]


@pytest.fixture(scope="module")
def two_epochs(run, tmp_path_factory):
    """Four steps an epoch; checkpoints in the middle of the first and of the second."""
    folder = tmp_path_factory.mktemp("two_epochs")
    changes = {"num_train_epochs": 2, "crop": 0.8, "context_dropout": 0.5, "output_dir": folder}
    changes |= {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "no", "load_best_model_at_end": "False"}
    changes |= {"save_total_limit": 9}
    pretrain(flags(run, **changes))
    return folder, changes


def test_a_run_from_shards_resumes_bit_for_bit_in_the_middle_of_an_epoch(two_epochs, run, tmp_path):
    folder, changes = two_epochs
    state = json.loads((folder / "checkpoint-3" / STATE).read_text())["state"]
    assert (state["epoch"], state["consumed"]) == (0, [12])
    assert json.loads((folder / "checkpoint-6" / STATE).read_text())["state"]["consumed"] == [8]
    for step in (3, 6):
        out = tmp_path / str(step)
        shutil.copytree(folder / f"checkpoint-{step}", out / f"checkpoint-{step}")
        pretrain(flags(run, **changes | {"output_dir": out, "resume_from_checkpoint": "True"}))
        expected, found = weights(folder), weights(out)
        for name, value in expected.items():
            assert torch.equal(value, found[name]), name


def test_a_checkpoint_of_other_batches_is_refused(two_epochs, run, tmp_path):
    folder, changes = two_epochs
    changes = changes | {"output_dir": tmp_path, "resume_from_checkpoint": folder / "checkpoint-3"}
    with pytest.raises(ValueError, match="shuffle_buffer: .* was saved with 6, now it is 2"):
        data = json.dumps(json.loads(run["train_data"]) | {"shuffle_buffer": 2})
        pretrain(flags(run, **changes | {"train_data": data}))


def test_in_the_order_of_the_shards_training_is_that_of_the_data_set(run, tiny_run, tmp_path):
    # Shards are read as written; a data set in order is one whose batches hold all of it.
    step = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "eval_strategy": "no", "save_strategy": "no"}
    step |= {"load_best_model_at_end": "False", "per_device_train_batch_size": 14}
    pretrain(flags(tiny_run, **step, output_dir=tmp_path / "data_set"))
    pretrain(flags(run, **step, output_dir=tmp_path / "shards"))
    expected, found = weights(tmp_path / "data_set"), weights(tmp_path / "shards")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_every_record_once_and_goes_on_anywhere(run, small_phantom, workers):
    def loader():
        return StreamLoader(load_data(run["train_data"], "train_data"), 4, ids, workers)

    first = loader()
    batches = list(first)
    assert len(batches) == len(first)
    assert sorted(sum(batches, [])) == sorted(small_phantom["image_id"])
    first.set_epoch(1)
    second = list(first)
    assert sorted(sum(second, [])) == sorted(sum(batches, [])) and second != batches
    resumed = loader()
    resumed.dataset.set_epoch(1)
    resumed.dataset.load_state_dict(resumed.dataset.state_after(2, 4, workers))
    assert [batch or [] for batch in resumed] == [[], [], *second[2:]]


def test_processes_read_different_records_and_end_with_the_same_weights(run, shards, tmp_path):
    changes = {"num_train_epochs": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": "False"}
    arguments = flags(run, **changes, per_device_train_batch_size=3, output_dir=tmp_path)
    in_two_processes(pretrain_command, arguments, tmp_path)
    summary = json.loads((tmp_path / "training.json").read_text())
    assert summary["processes"] == 2 and summary["train_records"] == 14


def test_a_damaged_picture_stops_the_run_or_is_left_out_and_counted(run, small_phantom, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Image

    write_shards(small_phantom.cast_column("image", Image()), tmp_path / "shards")
    (path,) = (tmp_path / "shards").glob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[3]["image"]["bytes"] = rows[3]["image"]["bytes"][:100]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    data = json.dumps(json.loads(run["train_data"]) | {"root": str(tmp_path / "shards")})
    changes = {"train_data": data, "num_train_epochs": 1, "output_dir": tmp_path / "out"}
    with pytest.raises(ValueError, match=rows[3]["image_id"]):
        pretrain(flags(run, **changes))
    pretrain(flags(run, **changes, on_bad_record="skip"))
    assert json.loads((tmp_path / "out" / "training.json").read_text())["skipped_while_streaming"] == 1


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_columns_are_read_without_pictures(small_phantom, tmp_path, to):
    write_shards(small_phantom, tmp_path, to, max_shard="20KB")
    stream = load_data({"name": "shards", "root": str(tmp_path)}, "train_data")
    names = ["image_id", "findings", "labels"]
    assert list(stored_columns(stream, names)) == list(stored_columns(small_phantom, names))


def test_shards_without_a_root_or_with_another_option_are_refused():
    with pytest.raises(ValueError, match="train_data: there is no root"):
        load_data({"name": "shards"}, "train_data")
    with pytest.raises(ValueError, match="'size' is no option"):
        load_data({"name": "shards", "root": "x", "size": 3}, "train_data")
