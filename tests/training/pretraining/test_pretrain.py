import json
import shutil

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from processing.datasets.phantom.loading import load_phantom
from tests.training.training_runs import assert_same_weights, flags, in_two_processes, weights
from training import pretrain as pretrain_command
from training.pretraining.training import pretrain


@pytest.fixture(scope="module")
def two_epochs(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_epochs")
    changes = {"num_train_epochs": 2, "crop": 0.8, "context_dropout": 0.5, "output_dir": folder}
    pretrain(flags(tiny_run, **changes))
    return folder, changes


def test_best_and_last_checkpoint_are_kept(two_epochs):
    folder, _ = two_epochs
    assert len(list(folder.glob("checkpoint-*"))) == 2
    summary = json.loads((folder / "training.json").read_text())
    assert summary["skipped_records"] == {"train": 0, "validation": 0}
    assert summary["train_data"] == {"source": "phantom", "split": "train", "records": summary["train_records"]}
    assert summary["train_runtime"] > 0 and summary["machine"]["cores"] > 0 and summary["pretrained"] == []


def test_checkpoint_opens_through_auto_classes(two_epochs, small_phantom):
    folder, _ = two_epochs
    model = AutoModel.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    batch = processor.collate([small_phantom[0], small_phantom[1]])
    with torch.no_grad():
        embeds = model.get_image_features(batch["pixel_values"]).pooler_output
    assert embeds.shape == (2, 32)
    assert embeds.isfinite().all()


def test_resumed_run_continues_bit_for_bit(two_epochs, tiny_run, tmp_path):
    folder, changes = two_epochs
    first, last = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.copytree(first, tmp_path / first.name)
    resumed = changes | {"output_dir": tmp_path, "resume_from_checkpoint": tmp_path / first.name}
    pretrain(flags(tiny_run, **resumed))
    assert_same_weights(last, tmp_path / last.name)


def test_two_processes_step_as_one_with_twice_the_batch(tiny_run, tmp_path):
    step = {
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 0.1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": "False",
        "max_grad_norm": 0,
    }
    two = flags(tiny_run, **step, output_dir=tmp_path / "two", per_device_train_batch_size=3)
    in_two_processes(pretrain_command, two, tmp_path)
    assert json.loads((tmp_path / "two" / "training.json").read_text())["processes"] == 2
    pretrain(flags(tiny_run, **step, output_dir=tmp_path / "one", per_device_train_batch_size=6))
    assert_same_weights(tmp_path / "one", tmp_path / "two", rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "ablation",
    [
        {"gaze_loss": "none", "no_classification": "True"},
        {"gaze_fraction": "0", "no_context": "True", "single_positive": "True"},
        {"gaze_loss": "mask"},
    ],
)
def test_ablations_train(tiny_run, tmp_path, ablation):
    metrics = pretrain(flags(tiny_run, **ablation, num_train_epochs=1, output_dir=tmp_path))
    assert metrics["eval_loss"] > 0


def test_unknown_key_of_a_config_is_named(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("train_dta: {name: phantom}\n")
    with pytest.raises(ValueError, match="train_dta"):
        pretrain(["--config", str(config), "--output_dir", str(tmp_path)])


def test_bad_record_stops_before_the_first_step_or_is_skipped(tiny_run, tmp_path, monkeypatch):
    def with_bad_record(spec, argument):
        dataset = load_phantom("train", 12, image_size=64, num_proc=1, cache_dir=json.loads(spec)["cache_dir"])
        return dataset.map(
            lambda record, index: record | ({"view_position": "SIDEWAYS"} if index == 2 else {}), with_indices=True
        )

    monkeypatch.setattr("training.pretraining.training.load_data", with_bad_record)
    with pytest.raises(ValueError, match=r"record 2 \(image .*SIDEWAYS"):
        pretrain(flags(tiny_run, num_train_epochs=1, output_dir=tmp_path))
    pretrain(flags(tiny_run, num_train_epochs=1, output_dir=tmp_path, on_bad_record="skip"))
    assert json.loads((tmp_path / "training.json").read_text())["skipped_records"] == {"train": 1, "validation": 1}


def test_learning_rate_factor_zero_leaves_the_image_encoder_as_it_was(tiny_run, tmp_path):
    pretrain(flags(tiny_run, num_train_epochs=1, learning_rate=0, output_dir=tmp_path / "initial"))
    factors = json.dumps({"cogaze.vision_model": 0.0})
    pretrain(flags(tiny_run, num_train_epochs=1, learning_rate_factors=factors, output_dir=tmp_path / "trained"))
    initial, trained = weights(tmp_path / "initial"), weights(tmp_path / "trained")
    same = {name for name, value in initial.items() if torch.equal(value, trained[name])}
    vision = {name for name in initial if name.startswith("cogaze.vision_model")}
    assert vision <= same
    assert any(name.startswith("cogaze.perceiver") for name in initial.keys() - same)
    with pytest.raises(ValueError, match="learning_rate_factors: no parameter"):
        pretrain(flags(tiny_run, learning_rate_factors='{"decoder": 10}', output_dir=tmp_path))
