"""Processors under mutated input: a right result or an error that says what is wrong, never anything else.

Each call starts from one that works, and one to three of its arguments are replaced by something that users' tables and
files hold. The quick test runs a few hundred, the slow one ten thousand.
"""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_cogaze import CoGazeConfig, EgmaConfig
from processing import CoGazeProcessor, EgmaProcessor
from processing.tokenization import build_tokenizer
from tests import small

ARGUMENTS = ("images", "view_position", "indication", "history", "findings", "gaze", "image_size", "study_id", "labels")
GREY = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))


def reading(**changes) -> dict:
    fixation = {"x": 20.0, "y": 30.0, "begin": 0.0, "end": 1.0, "sigma_x": 5.0, "sigma_y": 5.0, "shown": []}
    return {"sentences": [{"text": "No effusion.", "begin": 0.0, "end": 1.0}], "fixations": [fixation | changes]}


def odd_values() -> list:
    """What stands in a table's cell by mistake."""
    numbers = [float("nan"), math.inf, -1, 0, 10**20, True]
    return [*numbers, None, "", " ", b"x", "\ud800", "a\0b", [], {}, [None], object(), "x" * 70_000]


def odd_images() -> list:
    cut = Path(__file__)  # a text file, told as a picture
    flat, tall = np.zeros((64, 64), np.uint8), np.tile(GREY, (3, 1))
    arrays = [flat, tall, GREY[:8], GREY.astype(np.float32), GREY.astype(np.float32) / 255, GREY.astype(np.int64) - 200]
    arrays += [GREY.astype(complex), np.full((64, 64), np.nan), GREY[None, None], np.stack([GREY] * 7, axis=-1)]
    modes = ("1", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F")
    pictures = [Image.fromarray(GREY).convert(mode) for mode in modes]
    return [*arrays, *pictures, torch.from_numpy(GREY), str(cut), cut, "nowhere.png", b"", b"\x89PNG", 7]


def odd_readings() -> list:
    values = (math.nan, -5.0, "a", None)
    own = [reading(**{name: value}) for name in ("x", "end", "sigma_x", "shown") for value in values]
    said = ({}, {"text": None}, {"text": "\ud800", "begin": 0, "end": 1}, 3)
    texts = [reading() | {"sentences": [sentence]} for sentence in said]
    shapes = [reading() | {"fixations": value} for value in ([], None, [{}], 4)]
    rendered = ([], None, [GREY], [GREY, GREY], [GREY, 3])
    pictures = [{"sentences": [{"text": "a"}], "heatmaps": value} for value in rendered]
    return [*own, *texts, *shapes, *pictures, {}, [reading(), {}]]


def mutated(rng: random.Random) -> dict:
    size = rng.choice([1, 2, 3])
    call = {
        "images": [GREY.copy() for _ in range(size)],
        "view_position": ["PA"] * size,
        "indication": ["Cough."] * size,
        "history": [""] * size,
        "findings": ["The lungs are clear."] * size,
        "gaze": [[reading()] for _ in range(size)],
        "image_size": [(64, 64)] * size,
        "study_id": [f"s{i}" for i in range(size)],
        "labels": [[1, 0, 2, -1]] * size,
    }
    for name in rng.sample(ARGUMENTS, rng.choice([1, 1, 2, 3])):
        odd = {"images": odd_images, "gaze": odd_readings}.get(name, odd_values)() + odd_values()
        where = rng.random()
        if where < 0.15:
            call[name] = rng.choice(odd)
        elif where < 0.25:
            call[name] = call[name][:-1]
        elif where < 0.35:
            del call[name]
        else:
            call[name] = [rng.choice(odd), *call[name][1:]] if isinstance(call[name], list) else rng.choice(odd)
    return call


def judge(processor, call: dict) -> str:
    """ "refused" or "right", or what is wrong."""
    try:
        batch = processor(**call)
    except ValueError as error:
        named = any(name in str(error) for name in (*ARGUMENTS, "records"))
        return "refused" if named else f"unnamed: {error}"
    except Exception as error:
        return f"foreign: {type(error).__name__}: {error}"
    count = len(next(iter(batch.values())))
    images = batch.get("pixel_values")
    finite = all(torch.isfinite(value).all() for value in batch.values() if torch.is_floating_point(value))
    if not finite or (images is not None and images.std() < 1e-6):
        return "silently wrong"
    per_image = ("pixel_values", "view_position_ids", "context_input_ids", "report_input_ids", "study_ids", "labels")
    if len({len(batch[name]) for name in per_image if name in batch}) > 1:
        return f"silently wrong: {count} of some, others of others"
    return "right"


def faults(processor, calls: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    found = [judge(processor, mutated(rng)) for _ in range(calls)]
    assert found.count("right") > calls // 50  # the mutations leave something to be read
    return [fault for fault in found if fault not in ("right", "refused")]


@pytest.fixture(scope="module", params=["cogaze", "egma"])
def processor(request):
    config_class, processor_class, sizes = {
        "cogaze": (CoGazeConfig, CoGazeProcessor, small.COGAZE),
        "egma": (EgmaConfig, EgmaProcessor, small.EGMA),
    }[request.param]
    return processor_class.for_model(build_tokenizer(["cough"], 300), config_class.tiny(vocab_size=300, **sizes))


def test_a_mutated_call_is_right_or_refused_by_name(processor):
    assert faults(processor, 250, seed=0) == []


@pytest.mark.slow
def test_ten_thousand_mutated_calls_are_right_or_refused_by_name(processor):
    assert faults(processor, 5000, seed=1) == []


def test_a_bad_record_of_any_kind_is_left_out_and_counted(processor):
    good = {
        "image": Image.fromarray(GREY),
        "image_width": 64,
        "image_height": 64,
        "image_id": "a",
        "view_position": "PA",
        "study_id": "s",
        "indication": "",
        "history": "",
        "findings": "Clear.",
        "gaze": [reading()],
    }
    bad = [{"gaze": [{"fixations": 3}]}, {"findings": "\ud800"}, {"image": object()}, {"image_width": None}]
    bad += [{"gaze": [reading() | {"sentences": [{}]}]}, {"study_id": None}]
    before = processor.bad_records
    batch = processor.collate([good, *(good | change | {"image_id": "b"} for change in bad)], on_bad_record="skip")
    assert len(batch["pixel_values"]) == 1 and processor.bad_records - before == len(bad)
    for change in bad:
        with pytest.raises(ValueError, match=r"records\[1\] \(image_id b\)"):
            processor.collate([good, good | change | {"image_id": "b"}])
