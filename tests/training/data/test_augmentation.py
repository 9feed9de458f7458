import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.data.augmentation import AlignedAugmentation
from training.data.film_styles import other_film
from training.data.turning import Turn

ANGLES, SCALES = st.floats(-40, 40), st.floats(0.5, 1.0)


def spot(width, height, x, y, radius):
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.hypot(columns - x, rows - y) < radius


def a_record(width=96, height=80, x=60.0, y=30.0, stored=(96, 80)):
    """A dark picture with one bright spot, which is its lesion and where its reader looks."""
    across, down = stored[0] / width, stored[1] / height
    bright = spot(*stored, x * across, y * down, 6)
    fixation = {
        "x": x,
        "y": y,
        "begin": 0.0,
        "end": 1.0,
        "sigma_x": 4.0,
        "sigma_y": 4.0,
        "shown": [0, 0, width, height],
    }
    return {
        "image": Image.fromarray(np.where(bright, 250, 10).astype(np.uint8)),
        "image_width": width,
        "image_height": height,
        "view_position": "PA",
        "gaze": [{"reader": "R1", "sentences": [], "fixations": [fixation]}],
        "regions": [{"label": "Lung Lesion", "box": [x - 6, y - 6, x + 6, y + 6], "mask": Image.fromarray(bright)}],
        "masks": bright[None].astype(np.uint8),
    }


def centre(bright):
    return np.argwhere(bright).mean(0)[::-1] + 0.5


@settings(max_examples=60, deadline=None)
@given(ANGLES, SCALES, st.sampled_from([(96, 80), (80, 96), (96, 96)]), st.sampled_from([(96, 96), (128, 64)]))
def test_picture_gaze_boxes_and_masks_move_together(degrees, scale, size, stored):
    record = a_record(*size, x=0.6 * size[0], y=0.42 * size[1], stored=stored)
    turned = Turn.of(degrees, scale, record["image"].size).record(record)
    factor = np.array(stored) / size
    seen = centre(np.asarray(turned["image"]) > 128)
    fixation = turned["gaze"][0]["fixations"][0]
    np.testing.assert_allclose(np.array([fixation["x"], fixation["y"]]) * factor, seen, atol=1.0)
    np.testing.assert_allclose(centre(turned["masks"][0] > 0), seen, atol=1.0)
    np.testing.assert_allclose(centre(np.asarray(turned["regions"][0]["mask"]) > 0), seen, atol=1.0)
    x0, y0, x1, y1 = turned["regions"][0]["box"]
    np.testing.assert_allclose(np.array([x0 + x1, y0 + y1]) / 2 * factor, seen, atol=1.0)


@settings(max_examples=40, deadline=None)
@given(ANGLES, SCALES, st.floats(0.5, 2.0), st.floats(1, 9), st.floats(1, 9))
def test_sigmas_are_those_of_moved_points(degrees, scale, aspect, sigma_x, sigma_y):
    size = (200 * aspect, 200.0)
    turn = Turn.of(degrees, scale, (128, 96))
    points = np.array(size) / 2 + np.random.default_rng(0).normal(size=(20000, 2)) * (sigma_x, sigma_y)
    np.testing.assert_allclose(turn.sigmas(sigma_x, sigma_y, size), turn.points(points, size).std(0), rtol=0.03)


@settings(max_examples=40, deadline=None)
@given(ANGLES, SCALES)
def test_a_turn_keeps_the_middle_and_is_undone_by_its_inverse(degrees, scale):
    turn, size = Turn.of(degrees, scale, (90, 60)), (180.0, 120.0)
    back = Turn(np.linalg.inv(turn.matrix))
    points = np.random.default_rng(1).uniform(0, 120, (10, 2))
    np.testing.assert_allclose(turn.points([90.0, 60.0], size), [90, 60])
    np.testing.assert_allclose(back.points(turn.points(points, size), size), points, atol=1e-9)


def test_a_quarter_turn_goes_clockwise():
    picture = Image.fromarray(np.array([[0, 0, 9], [0, 0, 0], [0, 0, 0]], np.uint8))
    assert np.asarray(Turn.of(90, 1.0, picture.size).picture(picture))[2, 2] == 9


@pytest.mark.parametrize("seed", range(6))
def test_turns_and_crops_together_stay_aligned(seed):
    torch.manual_seed(seed)
    moved = AlignedAugmentation(crop=0.8, rotation=12, widen=0.2).record(a_record())
    bright = np.asarray(moved["image"]) > 128
    seen = centre(bright) / (96, 80)
    fixation = moved["gaze"][0]["fixations"][0]
    shares = np.array([fixation["x"] / moved["image_width"], fixation["y"] / moved["image_height"]])
    np.testing.assert_allclose(shares, seen, atol=0.015)
    np.testing.assert_allclose(centre(moved["masks"][0] > 0) / (96, 80), seen, atol=0.015)


def test_what_is_not_asked_for_draws_nothing():
    torch.manual_seed(5)
    AlignedAugmentation(crop=0.9).record(a_record())
    state = torch.get_rng_state()
    torch.manual_seed(5)
    AlignedAugmentation(0.9, 0.2, 0.0, 0.0, 0.0, 0.0).record(a_record())
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(64, 64), (80, 60)]))
def test_another_film_moves_nothing_and_keeps_the_order_of_grey(seed, size):
    ramp = np.tile(np.linspace(20, 235, size[0]).astype(np.uint8), (size[1], 1))
    film = np.asarray(other_film(Image.fromarray(ramp), "", np.random.default_rng(seed)), float)
    assert film.shape == ramp.shape
    # Frames may cover the borders, and coarse contrast is lessened: of the middle.
    middle = np.median(film[size[1] // 4 : -size[1] // 4], 0)[size[0] // 4 : -size[0] // 4]
    assert np.corrcoef(middle, np.arange(len(middle)))[0, 1] > 0.5


def test_films_follow_the_seed_and_differ():
    record = a_record()

    def shown(seed):
        torch.manual_seed(seed)
        return np.asarray(AlignedAugmentation(crop=1.0, films=1.0).record(record)["image"])

    np.testing.assert_array_equal(shown(1), shown(1))
    assert (shown(1) != shown(2)).any()


@pytest.mark.parametrize(("name", "value"), [("films", 1.2), ("rotation", -1), ("widen", 1.0), ("crop", 0.0)])
def test_wrong_settings_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        AlignedAugmentation(**{name: value})
