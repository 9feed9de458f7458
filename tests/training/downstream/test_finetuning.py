"""Fine-tuning on pictures of two shapes: a bright square on one side, a dark bar across the other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import f1_score, roc_auc_score
from transformers import AutoModelForImageClassification, AutoModelForPreTraining, AutoProcessor, pipeline

from modeling_cogaze import EgmaConfig, EgmaForPreTraining
from processing import EgmaProcessor
from processing.tokenization import build_tokenizer
from tests import small
from tests.training.shapes import SIZES, picture, records
from training.downstream.training import finetune_classification, finetune_segmentation


@pytest.fixture(scope="module")
def data():
    return {split: records(split) for split in SIZES}


@pytest.fixture(autouse=True)
def shapes(data, monkeypatch):
    """What the names in `--train_data` and its like stand for; a test may put in others."""
    known = dict(data)
    monkeypatch.setattr("training.downstream.data.load_data", lambda spec, argument: known[json.loads(spec)["name"]])
    return known


def flags(output_dir, **changes) -> list[str]:
    flags = {
        "train_data": '{"name": "train"}',
        "validation_data": '{"name": "validation"}',
        "test_data": '{"name": "test"}',
        "labels": ["Mass", "Fracture"],
        "learning_rate": 3e-3,
        "head_learning_rate_factor": 1.0,
        "num_train_epochs": 6,
        "per_device_train_batch_size": 8,
        "bootstrap": 10,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
        "output_dir": output_dir,
    }
    parts = []
    for name, value in (flags | changes).items():
        if value is not None:
            parts += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return parts


def scratch(**overrides) -> dict:
    return {
        "from_scratch": True,
        "model_size": "tiny",
        "vocab_size": 300,
        "model_overrides": json.dumps(small.COGAZE | {"freeze_vision_encoder": False} | overrides),
    }


@pytest.fixture(scope="module")
def classified(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classified")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.downstream.data.load_data", lambda spec, argument: data[json.loads(spec)["name"]])
        summary = finetune_classification(flags(folder, seeds=2, label_fraction=0.9, **scratch()))
    return folder, summary


def test_classes_are_learnt_and_summed_up_over_seeds(classified):
    folder, summary = classified
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["labels"] == ["Mass", "Fracture"] and summary["test_positives"] == {"Mass": 12, "Fracture": 8}
    assert summary["images"] == SIZES and summary["patients"]["test"] == 12
    auroc = summary["scores"]["macro_auroc"]
    assert summary["scores"]["auroc/Mass"]["value"] > 0.85
    assert auroc["interval"][0] <= auroc["value"] <= auroc["interval"][1]
    runs = [run["macro_auroc"] for run in summary["seeds"]]
    assert auroc["value"] == pytest.approx(np.mean(runs)) and auroc["std"] == pytest.approx(np.std(runs, ddof=1))
    assert [run["seed"] for run in summary["seeds"]] == [0, 1]
    assert summary["seeds"][0]["train_patients"] == 22  # 0.9 of 24
    table = (folder / "table.md").read_text()
    assert f"| macro_auroc | {auroc['value']:.3f} [" in table and "24 images of 12 patients" in table


def test_scores_follow_from_the_kept_predictions_and_the_validations_thresholds(classified, data):
    folder, summary = classified
    kept = {name: value.numpy() for name, value in load_file(folder / "seed-0" / "test.safetensors").items()}
    truth = np.isin(np.array(data["test"]["labels"])[:, :2], (1, 2))
    np.testing.assert_array_equal(kept["references"] > 0, truth)
    run = summary["seeds"][0]
    for column, name in enumerate(("Mass", "Fracture")):
        score = kept["predictions"][:, column]
        assert run[f"auroc/{name}"] == pytest.approx(roc_auc_score(truth[:, column], score))
        assert run[f"f1/{name}"] == pytest.approx(f1_score(truth[:, column], score >= run["thresholds"][name]))


def test_a_runs_folder_opens_in_the_stock_pipeline(classified, data):
    folder, _ = classified
    kept = load_file(folder / "seed-0" / "test.safetensors")["predictions"]
    classify = pipeline("image-classification", model=str(folder / "seed-0"))
    model, processor = classify.model, AutoProcessor.from_pretrained(folder / "seed-0")
    batch = processor.collate([data["test"][0] | {"labels": [], "gaze": [], "findings": ""}])
    inputs = {name: value for name, value in batch.items() if name.startswith(("pixel", "view", "context"))}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits.sigmoid()[0], kept[0], atol=1e-5, rtol=0)
    scores = {each["label"]: each["score"] for each in classify(data["test"][0]["image"])}
    expected = model(inputs["pixel_values"]).logits.sigmoid()[0].tolist()
    assert [scores["Mass"], scores["Fracture"]] == pytest.approx(expected, abs=1e-5)


def test_finished_runs_are_kept_and_others_are_not_mixed_in(classified, tmp_path):
    folder, summary = classified
    shutil.copytree(folder, tmp_path / "again")
    (tmp_path / "again" / "metrics.json").unlink()
    shutil.rmtree(tmp_path / "again" / "seed-1" / "checkpoint-0", ignore_errors=True)
    again = flags(tmp_path / "again", seeds=2, label_fraction=0.9, resume_from_checkpoint=True, **scratch())
    assert finetune_classification(again)["scores"] == summary["scores"]
    with pytest.raises(ValueError, match="learning_rate = 0.003, now it is 0.1"):
        finetune_classification([*again, "--learning_rate", "0.1"])


def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path):
    whole = finetune_classification(flags(tmp_path / "whole", num_train_epochs=2, save_total_limit=5, **scratch()))
    checkpoints = sorted((tmp_path / "whole" / "seed-0").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    shutil.copytree(checkpoints[0], tmp_path / "part" / "seed-0" / checkpoints[0].name)
    resumed = flags(tmp_path / "part", num_train_epochs=2, save_total_limit=5, resume_from_checkpoint=True, **scratch())
    assert finetune_classification(resumed)["scores"] == whole["scores"]


def test_a_run_that_was_cut_off_does_not_go_on_with_other_settings(classified, tmp_path):
    folder, _ = classified
    shutil.copytree(folder / "seed-0", tmp_path / "seed-0")
    (tmp_path / "seed-0" / "metrics.json").unlink()
    again = flags(tmp_path, label_fraction=0.9, **scratch())
    with pytest.raises(ValueError, match="seed-0 holds checkpoints of an earlier run"):
        finetune_classification(again)
    with pytest.raises(ValueError, match="was made with label_fraction = 0.9, now it is 0.5"):
        finetune_classification([*again, "--label_fraction", "0.5", "--resume_from_checkpoint", "True"])


def test_a_linear_probe_leaves_the_checkpoints_encoder_as_it_was(tiny_checkpoint, tmp_path):
    probe = {"checkpoint": tiny_checkpoint, "linear_probe": True, "num_train_epochs": 1, "weight_decay": 0.1}
    summary = finetune_classification(flags(tmp_path, **probe))
    before, after = (
        load_file(Path(tiny_checkpoint) / "model.safetensors"),
        load_file(tmp_path / "seed-0/model.safetensors"),
    )
    shared = {name for name in before if name.startswith("cogaze.")}
    assert shared and all(after[name].equal(before[name]) for name in shared)
    assert summary["seeds"][0]["trained_parameters"] == 32 * 2 + 2


def test_without_a_step_the_disease_head_classifies(tiny_checkpoint, data, tmp_path):
    start = {"checkpoint": tiny_checkpoint, "init_from_disease_head": True, "learning_rate": 0.0, "num_train_epochs": 1}
    finetune_classification(flags(tmp_path, labels=["Fracture"], no_context=True, **start))
    kept = load_file(tmp_path / "seed-0" / "test.safetensors")["predictions"]
    model, processor = (
        AutoModelForPreTraining.from_pretrained(tiny_checkpoint).eval(),
        AutoProcessor.from_pretrained(tiny_checkpoint),
    )
    batch = processor(images=data["test"]["image"][:4], view_position=["PA"] * 4)
    with torch.no_grad():
        expected = model(batch["pixel_values"], batch["view_position_ids"]).vision_logits[:, 0].sigmoid()
    torch.testing.assert_close(kept[:4, 0], expected, atol=1e-5, rtol=0)


def test_random_weights_in_the_checkpoints_shape(tiny_checkpoint, tmp_path):
    finetune_classification(flags(tmp_path, checkpoint=tiny_checkpoint, from_scratch=True, num_train_epochs=1))
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "seed-0")
    assert model.config.num_latents == 4 and model.config.id2label == {0: "Mass", 1: "Fracture"}
    assert model.config.examples_per_class == [24, 16]


@pytest.mark.parametrize("linear_probe", [False, True])
def test_random_weights_are_trained_as_a_whole_though_the_checkpoint_freezes_its_image_encoder(
    tiny_checkpoint, tmp_path, linear_probe
):
    frozen = tmp_path / "frozen"
    shutil.copytree(tiny_checkpoint, frozen)
    config = json.loads((frozen / "config.json").read_text()) | {"freeze_vision_encoder": True}
    (frozen / "config.json").write_text(json.dumps(config))
    start = {"checkpoint": frozen, "from_scratch": True, "num_train_epochs": 1, "linear_probe": linear_probe}
    (run,) = finetune_classification(flags(tmp_path / "run", **start))["seeds"]
    head = 32 * 2 + 2
    assert run["trained_parameters"] == head if linear_probe else run["trained_parameters"] > 0.9 * run["parameters"]


def test_a_timm_model_takes_the_same_pixels(tmp_path):
    summary = finetune_classification(
        flags(tmp_path, timm_model="test_resnet", num_train_epochs=1, crop=0.9, **scratch())
    )
    assert 0 <= summary["scores"]["macro_auroc"]["value"] <= 1
    assert summary["seeds"][0]["parameters"] < 1e6


@pytest.fixture(scope="module")
def segmented(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmented")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.downstream.data.load_data", lambda spec, argument: data[json.loads(spec)["name"]])
        summary = finetune_segmentation(flags(folder, num_train_epochs=10, crop=0.9, **scratch()))
    return folder, summary


def test_masks_and_boxes_are_learnt_finding_by_finding(segmented):
    folder, summary = segmented
    metrics = {name: metric["value"] for name, metric in summary["scores"].items()}
    assert metrics["dice_lesion/Mass"] > 0.6 and metrics["dice_lesion"] > 0.4
    assert metrics["dice_lesion"] == pytest.approx(np.mean([metrics[f"dice_lesion/{n}"] for n in ("Mass", "Fracture")]))
    kept = load_file(folder / "seed-0" / "test.safetensors")
    assert kept["references"][0].tolist() == [400, 288] and (kept["references"][1::2, 0] == 0).all()


def test_without_labels_all_regions_are_one_lesion(tiny_checkpoint, tmp_path):
    summary = finetune_segmentation(
        flags(tmp_path, labels=None, checkpoint=tiny_checkpoint, num_train_epochs=1, linear_probe=True)
    )
    assert summary["labels"] == ["lesion"] and summary["test_positives"] == {"lesion": 16}
    kept = load_file(tmp_path / "seed-0" / "test.safetensors")
    assert kept["references"][:3, 0].tolist() == [688, 0, 400]


def test_egma_is_fine_tuned_by_the_same_scripts(tmp_path):
    torch.manual_seed(0)
    config = EgmaConfig.tiny(vocab_size=300, projection_dim=32, pooled_text_layers=1, **small.ENCODERS)
    EgmaForPreTraining(config).save_pretrained(tmp_path / "egma")
    EgmaProcessor.for_model(build_tokenizer(["cough"], 300), config).save_pretrained(tmp_path / "egma")
    for name, script in (("classes", finetune_classification), ("masks", finetune_segmentation)):
        run = flags(tmp_path / name, checkpoint=tmp_path / "egma", num_train_epochs=1)
        assert script(run)["labels"] == ["Mass", "Fracture"]


def test_validation_comes_from_trains_patients_where_none_is_given(tmp_path):
    run = flags(tmp_path, validation_data=None, validation_fraction=0.25, num_train_epochs=1, **scratch())
    summary = finetune_classification(run)
    assert summary["patients"] == {"train": 18, "test": 12, "validation": 6}
    assert summary["images"]["train"] == 36


def test_classes_that_a_split_lacks_are_named(shapes, tmp_path):
    everything = flags(tmp_path, labels=None, num_train_epochs=1, **scratch())
    with pytest.raises(ValueError, match="train_data: 'Hernia' has 0 positives and 48 negatives"):
        finetune_classification(everything)
    summary = finetune_classification([*everything, "--on_missing_class", "skip"])
    assert summary["labels"] == ["Mass", "Fracture"]
    assert summary["left_out"]["train"] == {"Hernia": "0 positives and 48 negatives"}
    assert "Left out of train: Hernia, 0 positives" in (tmp_path / "table.md").read_text()
    shapes["test"] = records("test", labels=lambda index: [1, 0, 0])
    with pytest.raises(ValueError, match="test_data: 'Mass' has 24 positives and 0 negatives; 'Fracture' has 0 pos"):
        finetune_classification(flags(tmp_path, **scratch()))
    with pytest.raises(ValueError, match="test_data: it has no class"):
        finetune_classification([*flags(tmp_path, **scratch()), "--on_missing_class", "skip"])
    shapes["test"] = records("test", regions=lambda index: [])
    with pytest.raises(ValueError, match="test_data: 'Mass' has 0 positives and 24 negatives"):
        finetune_segmentation(flags(tmp_path, **scratch()))


def test_masks_name_a_class_that_training_lacks(shapes, tmp_path):
    own = shapes["train"]
    without = [[region for region in regions if region["label"] == "Mass"] for regions in own["regions"]]
    shapes["train"] = records("train", regions=lambda index: without[index])
    with pytest.raises(ValueError, match="train_data: 'Fracture' has 0 positives and 48 negatives"):
        finetune_segmentation(flags(tmp_path, **scratch()))
    run = flags(tmp_path, num_train_epochs=1, on_missing_class="skip", **scratch())
    assert finetune_segmentation(run)["labels"] == ["Mass"]


def test_a_class_that_no_validation_image_shows_has_no_f1(shapes, tmp_path):
    shapes["validation"] = records("validation", labels=lambda index: [int(index % 2 == 0), 0, 0])
    run = flags(tmp_path, num_train_epochs=1, on_missing_class="skip", **scratch())
    summary = finetune_classification(run)
    assert summary["left_out"]["validation"] == {"Fracture": "0 positives and 16 negatives"}
    metrics = {name: metric["value"] for name, metric in summary["scores"].items()}
    assert {"auroc/Mass", "auroc/Fracture", "f1/Mass"} < metrics.keys() and "f1/Fracture" not in metrics
    assert metrics["macro_f1"] == metrics["f1/Mass"]


def test_a_class_whose_records_are_all_unusable_is_named(shapes, tmp_path):
    shapes["train"] = records("train", view_position=lambda index: "PA" if index % 3 else "UPSIDE DOWN")
    with pytest.raises(ValueError, match="train_data: of the usable records, 'Fracture' has 0 positives and 32 neg"):
        finetune_classification(flags(tmp_path, on_bad_record="skip", **scratch()))


def test_a_share_that_leaves_a_class_empty_is_refused(shapes, tmp_path):
    shapes["train"] = records("train", labels=lambda index: [int(index < 8), int(index >= 24), 0])
    with pytest.raises(
        ValueError, match=r"label_fraction: 0.02 leaves 1 patients; of their images, .*'Fracture' has 0 pos"
    ):
        finetune_classification(flags(tmp_path, label_fraction=0.02, **scratch()))


def test_masks_of_another_size_are_refused_before_the_first_step(shapes, tmp_path):
    narrow = {"label": "Mass", "box": [0.0, 0.0, 1.0, 1.0], "mask": Image.new("L", (64, 32), 255), "sentence": -1}
    shapes["train"] = records("train", regions=lambda index: [narrow] if index == 5 else picture(index, True, True)[1])
    with pytest.raises(ValueError, match=r"record 5 \(image i5\): .*mask of 'Mass' has 64 x 32 pixels"):
        finetune_segmentation(flags(tmp_path, **scratch()))
    summary = finetune_segmentation(flags(tmp_path, on_bad_record="skip", num_train_epochs=1, **scratch()))
    assert summary["images"]["train"] == 47


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["Edema"]}, "labels: 'Edema' is none of the data set's: Mass, Fracture, Hernia"),
        ({"test_data": '{"name": "train"}'}, "test: patient p0 is in train|test: patient .* is in train"),
        ({"seeds": 0}, "seeds: 0"),
        ({"from_scratch": False}, "checkpoint: give"),
        ({"validation_data": None, "validation_fraction": 0.999}, "leaves nothing to train on"),
        ({"validation_data": None, "validation_fraction": 1.0}, "validation_fraction: 1 is not between 0 and 1"),
        ({"label_fraction": 0.0}, "label_fraction: 0 is not above 0"),
        ({"label_fraction": 1.5}, "label_fraction: 1.5 is not above 0 and at most 1"),
        ({"init_from_disease_head": True}, "init_from_disease_head"),
        ({"timm_model": "test_resnet", "linear_probe": True}, "timm_model"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        finetune_classification(flags(tmp_path, **scratch() | changes))


def test_data_sets_of_other_labels_are_refused(shapes, tmp_path):
    shapes["test"] = records("test", names=["Mass", "Hernia", "Fracture"])
    with pytest.raises(ValueError, match="test_data: its label names differ"):
        finetune_classification(flags(tmp_path, **scratch()))
