import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_cogaze import CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.datasets.label_texts import read_label_texts
from processing.datasets.sources.nih import MINI_COLUMNS, load_nih
from processing.datasets.storage.shards import write_shards
from tests.training.training_runs import assert_same_weights, flags, in_two_processes
from training import cache_features
from training import pretrain as pretrain_command
from training.data.collation import Collator
from training.data.mixture import Mixture, MixtureLoader, share_out
from training.data.sources import read_sources
from training.pretraining.training import pretrain

TEXTS = read_label_texts()
FINDINGS = ("No Finding", "Pneumonia", "Effusion|Mass", "Cardiomegaly")


@pytest.fixture(scope="module")
def nih(tmp_path_factory):
    """Ten grey pictures with NIH's labels, each of a patient of its own."""
    root = tmp_path_factory.mktemp("nih")
    rows = []
    for index in range(10):
        name = f"0000{index}_000.jpg"
        picture = np.random.default_rng(index).integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(picture).save(root / name)
        rows.append([name, FINDINGS[index % 4], f"{index}", 50 + index, "F", "PA"])
    with open(root / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([MINI_COLUMNS, *rows])
    return {"name": "nih", "root": str(root), "table": "train.csv", "columns": MINI_COLUMNS, "num_proc": 1}


@pytest.fixture(scope="module")
def phantom(tiny_run):
    return json.loads(tiny_run["train_data"])


@pytest.fixture(scope="module")
def shards(nih, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    options = {name: value for name, value in nih.items() if name != "name"}
    assert write_shards(load_nih(**options), out, "parquet", max_shard="4KB")["shards"] > 2
    return {"name": "shards", "root": str(out), "shuffle_buffer": 4}


def mixture(specs, records_per_epoch=None, **options):
    sources, _ = read_sources(specs, "train_data", TEXTS)
    return Mixture(sources, records_per_epoch, **options)


def read(mix, batch_size=4, workers=0):
    """(image, text, what it is a positive of) of each record, by batch."""

    def collate(records):
        return [None if r is None else (r["image_id"], r["findings"], r["positives_of"]) for r in records]

    return list(MixtureLoader(mix, batch_size, collate, num_workers=workers))


def test_weights_share_out_the_draws(phantom, nih):
    assert share_out([2, 1], 10) == [7, 3] and share_out([1, 1, 1], 2) in ([1, 1, 0], [0, 1, 1], [1, 0, 1])
    mix = mixture([phantom | {"weight": 1}, nih | {"weight": 3}], 40)
    names = [image for batch in read(mix) for image, _, _ in batch]
    counts = [sum(image.startswith("0000") for image in names), len(names)]
    assert counts == [30, 40]
    # No record a third time before each has come three times.
    assert {names.count(f"0000{index}_000") for index in range(10)} == {3}
    sqrt = mixture([phantom | {"weight": "sqrt"}, nih | {"weight": "sqrt"}], 100)
    sizes = [len(source) for source in sqrt.sources]
    assert sqrt.draws == share_out(np.sqrt(sizes).tolist(), 100)
    by_size = mixture([phantom, nih])
    assert by_size.draws == sizes and len(by_size) == sum(sizes)


@pytest.mark.parametrize("second", ["nih", "shards"])
def test_the_draws_are_the_same_on_any_number_of_processes_and_workers(phantom, second, request):
    specs = [phantom | {"weight": 1}, request.getfixturevalue(second) | {"weight": 2}]
    for epoch in (0, 1):
        alone = mixture(specs, 42)
        alone.set_epoch(epoch)
        expected = read(alone, 8)
        assert len(expected) == alone.num_batches(8) == 6
        two = []
        for rank in range(2):
            part = mixture(specs, 42, rank=rank, world_size=2)
            part.set_epoch(epoch)
            two.append(read(part, 4))
            assert len(two[-1]) == part.num_batches(4)
        assert [first + last for first, last in zip(*two, strict=True)] == expected
        with_workers = mixture(specs, 42)
        with_workers.set_epoch(epoch)
        assert read(with_workers, 8, workers=2) == expected
        resumed = mixture(specs, 42)
        resumed.set_epoch(epoch)
        resumed.load_state_dict(resumed.state_after(2, 8))
        assert read(resumed, 8)[2:] == expected[2:]


def test_texts_of_labels_are_drawn_anew_and_pair_equal_labels(phantom, nih):
    mix = mixture([phantom, nih])
    epochs = []
    for epoch in (0, 1):
        mix.set_epoch(epoch)
        epochs.append({image: rest for batch in read(mix) for image, *rest in batch})
    real = [image for image in epochs[0] if image.startswith("0000")]
    assert len(real) == 10 and all(epochs[0][image][0] for image in real)
    assert sum(epochs[0][image][0] != epochs[1][image][0] for image in real) >= 5
    # Equal labels are positives of each other, whatever the words; a report's own study alone is.
    for place in range(4):
        assert len({epochs[epoch][f"0000{index}_000"][1] for index in range(place, 10, 4) for epoch in (0, 1)}) == 1
    assert len({epochs[0][image][1] for image in real}) == 4
    assert all(rest[1].startswith("phantom/") for image, rest in epochs[0].items() if image not in real)
    own, _ = read_sources([nih | {"text": "none"}], "train_data", TEXTS)
    assert all(not text for batch in read(Mixture(own)) for _, text, _ in batch)


@pytest.fixture(scope="module")
def run(tiny_run, phantom, nih):
    train = [phantom | {"weight": 1}, nih | {"weight": 2, "text": "report_or_labels"}]
    data = {"train_data": json.dumps(train), "validation_data": json.dumps([phantom | {"size": 4}, nih])}
    return tiny_run | data | {"records_per_epoch": 22}


UNSEEN = {"eval_strategy": "no", "load_best_model_at_end": "False"}


@pytest.fixture(scope="module")
def two_epochs(run, tmp_path_factory):
    """Six steps an epoch, checkpoints in the middle of both."""
    folder = tmp_path_factory.mktemp("two_epochs")
    changes = {"num_train_epochs": 2, "crop": 0.8, "context_dropout": 0.5, "output_dir": folder, **UNSEEN}
    changes |= {"save_strategy": "steps", "save_steps": 4, "save_total_limit": 9}
    pretrain(flags(run, **changes))
    return folder, changes


def test_a_run_of_two_sources_resumes_bit_for_bit_in_the_middle_of_an_epoch(two_epochs, run, tmp_path):
    folder, changes = two_epochs
    for step in (4, 8):
        out = tmp_path / str(step)
        shutil.copytree(folder / f"checkpoint-{step}", out / f"checkpoint-{step}")
        pretrain(flags(run, **changes | {"output_dir": out, "resume_from_checkpoint": "True"}))
        assert_same_weights(folder, out)


def test_what_a_run_stands_on_is_told_by_source(two_epochs, run):
    summary = json.loads((two_epochs[0] / "training.json").read_text())
    data = summary["train_data"]
    assert data["source"] == "phantom + nih" and data["records"] == 22
    nih, phantom = data["sources"]["nih"], data["sources"]["phantom"]
    assert (nih["records"], nih["with_report"], nih["with_labels"], nih["draws"]) == (10, 0, 10, 15)
    assert phantom["with_report"] == phantom["records"] and phantom["draws"] == 7
    assert data["annotated"]["Mass"] == 10 and data["positives"]["Mass"] == 2
    assert data["annotated"]["Fracture"] == phantom["records"]
    assert {"eval_loss", "eval_phantom_loss", "eval_nih_loss"} <= summary.keys()
    sizes = [len(source) for source in read_sources(run["validation_data"], "validation_data", TEXTS)[0]]
    losses = [summary["eval_phantom_loss"], summary["eval_nih_loss"]]
    assert summary["eval_loss"] == pytest.approx(np.average(losses, weights=sizes))


def test_two_processes_train_as_one_does(run, tmp_path):
    changes = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.1, "save_strategy": "no", **UNSEEN}
    pretrain(flags(run, **changes, per_device_train_batch_size=8, output_dir=tmp_path / "one"))
    arguments = flags(run, **changes, per_device_train_batch_size=4, output_dir=tmp_path / "two")
    in_two_processes(pretrain_command, arguments, tmp_path)
    assert json.loads((tmp_path / "two" / "training.json").read_text())["processes"] == 2
    assert_same_weights(tmp_path / "one", tmp_path / "two", rtol=1e-3, atol=1e-5)


def test_a_feature_cache_stands_for_the_pictures_of_every_source(run, phantom, nih, two_epochs, tmp_path):
    once = {"save_strategy": "no", **UNSEEN, "max_steps": 2}
    checkpoint, cache = two_epochs[0], tmp_path / "cache"
    options = {"checkpoint": checkpoint, "output_dir": cache}
    for data in (phantom, nih):
        cache_features.main(flags(options | {"data": json.dumps(data)}))
    frozen = {"checkpoint": checkpoint, "model_overrides": json.dumps({"freeze_vision_encoder": True})}
    losses = {
        name: pretrain(flags(run, **once | frozen | own | {"output_dir": tmp_path / name}))["eval_loss"]
        for name, own in {"pictures": {}, "cached": {"feature_cache": cache}}.items()
    }
    assert losses["cached"] == pytest.approx(losses["pictures"], rel=1e-2)
    shutil.rmtree(cache)
    cache_features.main(flags(options | {"data": json.dumps(phantom)}))
    with pytest.raises(ValueError, match=r"train_data\[1\] \(nih\): image 0000"):
        pretrain(flags(run, **once | frozen | {"feature_cache": cache, "output_dir": tmp_path / "lacking"}))


def test_an_unusable_record_is_named_or_left_out_of_its_source(run, phantom, nih, tmp_path):
    broken = tmp_path / "nih"
    shutil.copytree(nih["root"], broken)
    (broken / "00003_000.jpg").write_bytes((broken / "00003_000.jpg").read_bytes()[:1200])
    data = json.dumps([phantom, nih | {"root": str(broken)}])
    changes = {"max_steps": 1, "save_strategy": "no", "check": "full", **UNSEEN, "train_data": data}
    changes["output_dir"] = tmp_path / "out"
    with pytest.raises(ValueError, match=r"train_data\[1\] \(nih\): record 3 \(image 00003_000\)"):
        pretrain(flags(run, **changes))
    pretrain(flags(run, **changes, on_bad_record="skip"))
    summary = json.loads((tmp_path / "out" / "training.json").read_text())
    assert summary["skipped_records"]["train"] == 1 and summary["train_data"]["sources"]["nih"]["records"] == 9


@pytest.mark.parametrize("text", ["none", "labels"])
def test_sources_of_one_kind_alone_train(run, nih, text, tmp_path):
    changes = {"max_steps": 2, "save_strategy": "no", **UNSEEN, "output_dir": tmp_path}
    data = json.dumps([nih | {"text": text}])
    metrics = pretrain(flags(run, **changes | {"train_data": data, "validation_data": data, "records_per_epoch": 20}))
    assert np.isfinite(metrics["eval_loss"])


def test_egma_reads_a_mixture(run, tmp_path):
    overrides = {"vision_config": {"image_size": 64, "hidden_sizes": [16, 32], "depths": [1, 1]}}
    overrides |= {"text_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}}
    overrides |= {"projection_dim": 32, "pooled_text_layers": 1}
    changes = {"max_steps": 2, "save_strategy": "no", **UNSEEN, "output_dir": tmp_path, "model_family": "egma"}
    metrics = pretrain(flags(run, **changes | {"model_overrides": json.dumps(overrides)}))
    assert np.isfinite(metrics["eval_loss"])


def test_bad_entries_are_named(phantom, nih, shards, tmp_path):
    for weight in (-1, 0, True, "much", float("nan")):
        with pytest.raises(ValueError, match=r"train_data\[1\]: weight"):
            read_sources([phantom, nih | {"weight": weight}], "train_data", TEXTS)
    with pytest.raises(ValueError, match=r"train_data\[1\]: weight 'size' beside 2 of train_data\[0\]"):
        read_sources([phantom | {"weight": 2}, nih], "train_data", TEXTS)
    with pytest.raises(ValueError, match=r"train_data\[1\] \(nih\): its weight gives it less than one of 9 draws"):
        mixture([phantom | {"weight": 1000}, nih | {"weight": 1}], 9)
    with pytest.raises(ValueError, match=r"train_data\[0\]: text 'words' is none of"):
        read_sources([nih | {"text": "words"}], "train_data", TEXTS)
    with pytest.raises(ValueError, match=r"train_data\[0\] \(phantom\) and train_data\[1\] \(nih\): 'Pneumonia' is"):
        renamed = {"label_names": {"Pneumonia": "Infection"}}
        read_sources([phantom, nih | renamed], "train_data", TEXTS)
    with pytest.raises(ValueError, match=r"\[0\] \(nih\): its labels 'Mass' and 'Nodule' both become 'Lesion'"):
        read_sources([nih | {"label_names": {"Mass": "Lesion", "Nodule": "Lesion"}}], "train_data", TEXTS)
    with pytest.raises(ValueError, match=r"train_data\[0\] \(nih\): label_names renames 'gout'"):
        read_sources([nih | {"label_names": {"Gout": "Gout"}}], "train_data", TEXTS)
    (tmp_path / "val.txt").write_text("nobody\n")
    with pytest.raises(ValueError, match=r"train_data\[1\]: .*"):
        read_sources([phantom, nih | {"split": "val", "split_lists": str(tmp_path)}], "train_data", TEXTS)
    with pytest.raises(ValueError, match="train_data: .* is no list of mappings"):
        read_sources([], "train_data", TEXTS)


def test_shared_images_are_refused_or_left_out_and_counted(phantom, nih, shards):
    with pytest.raises(ValueError, match=r"train_data\[1\] \(nih2\): 10 of its images, such as 00000_000"):
        read_sources([nih, nih], "train_data", TEXTS)
    with pytest.raises(ValueError, match=r"all its images are in train_data\[0\]"):
        read_sources([nih, nih], "train_data", TEXTS, on_shared_images="exclude")
    half = phantom | {"size": 6}
    sources, lost = read_sources([half, phantom], "train_data", TEXTS, on_shared_images="exclude")
    assert lost == {"phantom": 0, "phantom2": len(sources[0])}
    assert not set(sources[0].dataset["image_id"]) & set(sources[1].dataset["image_id"])
    with pytest.raises(ValueError, match="tables alone"):
        read_sources([nih, shards], "train_data", TEXTS, on_shared_images="exclude")


def test_a_missing_report_is_no_part_of_the_loss(tiny_checkpoint, small_phantom):
    model = CoGazeForPreTraining.from_pretrained(tiny_checkpoint).eval()
    processor = CoGazeProcessor.from_pretrained(tiny_checkpoint)
    records = [dict(small_phantom[row]) | {"labels": [0, 1], "gaze": []} for row in range(4)]
    lacking = [dict(small_phantom[row]) | {"findings": "", "labels": [-2, -2], "gaze": []} for row in (4, 5)]
    collate = Collator(processor, reports_optional=True)
    with torch.no_grad():
        alone, joined = (model(**collate(own)) for own in (records, [lacking[0], *records, lacking[1]]))
        plain = model(**Collator(processor)(records))
    for part in ("loss_contrastive", "loss_classification"):
        torch.testing.assert_close(alone[part], joined[part])
        torch.testing.assert_close(alone[part], plain[part])
