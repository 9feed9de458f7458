import json
import os
import shutil

import pytest
import torch
from datasets import Image
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTModel

from modeling_cogaze import CoGazeForPreTraining, CoGazeModel
from processing import CoGazeProcessor
from processing.datasets.storage.shards import write_shards
from tests.training.training_runs import flags, in_two_processes
from training import cache_features
from training.data import feature_cache
from training.data.collation import Collator
from training.data.feature_cache import INDEX, FeatureCache, encoder_fingerprint, finished, quantise, write_shard
from training.pretraining.training import pretrain

FROZEN = json.dumps({"freeze_vision_encoder": True})


@pytest.fixture(scope="module")
def checkpoint(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    pretrain(flags(tiny_run, max_steps=1, output_dir=folder))
    return folder


@pytest.fixture(scope="module", params=["bf16", "int8"])
def cache(request, checkpoint, tiny_run, small_phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    made = build(checkpoint, tiny_run, folder, dtype=request.param, max_shard="3KB", batch_size=5)
    assert made == {"images": len(small_phantom), "new": len(small_phantom)}
    return folder


def build(checkpoint, tiny_run, out, **options):
    return cache_features.main(
        flags({"checkpoint": checkpoint, "data": tiny_run["train_data"], "output_dir": out} | options)
    )


def train(tiny_run, checkpoint, cache, out, **changes):
    options = {"checkpoint": checkpoint, "model_overrides": FROZEN, "feature_cache": cache, "output_dir": out}
    return pretrain(flags(tiny_run, **options | {"max_steps": 2} | changes))


def test_the_loss_is_that_of_the_pictures(cache, checkpoint, small_phantom):
    model = CoGazeForPreTraining.from_pretrained(checkpoint, freeze_vision_encoder=True).eval()
    processor = CoGazeProcessor.from_pretrained(checkpoint)
    records = [small_phantom[row] for row in range(6)]
    read = FeatureCache(cache)
    pictures = Collator(processor)(records)
    features = Collator(processor, feature_cache=read)(
        [{name: value for name, value in record.items() if name != "image"} for record in records]
    )
    assert pictures.keys() - features.keys() == {"pixel_values"}
    torch.testing.assert_close(features["gaze_targets"], pictures["gaze_targets"])
    with torch.no_grad():
        expected = model(**pictures)
        for parameter in model.cogaze.vision_model.parameters():
            parameter.fill_(torch.nan)
        found = model(**features)
    for name in ("loss", "loss_contrastive", "loss_classification", "loss_gaze"):
        assert abs(found[name] - expected[name]) < 1e-2, name
    tokens = features["vision_features"].shape[1:]
    assert list(tokens) == read.facts["shape"]


def test_shards_are_several_and_every_image_has_its_row(cache, small_phantom):
    read = FeatureCache(cache)
    assert len(list(cache.glob("features-*.safetensors"))) > 1 and not list(cache.glob(".*"))
    assert sorted(read.images) == sorted(small_phantom["image_id"])
    assert {tuple(size) for _, _, size in read.images.values()} == {image.size for image in small_phantom["image"]}


def test_an_interrupted_cache_goes_on(cache, checkpoint, tiny_run, small_phantom, tmp_path):
    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
    lost = sorted(tmp_path.glob("features-*.safetensors"))[1]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("features-*") if path != lost}
    content = load_file(lost)
    lost.unlink()
    dtype = FeatureCache(tmp_path).facts["dtype"]
    made = build(checkpoint, tiny_run, tmp_path, dtype=dtype, max_shard="3KB", batch_size=5)
    assert made == {"images": len(small_phantom), "new": len(content["tokens"])}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    torch.testing.assert_close(load_file(lost)["tokens"], content["tokens"], rtol=1e-2, atol=1)


def test_pretraining_reads_no_picture_and_runs_no_encoder(cache, checkpoint, tiny_run, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("not to be called")

    monkeypatch.setattr(Image, "decode_example", refuse)
    monkeypatch.setattr(CoGazeModel, "run_vision_encoder", refuse)
    assert train(tiny_run, checkpoint, cache, tmp_path)["eval_loss"] > 0


def test_a_cache_goes_with_shards(checkpoint, tiny_run, small_phantom, tmp_path):
    write_shards(small_phantom, tmp_path / "shards")
    build(checkpoint, tiny_run, tmp_path / "cache")
    data = json.dumps({"name": "shards", "root": str(tmp_path / "shards")})
    options = {"train_data": data, "validation_data": data}
    assert train(tiny_run, checkpoint, tmp_path / "cache", tmp_path / "out", **options)["eval_loss"] > 0


def test_processes_share_the_images(checkpoint, tiny_run, small_phantom, tmp_path):
    options = {"checkpoint": checkpoint, "data": tiny_run["train_data"], "output_dir": tmp_path / "cache"}
    in_two_processes(cache_features, flags(options), tmp_path)
    read = FeatureCache(tmp_path / "cache")
    assert sorted(read.images) == sorted(small_phantom["image_id"])
    assert {shard.split("-")[1] for shard, _, _ in read.images.values()} == {"000", "001"}


def test_other_encoder_or_picture_settings_are_refused(cache, checkpoint, tiny_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if "vision_model" in name and name.endswith("convolution.weight"))
    save_file(weights | {name: weights[name] + 0.01}, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="was made by the vision encoder"):
        train(tiny_run, other, cache, tmp_path / "out")
    with pytest.raises(ValueError, match="give an empty folder"):
        build(other, tiny_run, cache, dtype=FeatureCache(cache).facts["dtype"])
    read = FeatureCache(cache)
    processor = CoGazeProcessor.from_pretrained(checkpoint).image_processor
    processor.image_mean = [0.1] * 3
    with pytest.raises(ValueError, match="image processor"):
        read.check(CoGazeForPreTraining.from_pretrained(checkpoint).cogaze.vision_model, processor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_overrides": "{}"}, "only a frozen one"),
        ({"crop": 0.8}, "pictures are not read"),
        ({"autocontrast": 0.5}, "pictures are not read"),
        ({"feature_cache": "nowhere"}, "holds no index.json"),
    ],
)
def test_what_cannot_go_with_a_cache_is_refused(cache, checkpoint, tiny_run, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_run, checkpoint, cache, tmp_path, **changes)


def test_a_missing_image_is_named(cache, checkpoint, tiny_run, tmp_path):
    shutil.copytree(cache, tmp_path / "cache")
    index = tmp_path / "cache" / INDEX
    known = json.loads(index.read_text())
    lost = next(iter(known["images"]))
    del known["images"][lost]
    index.write_text(json.dumps(known))
    with pytest.raises(ValueError, match=f"train_data: image {lost} and 0 more are not in the feature cache"):
        train(tiny_run, checkpoint, index.parent, tmp_path / "out")


def test_features_need_a_frozen_encoder_of_the_same_grid(checkpoint):
    model = CoGazeForPreTraining.from_pretrained(checkpoint, freeze_vision_encoder=True).cogaze
    with pytest.raises(ValueError, match="give one of them"):
        model()
    with pytest.raises(ValueError, match="7 tokens"):
        model(vision_features=torch.zeros(1, 7, 32))
    model.config.freeze_vision_encoder = False
    with pytest.raises(ValueError, match="freeze it"):
        model(vision_features=torch.zeros(1, 17, 32))


def test_int8_is_off_by_half_a_scale():
    tokens = torch.randn(3, 5, 64) * torch.tensor([1e-3, 1.0, 50.0])[:, None, None]
    stored, scale = quantise(tokens)
    assert ((stored.float() * scale[..., None] - tokens).abs() <= scale[..., None] * 0.501).all()


def test_the_fingerprint_knows_the_config_and_the_weights():
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32)
    encoder = ViTModel(config)
    first = encoder_fingerprint(encoder)
    assert encoder_fingerprint(encoder.to(torch.float64)) == first
    for name, value in {"layer_norm_eps": 1e-3, "hidden_act": "relu"}.items():
        other = ViTModel(ViTConfig(**config.to_dict() | {name: value}))
        other.load_state_dict(encoder.state_dict())
        assert encoder_fingerprint(other) != first, name
    encoder.config.architectures, encoder.config.transformers_version = ["Other"], "0.0"
    assert encoder_fingerprint(encoder) == first
    with torch.no_grad():
        encoder.layernorm.bias += 1
    assert encoder_fingerprint(encoder) != first


def test_processes_neither_write_one_temporary_file_nor_share_an_open_shard(tmp_path, monkeypatch):
    path, tokens, names = tmp_path / "features-000-000.safetensors", torch.randn(2, 3, 4), []

    def write(process, dtype):
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: process)
            write_shard(path, tokens, [("a", (5, 6)), ("b", (7, 8))], dtype, {"dtype": dtype})

    def interrupted(tensors, temporary, metadata):
        names.append(temporary)
        if len(names) == 1:
            write(2, "int8")
            # What the other process wrote meanwhile is whole and stands under the shard's own name.
            assert finished(tmp_path, {"dtype": "int8"}).keys() == {"a", "b"}
        save_file(tensors, temporary, metadata=metadata)

    monkeypatch.setattr(feature_cache, "save_file", interrupted)
    write(1, "bf16")
    assert len(set(names)) == 2 and not list(tmp_path.glob(".*"))
    assert finished(tmp_path, {"dtype": "bf16"}) == {"a": [path.name, 0, [5, 6]], "b": [path.name, 1, [7, 8]]}

    opened = [feature_cache._read(str(path), 1)]
    before = feature_cache._opened.cache_info().misses
    opened.append(feature_cache._read(str(path), 1))
    assert feature_cache._opened.cache_info().misses == before
    monkeypatch.setattr(os, "getpid", lambda: 3)
    opened.append(feature_cache._read(str(path), 1))
    assert feature_cache._opened.cache_info().misses == before + 1
    assert all(torch.equal(each, tokens[1].to(torch.bfloat16)) for each in opened)
