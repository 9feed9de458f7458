"""Checkpoints open without this package, and in the stock pipelines."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForZeroShotImageClassification, BitImageProcessor, pipeline

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining
from processing.tokenization import build_tokenizer

SMALL = {"vocab_size": 300, "vision_config": {"image_size": 64}}

# Blocks the package, so that an installed one does not count.
CHILD = """
import sys
sys.modules["modeling_cogaze"] = None
import torch, transformers
from safetensors.torch import load_file, save_file

folder, inputs, results, again = sys.argv[1:]
inputs = load_file(inputs)
outputs = {}
for source in (folder, again):
    for name in sys.stdin.readline().split():
        auto = getattr(transformers, name)
        loaded = auto.from_pretrained(source, trust_remote_code=True)
        if name == "AutoConfig":
            continue
        assert type(loaded).__module__.startswith("transformers_modules."), type(loaded).__module__
        assert isinstance(loaded.config, sys.modules[type(loaded).__module__].CoGazeConfig)
        own = {"input_ids": inputs["report_input_ids"], "pixel_values": inputs["pixel_values"]}
        own = own if "ZeroShot" in name else inputs
        own = own | {"labels": inputs["report_input_ids"]} if "TextToText" in name else own
        with torch.no_grad():
            result = loaded.eval()(**own)
        if "logits_per_image" in result:
            outputs[f"{source}-{name}"] = result.logits_per_image.contiguous()
        else:  # a downstream head or decoder, which the checkpoint lacks
            assert result.logits.isfinite().all(), name
        if name == "AutoModelForPreTraining" and source == folder:
            loaded.save_pretrained(again)
save_file(outputs, results)
"""


def test_every_auto_class_opens_a_checkpoint_without_the_package(tmp_path):
    folder, again = tmp_path / "first", tmp_path / "again"
    torch.manual_seed(0)
    decoder = {"model_type": "gpt2", "vocab_size": 300, "n_embd": 128, "n_layer": 1, "n_head": 2}
    config = CoGazeConfig.tiny(**SMALL, decoder_config=decoder | {"add_cross_attention": True, "pad_token_id": 0})
    model = CoGazeForPreTraining(config).eval()
    model.save_pretrained(folder)
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64), "report_input_ids": torch.randint(0, 300, (2, 6))}
    save_file(inputs, tmp_path / "inputs.safetensors")
    auto_classes = json.loads((folder / "config.json").read_text())["auto_map"]
    assert set(auto_classes) == set(CoGazeConfig.auto_classes)
    names = " ".join(sorted(auto_classes)) + "\n"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, folder, tmp_path / "inputs.safetensors", tmp_path / "results", again],
        input=names * 2,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        expected = model(**inputs).logits_per_image
    results = load_file(tmp_path / "results")
    assert len(results) == 2 * len({"AutoModel", "AutoModelForPreTraining", "AutoModelForZeroShotImageClassification"})
    for value in results.values():
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def zero_shot_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero_shot")
    tokenizer = build_tokenizer(["pneumonia with consolidation", "no acute cardiopulmonary process"], 300)
    torch.manual_seed(0)
    config = CoGazeConfig.tiny(**SMALL | {"vocab_size": len(tokenizer)})
    CoGazeForPreTraining(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    BitImageProcessor(size={"shortest_edge": 64}, crop_size=size).save_pretrained(folder)
    return folder


def test_the_zero_shot_pipeline(zero_shot_folder):
    classify = pipeline("zero-shot-image-classification", model=str(zero_shot_folder))
    image = Image.effect_noise((80, 70), 60).convert("RGB")
    prompts = ["pneumonia", "no acute cardiopulmonary process", "consolidation"]
    scores = {each["label"]: each["score"] for each in classify(image, prompts, hypothesis_template="{}")}
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)

    model = AutoModelForZeroShotImageClassification.from_pretrained(zero_shot_folder).cogaze
    pixels = classify.image_processor(images=[image], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = model.get_image_features(pixels).pooler_output
        for prompt in prompts:
            ids = classify.tokenizer(f"[CLS] [FINDINGS] {prompt}", add_special_tokens=False, return_tensors="pt")
            cosine = torch.cosine_similarity(features, model.get_text_features(ids["input_ids"]).pooler_output)
            scores[prompt] /= (cosine / 0.07).exp().item()
    # The scores are the softmax of cosine / temperature: dividing by its numerator leaves one constant.
    first, *others = scores.values()
    assert others == pytest.approx([first] * 2, rel=1e-3)
