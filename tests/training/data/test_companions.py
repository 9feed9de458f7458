"""Companions dropped at random, left out, cached."""

import json

import pytest
import torch

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.comparisons import comparisons, without_comparisons
from processing.datasets.phantom.loading import load_phantom
from processing.tokenization import build_tokenizer
from tests.small import COGAZE
from tests.training.training_runs import flags
from training import cache_features
from training.data.augmentation import AlignedAugmentation
from training.data.changes import CHANGE_LABELS
from training.data.collation import Collator, Preparation
from training.data.feature_cache import FeatureCache
from training.pretraining.training import pretrain


@pytest.fixture(scope="module")
def data(phantom_cache):
    options = {"size": 8, "image_size": 64, "num_proc": 1, "cache_dir": phantom_cache}
    return load_phantom("train", priors=True, views=True, **options)


@pytest.fixture(scope="module")
def processor():
    config = CoGazeConfig.tiny(vocab_size=400, use_views=True, use_priors=True, max_companions=3, **COGAZE)
    return CoGazeProcessor.for_model(build_tokenizer(["Clear lungs."] * 9, 400, prior=True), config)


def later(data) -> dict:
    return next(record for record in data if {c["role"] for c in record["companions"]} == {"view", "prior"})


def test_without_the_prior_nothing_is_said_of_it(data):
    record = next(record for record in data if record["prior_findings"] and comparisons(record["findings"]))
    roles = {each["role"] for each in record["companions"]}
    left = Preparation(use_priors=False)(record)
    assert {each["role"] for each in left["companions"]} == roles - {"prior"}
    assert left["findings"] == without_comparisons(record["findings"]) and left["prior_findings"] == ""
    assert left["changes"] == [] and left["labels"] == record["labels"]
    rest = Preparation(use_views=False)(record)
    assert {each["role"] for each in rest["companions"]} == {"prior"} and rest["findings"] == record["findings"]
    assert Preparation()(record) == record


def test_companions_are_dropped_at_random(data, processor):
    torch.manual_seed(0)
    record = later(data)
    batch = Collator(processor, companion_dropout=0.4)([record] * 40)
    roles = torch.zeros(40, 2).index_put((batch["companion_index"], batch["companion_role_ids"]), torch.tensor(1.0))
    assert 0.35 < roles.mean() < 0.85 and len({tuple(row) for row in roles.tolist()}) == 4
    assert len(Collator(processor)([record] * 5)["companion_index"]) == 5 * len(record["companions"])


def test_companions_are_cropped_each_for_itself(data):
    record = later(data)
    torch.manual_seed(0)
    cropped = AlignedAugmentation(crop=0.6).record(record)
    for own, other in zip(record["companions"], cropped["companions"], strict=True):
        assert own["image"].size == other["image"].size and own["image"].tobytes() != other["image"].tobytes()


def test_cached_features_bring_companions(data, processor, tmp_path, phantom_cache):
    torch.manual_seed(0)
    config = CoGazeConfig.tiny(
        vocab_size=400, use_views=True, use_priors=True, max_companions=3, freeze_vision_encoder=True, **COGAZE
    )
    model = CoGazeForPreTraining(config).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    spec = {"name": "phantom", "size": 8, "image_size": 64, "num_proc": 1, "cache_dir": str(phantom_cache)}
    spec = json.dumps(spec | {"priors": True, "views": True})
    cache_features.main(flags({"checkpoint": tmp_path / "checkpoint", "data": spec, "output_dir": tmp_path / "cache"}))
    cache = FeatureCache(tmp_path / "cache")
    attached = cache.attach(data, "data")
    assert isinstance(attached[0]["companions"], list)
    pictures = Collator(processor, model=model)([data[i] for i in range(6)])
    features = Collator(processor, model=model, feature_cache=cache)([attached[i] for i in range(6)])
    assert "companion_vision_features" in features and "companion_pixel_values" not in features
    with torch.no_grad():
        found, expected = model(**features).image_embeds, model(**pictures).image_embeds
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)


@pytest.mark.slow
def test_pretraining_reads_companions_and_learns_changes(tiny_run, data, phantom_cache, tmp_path):
    spec = {"name": "phantom", "size": 8, "image_size": 64, "num_proc": 1, "cache_dir": str(phantom_cache)}
    spec |= {"split": "train", "priors": True, "views": True}
    overrides = json.loads(tiny_run["model_overrides"]) | {"use_views": True, "use_priors": True, "max_companions": 3}
    run = tiny_run | {
        "train_data": json.dumps(spec),
        "validation_data": json.dumps(spec),
        "model_overrides": json.dumps(overrides),
        "change_labels": True,
        "companion_dropout": 0.3,
        "max_steps": 2,
        "crop": 0.9,
    }
    metrics = pretrain(flags(run, output_dir=tmp_path))
    assert metrics["eval_loss"] > 0
    model = CoGazeForPreTraining.from_pretrained(tmp_path)
    assert model.config.label_names[-len(CHANGE_LABELS) :] == CHANGE_LABELS
    assert model.config.positives_per_class[14:] != [0] * len(CHANGE_LABELS)
