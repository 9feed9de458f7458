"""The guard before a model: what it lets through and refuses, its arithmetic, how it is kept."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import correlate

from processing import CoGazeProcessor
from processing.guard import FRONTAL, KINDS, LATERAL, SIDE, judge, kind_probabilities, network, reduced, stored_weights
from training.guard import pictures
from training.guard.fitting import OTHERS, batch, initial_weights, other_pictures, source
from training.guard.judging import accepted, rates

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "nih_mini"


@pytest.fixture(scope="module")
def rendered(small_phantom):
    found = {FRONTAL: [], LATERAL: []}
    for record in small_phantom:
        found[LATERAL if record["view_position"] == "LATERAL" else FRONTAL].append(np.asarray(record["image"]))
    return {kind: np.stack(own) for kind, own in found.items()}


def test_renderings_pass_and_turned_or_inverted_ones_do_not(rendered):
    found = rates(rendered)
    assert found[FRONTAL][1] >= 0.9 and found[LATERAL][1] >= 0.8
    for change in ("inverted", "rotated_90", "rotated_180", "rotated_270"):
        assert found[f"{FRONTAL}, {change}"][1] >= 0.9, change


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_generated_pictures_are_refused(kind):
    made = OTHERS[kind](20, np.random.default_rng(77))
    assert made.shape == (20, pictures.SIDE, pictures.SIDE) and made.dtype == np.uint8
    assert accepted(made) <= 0.2


def test_packaged_photographs_that_it_was_not_fitted_on_are_refused():
    assert not set(pictures.FITTED_PHOTOGRAPHS) & set(pictures.JUDGED_PHOTOGRAPHS)
    whole = np.stack([pictures.squared(pictures.opened(name)) for name in pictures.JUDGED_PHOTOGRAPHS])
    assert accepted(whole) <= 0.25


def test_real_frontal_radiographs_pass():
    if not REAL.is_dir():
        pytest.skip(f"no real radiographs at {REAL}")
    files = sorted(REAL.rglob("*.jpg"))[::6]
    probabilities = kind_probabilities([Image.open(file).convert("L") for file in files])
    assert np.mean([judge(row, "PA").accepted for row in probabilities]) >= 0.96


def test_a_processor_says_why(tiny_checkpoint, rendered):
    processor = CoGazeProcessor.from_pretrained(tiny_checkpoint)
    good = Image.fromarray(rendered[FRONTAL][0])
    assert processor.check_radiograph(good, "PA").accepted
    page = Image.fromarray(pictures.pages(1, np.random.default_rng(5))[0])
    told = processor.check_radiograph(page)
    assert not told.accepted and told.reason in KINDS.values() and sum(told.probabilities.values()) == pytest.approx(1)
    colour = np.zeros((64, 64, 3), np.uint8)
    colour[..., 0] = np.arange(64) * 4
    assert "colour photograph" in processor.check_radiograph(colour).reason


def test_decisions():
    def shares(**given):
        return np.array([given.get(kind, 0.0) for kind in KINDS])

    assert judge(shares(frontal=0.7, text=0.3)).accepted
    assert judge(shares(frontal=0.01, text=0.99)).reason == "looks like a page of text"
    assert judge(shares(frontal=1.0), "LL").reason == "a frontal radiograph, told as LL"
    assert judge(shares(lateral=1.0)).accepted and judge(shares(lateral=1.0), "lateral").accepted


def test_the_network_is_correlations_halved_then_a_linear_layer():
    weights = {name: value.detach() for name, value in initial_weights(3).items()}
    pixels = torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    hidden = pixels.numpy()[1][None].astype(np.float64)
    for layer in range(4):
        kernel, bias = (weights[f"conv{layer}.{part}"].numpy().astype(np.float64) for part in ("weight", "bias"))
        hidden = np.stack(
            [
                sum(correlate(each, own, mode="same") for each, own in zip(hidden, row, strict=True))[::2, ::2] + b
                for row, b in zip(kernel, bias, strict=True)
            ]
        )
        hidden = np.maximum(hidden, 0)
    expected = weights["linear.weight"].numpy() @ hidden.reshape(-1) + weights["linear.bias"].numpy()
    np.testing.assert_allclose(network(pixels, weights)[1].numpy(), expected, rtol=1e-3, atol=1e-3)


def test_what_is_written_is_what_is_read(tmp_path, monkeypatch):
    weights = {name: value.detach().half() for name, value in initial_weights(1).items()}
    file = tmp_path / "guard_weights.py"
    file.write_text(source(weights))
    spec = importlib.util.spec_from_file_location("processing.guard_weights", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(__import__("sys").modules, "processing.guard_weights", module)
    stored_weights.cache_clear()
    try:
        for name, value in stored_weights().items():
            assert torch.equal(value, weights[name].float())
    finally:
        stored_weights.cache_clear()


def test_a_decision_does_not_hang_on_the_batch_the_size_or_the_exposure(rendered):
    picture = Image.fromarray(rendered[FRONTAL][0])
    alone = kind_probabilities([picture])[0]
    other = Image.fromarray(rendered[FRONTAL][1])
    np.testing.assert_allclose(kind_probabilities([other, picture])[1], alone, atol=1e-5)
    large = picture.resize((256, 256), Image.Resampling.NEAREST)
    np.testing.assert_allclose(kind_probabilities([large])[0], alone, atol=1e-4)
    np.testing.assert_allclose(reduced(picture.point(lambda value: value * 0.5)), reduced(picture), atol=0.1)


def test_batches_hold_every_kind(rendered):
    own = {
        kind: np.stack([pictures.squared(Image.fromarray(each)) for each in some]) for kind, some in rendered.items()
    }
    seen = own | other_pictures(4, 0, fitted=True)
    pixels, kinds = batch(seen, np.random.default_rng(0), 200)
    assert pixels.shape == (200, SIDE, SIDE) and set(kinds.tolist()) == set(range(len(KINDS)))
    assert pixels.isfinite().all() and pixels.mean(dim=(1, 2)).abs().max() < 1e-2
