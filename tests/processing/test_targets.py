import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from processing.targets import mask_tensor, masks_of_original, region_masks


def region(label, box=(0.0, 0.0, 1.0, 1.0), mask=None) -> dict:
    return {"label": label, "box": list(box), "mask": mask, "sentence": -1}


def record(*regions, size=(40, 20), original=(400, 200)) -> dict:
    image = Image.new("L", size)
    return {"image": image, "image_width": original[0], "image_height": original[1], "regions": list(regions)}


def picture(array) -> Image.Image:
    return Image.fromarray(np.asarray(array, np.uint8) * 255)


def test_masks_of_independent_labels_keep_their_channels():
    masks = np.zeros((2, 20, 40), np.uint8)
    masks[0, :10], masks[1, :, 20:] = 1, 1
    whole = [(0, 0, 400, 200)]
    found = mask_tensor([masks], [(400, 200)], whole, 10, 20)
    assert found.shape == (1, 2, 10, 20) and found.dtype == torch.float32
    assert found[0, 0, :5].all() and not found[0, 0, 5:].any()
    assert found[0, 1, :, 10:].all() and not found[0, 1, :, :10].any()
    both = mask_tensor([None, masks * 255], [(400, 200)] * 2, whole * 2, 10, 20)
    assert not both[0].any() and both[1].equal(found[0])


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 9), st.integers(1, 30), st.integers(1, 30))
def test_a_mask_stored_larger_gives_the_same(height, width, factor, rows, columns):
    generator = np.random.default_rng(height * 61 + width)
    mask = generator.integers(0, 2, (height, width)).astype(bool)
    larger = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    x0, y0 = generator.uniform(-width / 2, width / 2), generator.uniform(-height / 2, height / 2)
    box = [(x0, y0, x0 + width * 0.77, y0 + height * 0.77)]
    small = mask_tensor([mask], [(width, height)], box, rows, columns)
    assert small.equal(mask_tensor([larger], [(width, height)], box, rows, columns))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([np.zeros((40, 20), np.uint8)], r"masks\[0\]: 20 x 40 pixels for a radiograph of 400 x 200"),
        ([np.zeros((20, 40)), None], r"masks\[0\]: float64"),
        ([None, np.zeros((0, 0), np.uint8)], r"masks\[1\]"),
        ([np.zeros((20, 40), int), np.zeros((2, 20, 40), int)], r"masks\[1\]: shape"),
        ([np.zeros((2, 20, 40), int), np.zeros((3, 20, 40), int)], r"masks\[1\]: shape"),
        ([np.full((2, 20, 40), 3)], r"masks\[0\]: values up to 3"),
    ],
)
def test_unusable_masks_are_named(masks, message):
    count = len(masks)
    with pytest.raises(ValueError, match=message):
        mask_tensor(masks, [(400, 200)] * count, [(0, 0, 400, 200)] * count, 10, 10)


def test_a_side_rounded_by_a_pixel_is_the_same_mask():
    assert mask_tensor([np.ones((85, 171), bool)], [(2048, 1025)], [(0, 0, 2048, 1025)], 4, 4).all()


def test_regions_become_the_union_of_their_masks_and_boxes():
    left = np.zeros((20, 40), bool)
    left[:, :10] = True
    both = record(region("Effusion", mask=picture(left)), region("Nodule", (300, 0, 400, 100)))
    masks = region_masks(both, ["nodule", "EFFUSION", "Edema"])
    right = np.zeros((20, 40), bool)
    right[:10, 30:] = True
    assert masks.shape == (3, 20, 40) and masks.dtype == np.uint8
    np.testing.assert_array_equal(masks, [right, left, np.zeros_like(left)])
    np.testing.assert_array_equal(region_masks(both), [left | right])


def test_masks_of_different_size_meet_at_the_larger():
    small, large = np.zeros((10, 20), bool), np.zeros((20, 40), bool)
    small[0, 0], large[19, 39] = True, True
    (mask,) = region_masks(record(region("a", mask=picture(small)), region("a", mask=picture(large)), size=(8, 4)))
    assert mask.shape == (20, 40) and mask[:2, :2].all() and mask[19, 39] and mask.sum() == 5


def test_a_mask_of_other_proportions_is_named():
    long = picture(np.ones((10, 10)))
    with pytest.raises(
        ValueError, match=r"regions\[1\]: the mask of 'b' has 10 x 10 pixels for a radiograph of 400 x 200"
    ):
        region_masks(record(region("a", mask=picture(np.ones((20, 40)))), region("b", mask=long)))


def test_no_region_is_an_empty_mask_of_the_picture():
    assert region_masks(record()).shape == (1, 20, 40) and not region_masks(record(), ["a", "b"]).any()


@settings(deadline=None, max_examples=20)
@given(st.integers(20, 60), st.integers(20, 60), st.integers(0, 1000))
def test_what_was_cut_out_goes_back_to_its_place(height, width, seed):
    """Of a smooth picture, so that interpolation costs little."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = torch.tensor(np.stack([x / width, y / height])).float()
    x0, y0 = generator.uniform(-5, 5, 2)
    box = (x0, y0, x0 + width * 0.8, y0 + height * 0.9)
    columns = torch.tensor((box[0] + (np.arange(40) + 0.5) * (box[2] - box[0]) / 40 - 0.5) / width).float()
    rows = torch.tensor((box[1] + (np.arange(30) + 0.5) * (box[3] - box[1]) / 30 - 0.5) / height).float()
    shown = torch.stack([columns.expand(30, 40), rows[:, None].expand(30, 40)])
    back = masks_of_original(shown, (width, height), box)
    inside = torch.tensor((x > box[0] + 1) & (x < box[2] - 2) & (y > box[1] + 1) & (y < box[3] - 2))
    torch.testing.assert_close(back[:, inside], smooth[:, inside], atol=2e-3, rtol=0)
    outside = torch.tensor((x + 0.5 < box[0]) | (x + 0.5 > box[2]) | (y + 0.5 < box[1]) | (y + 0.5 > box[3]))
    assert not back[:, outside].any()
