import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from processing.datasets import registry
from processing.datasets.records import study_share
from processing.gaze import gaze_targets
from training.data.augmentation import AlignedAugmentation
from training.data.collation import Collator, Preparation
from training.data.loading import positives_per_class
from training.data.sources import OWN


def test_targets_of_a_cropped_record_are_those_of_the_crop(small_phantom):
    record = next(small_phantom[i] for i in range(len(small_phantom)) if small_phantom[i]["gaze"])
    torch.manual_seed(3)
    cropped = AlignedAugmentation(crop=0.6).record(record)
    torch.manual_seed(3)
    keep = 1 - 0.4 * torch.rand(1).item()
    left, top = ((1 - keep) * torch.rand(2)).tolist()
    width, height = record["image_width"], record["image_height"]
    size = (cropped["image_width"], cropped["image_height"])
    box = (left * width, top * height, left * width + size[0], top * height + size[1])
    expected = gaze_targets(record["gaze"][0], (width, height), 7, crop=box)
    found = gaze_targets(cropped["gaze"][0], size, 7)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert cropped["image"].size == record["image"].size


def test_no_augmentation_leaves_the_record(small_phantom):
    record = small_phantom[0]
    same = AlignedAugmentation(crop=1.0).record(record)
    np.testing.assert_array_equal(np.asarray(same["image"]), np.asarray(record["image"]))
    assert (same["image_width"], same["image_height"]) == (record["image_width"], record["image_height"])


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_shares_of_studies_are_nested(studies, one, other):
    small, large = sorted((one, other))
    assert {s for s in studies if study_share(s) < small} <= {s for s in studies if study_share(s) < large}


def test_share_is_about_the_share():
    shares = np.array([study_share(f"study-{i}") for i in range(4000)])
    assert abs((shares < 0.1).mean() - 0.1) < 0.02


class _Echo:
    def collate(self, records, on_bad_record):
        return {"records": records, "pixel_values": torch.zeros(len(records), 3, 2, 2)}


def test_collator_leaves_out_what_an_ablation_leaves_out():
    record = {"study_id": "s", "indication": "cough", "history": "", "gaze": [{"sentences": []}]}
    kept = Collator(_Echo())([record])["records"][0]
    assert kept["indication"] == "cough" and kept["gaze"]
    dropped = Collator(_Echo(), Preparation(use_context=False, gaze_fraction=0.0))([record])["records"][0]
    assert dropped["indication"] == "" and dropped["gaze"] == []


def test_masks_are_cropped_like_the_picture():
    torch.manual_seed(0)
    pixels = np.zeros((40, 80), np.uint8)
    pixels[10:30, 20:50] = 255
    record = {"image": Image.fromarray(pixels), "image_width": 800, "image_height": 400, "gaze": []}
    moved = []
    for _ in range(5):
        cropped = AlignedAugmentation(crop=0.6).record(record | {"masks": (pixels > 0)[None].astype(np.uint8)})
        shown = np.asarray(cropped["image"]) > 127
        assert cropped["masks"].shape == (1, 40, 80) and cropped["masks"].dtype == np.uint8
        # Bilinear edges and nearest ones differ by a pixel at most.
        assert (shown != cropped["masks"][0]).sum() < 40
        moved.append((shown != (pixels > 0)).sum())
    assert max(moved) > 200


def test_share_of_gaze_outside_0_and_1_is_refused():
    with pytest.raises(ValueError, match="gaze_fraction"):
        Preparation(gaze_fraction=1.5)


def test_uncertain_counts_as_positive():
    assert positives_per_class([[1, 0, -1], [2, 1, -1]]) == [2, 1, 0]


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "training" / "configs").glob("*/*.yaml")), ids=lambda path: path.stem
)
def test_loaders_know_the_options_that_configs_give_them(path):
    config = yaml.safe_load(path.read_text())
    for key in ("train_data", "validation_data", "test_data"):
        entries = config.get(key) or []
        for entry in [entries] if isinstance(entries, dict) else entries:
            options = {name: value for name, value in entry.items() if name not in OWN}
            known = inspect.signature(registry.source(options.pop("name")).load).parameters
            of_all = {"priors", "views", "max_companions"}  # what `registry.load` gives the records of any source
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
                assert options.keys() <= known.keys() | of_all
