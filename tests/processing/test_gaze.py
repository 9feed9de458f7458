import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from processing.gaze import (
    clean_fixations,
    default_sigma,
    gaze_targets,
    heatmap_targets,
    outside,
    rendered_targets,
    validate_reading,
)

WIDTH, HEIGHT = 200, 160

finite = st.floats(0, 1, allow_nan=False)


@st.composite
def readings(draw, inside=False):
    """A reading on a WIDTH x HEIGHT radiograph; with `inside`, fixations far from every border."""
    fixations, time = [], 0.0
    for _ in range(draw(st.integers(1, 6))):
        begin = time + draw(finite)
        time = begin + draw(finite)
        x, y = draw(finite), draw(finite)
        shown = draw(st.sampled_from([[], [0, 0, WIDTH, HEIGHT], [40, 30, 170, 150]]))
        fixations.append(
            {
                "x": 80 + 40 * x if inside else WIDTH * (1.4 * x - 0.2),
                "y": 70 + 20 * y if inside else HEIGHT * (1.4 * y - 0.2),
                "begin": begin,
                "end": time,
                "sigma_x": draw(st.floats(2, 5 if inside else 60)),
                "sigma_y": draw(st.floats(2, 5 if inside else 60)),
                "shown": [] if inside else shown,
            }
        )
    cuts = sorted(draw(st.lists(st.floats(0, max(time, 1)), min_size=2, max_size=5)))
    sentences = [{"text": "a", "begin": a, "end": b} for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    return {"reader": "r", "sentences": sentences, "fixations": fixations}


def cdf(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


def by_hand(reading, rows, columns, crop):
    """The definition, one fixation, sentence and patch at a time."""
    x0, y0, x1, y1 = crop
    spans = [(s["begin"], s["end"]) for s in reading["sentences"]] + [(-math.inf, math.inf)]
    targets = np.zeros((len(spans), rows, columns))
    for f in reading["fixations"]:
        left, top, right, bottom = f["shown"] or (0, 0, WIDTH, HEIGHT)
        for i in range(rows):
            for j in range(columns):
                a = min(max(x0 + (x1 - x0) * j / columns, left), right)
                b = min(max(x0 + (x1 - x0) * (j + 1) / columns, left), right)
                c = min(max(y0 + (y1 - y0) * i / rows, top), bottom)
                d = min(max(y0 + (y1 - y0) * (i + 1) / rows, top), bottom)
                mass = cdf((b - f["x"]) / f["sigma_x"]) - cdf((a - f["x"]) / f["sigma_x"])
                mass *= cdf((d - f["y"]) / f["sigma_y"]) - cdf((c - f["y"]) / f["sigma_y"])
                for s, (begin, end) in enumerate(spans):
                    targets[s, i, j] += mass * max(0, min(end, f["end"]) - max(begin, f["begin"]))
    return targets.reshape(len(spans), -1)


@settings(deadline=None, max_examples=60)
@given(readings(), st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_targets_follow_the_definition(reading, grid):
    for crop in ((0, 0, WIDTH, HEIGHT), (-30.0, 12.5, 260.0, 140.0)):
        targets = gaze_targets(reading, (WIDTH, HEIGHT), grid, crop)
        assert targets.dtype == np.float32
        assert targets.shape == (len(reading["sentences"]) + 1, grid[0] * grid[1])
        np.testing.assert_allclose(targets, by_hand(reading, *grid, crop), atol=1e-6)


def test_one_fixation_equals_the_numeric_integral_of_its_gaussian():
    fixation = {
        "x": 61.0,
        "y": 97.0,
        "begin": 1.0,
        "end": 1.5,
        "sigma_x": 14.0,
        "sigma_y": 22.0,
        "shown": [30, 0, 90, 120],
    }
    reading = {"sentences": [], "fixations": [fixation]}
    x, y = (np.arange(WIDTH * 8) + 0.5) / 8, (np.arange(HEIGHT * 8) + 0.5) / 8
    density = np.exp(-((x - 61) ** 2) / (2 * 14**2)) * np.exp(-((y[:, None] - 97) ** 2) / (2 * 22**2))
    density /= 2 * np.pi * 14 * 22
    density[:, (x < 30) | (x > 90)] = 0
    density[y > 120] = 0
    seconds = 0.5 * density.reshape(8, 160, 10, 160).sum(axis=(1, 3)) / 64
    np.testing.assert_allclose(gaze_targets(reading, (WIDTH, HEIGHT), (8, 10))[0].reshape(8, 10), seconds, atol=2e-5)


def test_far_tails_keep_their_digits():
    """Eight to nine sigma away the CDF itself is 1 to the last digit."""
    for centre in (0.0, WIDTH):
        fixation = {"x": centre, "y": 80.0, "begin": 0.0, "end": 1.0, "sigma_x": 10.0, "sigma_y": 10.0, "shown": []}
        row = gaze_targets({"sentences": [], "fixations": [fixation]}, (WIDTH, HEIGHT), (1, 20))[0]
        row = row if centre == 0 else row[::-1]
        expected = [0.5 * (math.erfc(k / math.sqrt(2)) - math.erfc((k + 1) / math.sqrt(2))) for k in range(20)]
        np.testing.assert_allclose(row[:13], np.array(expected[:13]), rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(readings(inside=True), st.integers(1, 9), st.integers(1, 9))
def test_looking_well_inside_loses_nothing(reading, rows, columns):
    full = gaze_targets(reading, (WIDTH, HEIGHT), (rows, columns))[-1].sum()
    assert full == pytest.approx(sum(f["end"] - f["begin"] for f in reading["fixations"]), abs=1e-5)


@settings(deadline=None, max_examples=60)
@given(readings())
def test_a_coarse_patch_is_the_sum_of_its_fine_ones(reading):
    fine = gaze_targets(reading, (WIDTH, HEIGHT), (8, 12)).reshape(-1, 4, 2, 6, 2).sum(axis=(2, 4))
    coarse = gaze_targets(reading, (WIDTH, HEIGHT), (4, 6)).reshape(-1, 4, 6)
    np.testing.assert_allclose(fine, coarse, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(readings())
def test_a_crop_is_a_block_of_the_whole_and_padding_is_empty(reading):
    whole = gaze_targets(reading, (WIDTH, HEIGHT), (8, 10)).reshape(-1, 8, 10)
    crop = (40, 20, 160, 120)  # columns 2 to 8 of 20 pixels, rows 1 to 6
    inner = gaze_targets(reading, (WIDTH, HEIGHT), (5, 6), crop).reshape(-1, 5, 6)
    np.testing.assert_allclose(inner, whole[:, 1:6, 2:8], atol=1e-6)
    padded = gaze_targets(reading, (WIDTH, HEIGHT), (10, 12), (-20, -20, 220, 180)).reshape(-1, 10, 12)
    np.testing.assert_allclose(padded[:, 1:-1, 1:-1], whole, atol=1e-6)
    assert padded[:, [0, -1]].sum() == 0 and padded[:, :, [0, -1]].sum() == 0


@settings(deadline=None, max_examples=60)
@given(readings(), st.floats(0.1, 10))
def test_resizing_the_radiograph_changes_nothing(reading, factor):
    scaled = {
        "sentences": reading["sentences"],
        "fixations": [
            f
            | {name: f[name] * factor for name in ("x", "y", "sigma_x", "sigma_y")}
            | {"shown": [edge * factor for edge in f["shown"]]}
            for f in reading["fixations"]
        ],
    }
    a = gaze_targets(reading, (WIDTH, HEIGHT), 6)
    b = gaze_targets(scaled, (WIDTH * factor, HEIGHT * factor), 6)
    np.testing.assert_allclose(a, b, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(readings())
def test_sentences_share_out_the_looking(reading):
    """Sentences that cover the whole reading without overlap add up to the full transcript."""
    end = reading["fixations"][-1]["end"] + 1
    cuts = sorted({0.0, end, *(s["begin"] for s in reading["sentences"] if s["begin"] < end)})
    sentences = [{"text": "a", "begin": a, "end": b} for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    targets = gaze_targets(reading | {"sentences": sentences}, (WIDTH, HEIGHT), 5)
    np.testing.assert_allclose(targets[:-1].sum(axis=0), targets[-1], atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(readings())
def test_mirroring(reading):
    mirrored = reading | {
        "fixations": [
            f
            | {"x": WIDTH - f["x"]}
            | {"shown": f["shown"] and [WIDTH - f["shown"][2], f["shown"][1], WIDTH - f["shown"][0], f["shown"][3]]}
            for f in reading["fixations"]
        ]
    }
    a = gaze_targets(reading, (WIDTH, HEIGHT), (4, 7)).reshape(-1, 4, 7)
    b = gaze_targets(mirrored, (WIDTH, HEIGHT), (4, 7)).reshape(-1, 4, 7)
    np.testing.assert_allclose(a, b[:, :, ::-1], atol=1e-6)


def test_readings_without_sentences_or_fixations_have_empty_rows():
    fixation = {"x": 50.0, "y": 50.0, "begin": 0.0, "end": 1.0, "sigma_x": 5.0, "sigma_y": 5.0, "shown": []}
    sentence = {"text": "a", "begin": 0.0, "end": 1.0}
    assert gaze_targets({"sentences": [], "fixations": [fixation]}, (100, 100), 4).sum() == pytest.approx(1)
    empty = gaze_targets({"sentences": [sentence], "fixations": []}, (100, 100), 4)
    assert empty.shape == (2, 16) and not empty.any()


@pytest.mark.parametrize("missing", [None, float("nan"), 0.0])
def test_missing_sigma_is_one_degree(missing):
    fixation = {"x": 900.0, "y": 900.0, "begin": 0.0, "end": 1.0, "sigma_x": missing, "sigma_y": missing}
    degree = default_sigma((2000, 2500))
    assert degree == pytest.approx(40 * 2500 / 1024)  # the longer side had 1,024 screen pixels
    explicit = fixation | {"sigma_x": degree, "sigma_y": degree}
    np.testing.assert_array_equal(
        gaze_targets({"sentences": [], "fixations": [fixation]}, (2000, 2500), 8),
        gaze_targets({"sentences": [], "fixations": [explicit]}, (2000, 2500), 8),
    )


def test_the_eight_bit_cut_is_made_on_pixels_before_pooling():
    fixation = {"x": 20.0, "y": 20.0, "begin": 0.0, "end": 1.0, "sigma_x": 4.0, "sigma_y": 4.0, "shown": []}
    reading = {"sentences": [{"text": "a", "begin": 0.0, "end": 1.0}], "fixations": [fixation]}
    found = rendered_targets(reading, (64, 48), (6, 8))
    x, y = np.arange(64) + 0.5, np.arange(48) + 0.5
    heat = np.exp(-((x[None] - 20) ** 2 + (y[:, None] - 20) ** 2) / (2 * 4.0**2))
    expected = (np.round(255 * heat / heat.max()) / 255).reshape(6, 8, 8, 8).mean(axis=(1, 3)).ravel()
    np.testing.assert_allclose(found, [expected, expected], atol=2 / 255)
    assert np.array_equal(found > 0, [expected > 0, expected > 0])
    # On patches, the same share of the brightest one would keep fewer or more of them.
    patches = gaze_targets(reading, (64, 48), (6, 8))
    assert (found > 0).sum() != (patches > patches.max() * 0.5 / 255).sum()
    assert not rendered_targets({"sentences": [], "fixations": []}, (64, 48), 4).any()


@settings(deadline=None, max_examples=20)
@given(readings())
def test_a_rendered_heatmap_pools_to_the_targets(reading):
    targets = gaze_targets(reading, (WIDTH, HEIGHT), (4, 5))
    pictures = gaze_targets(reading, (WIDTH, HEIGHT), (HEIGHT, WIDTH))  # a patch to each pixel
    pooled = pictures.reshape(len(targets), 4, 40, 5, 40).sum(axis=(2, 4)).reshape(len(targets), -1)
    np.testing.assert_allclose(pooled, targets, atol=1e-5)


def test_fixations_outside_the_image_or_the_part_shown_are_found_and_dropped():
    fixation = {"begin": 0.0, "end": 1.0, "sigma_x": 5.0, "sigma_y": 5.0, "shown": [20, 20, 80, 300]}
    places = [(50, 50), (-1, 50), (101, 50), (10, 50), (90, 50), (50, 101), (50, 10), (20, 20), (80, 100)]
    reading = {"sentences": [], "fixations": [fixation | {"x": x, "y": y} for x, y in places]}
    np.testing.assert_array_equal(outside(reading, (100, 100)), [0, 1, 1, 1, 1, 1, 1, 0, 0])
    cleaned, dropped = clean_fixations(reading, (100, 100))
    assert dropped == 6 and len(reading["fixations"]) == 9
    assert [(f["x"], f["y"]) for f in cleaned["fixations"]] == [(50, 50), (20, 20), (80, 100)]
    assert clean_fixations(cleaned, (100, 100)) == (cleaned, 0)


# Rendered heatmaps


def heatmap(peak, background=40, size=(370, 370)):
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    values = background + 200 * np.exp(-((x - peak[0]) ** 2 + (y - peak[1]) ** 2) / (2 * 20**2))
    return np.where(values < background + 2, background, values).astype(np.uint8)


def test_heatmap_pictures_lose_their_background_and_keep_their_peak():
    pictures = [heatmap((100, 250)), Image.fromarray(heatmap((300, 40))).convert("RGB")]
    targets = heatmap_targets(pictures, 37)
    assert targets.shape == (2, 37 * 37) and targets.dtype == np.float32
    assert np.unravel_index(targets[0].argmax(), (37, 37)) == (25, 10)
    assert np.unravel_index(targets[1].argmax(), (37, 37)) in ((3, 30), (4, 30), (3, 29), (4, 29))
    assert ((targets == 0).mean(axis=1) > 0.8).all()
    assert targets[0].max() == pytest.approx(pictures[0][250:260, 100:110].mean() / 255, abs=1e-4)


@pytest.mark.parametrize(("channel", "share"), [(0, 0.299), (1, 0.587), (2, 0.114)])
def test_heatmap_luminance_of_colours(channel, share):
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[16:24, 16:24, channel] = 255
    assert heatmap_targets([picture], 5).max() == pytest.approx(share, abs=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(2, 6), st.integers(-80, 80), st.integers(10, 60))
def test_heatmap_pooling_averages_exactly_where_edges_do_not_meet(rows, columns, start, patch):
    """In quarters of a pixel; what lies beyond the picture is black."""
    picture = np.random.default_rng(0).integers(1, 256, (50, 60), dtype=np.uint8)
    crop = np.array([start, start, start + columns * patch, start + rows * patch])
    targets = heatmap_targets([picture], (rows, columns), (60, 50), crop / 4).reshape(rows, columns)
    quarters = np.pad(np.kron(picture, np.ones((4, 4))), 500)
    x0, y0, x1, y1 = crop + 500
    mean = quarters[y0:y1, x0:x1].reshape(rows, patch, columns, patch).mean(axis=(1, 3)) / 255
    kept = targets > 0
    np.testing.assert_allclose(targets[kept], mean[kept], atol=1e-5)
    assert mean[~kept].max() <= mean[kept].min(initial=1) + 1e-5  # what went was the background and below


def test_a_heatmaps_stored_size_does_not_matter():
    large = np.asarray(Image.fromarray(heatmap((100, 250))).resize((740, 740), Image.Resampling.NEAREST))
    crop = (20, 40, 340, 360)
    a = heatmap_targets([heatmap((100, 250))], 16, (370, 370), crop)
    np.testing.assert_allclose(a, heatmap_targets([large], 16, (370, 370), crop), atol=1e-4)


def test_the_background_is_one_of_the_five_most_frequent_values():
    picture = np.full((20, 20), 0, np.uint8)
    inner = np.repeat([200, 180, 160, 140, 20], [54, 53, 52, 51, 46]).astype(np.uint8)
    picture[2:-2, 2:-2] = inner.reshape(16, 16)
    border = np.concatenate([np.arange(21), [20] * 3, [60] * 40, np.arange(80)]).astype(np.uint8)
    border[64:] = np.where(np.isin(border[64:], [20, 60]), 1, border[64:])
    border[20] = 1
    outer = np.ones((20, 20), bool)
    outer[2:-2, 2:-2] = False
    picture[outer] = border
    # 60 fills the border, but is the sixth most frequent value; of the five before it, only 20 stands there.
    targets = heatmap_targets([picture], 20).reshape(20, 20)
    assert np.array_equal(targets > 0, picture > 20)
    assert (picture == 60).sum() == 40


@pytest.mark.parametrize("crop", [(8, 12, 40, 44), (-8.0, 4.0, 24.0, 52.0)])
def test_rendered_targets_of_a_crop(crop):
    fixation = {"x": 20.0, "y": 22.0, "begin": 0.0, "end": 1.0, "sigma_x": 4.0, "sigma_y": 4.0, "shown": []}
    reading = {"sentences": [{"text": "a", "begin": 0.0, "end": 1.0}], "fixations": [fixation]}
    x, y = np.arange(crop[0], crop[2]) + 0.5, np.arange(crop[1], crop[3]) + 0.5
    heat = np.exp(-((x[None] - 20) ** 2 + (y[:, None] - 22) ** 2) / (2 * 4.0**2))
    heat = heat * ((x[None] > 0) & (y[:, None] < 48))
    pixels = rendered_targets(reading, (64, 48), heat.shape, crop)
    assert pixels.dtype == np.float32 and pixels.max() == 1
    np.testing.assert_allclose(pixels[0], heat.ravel() / heat.max(), atol=3 / 255)
    patches = rendered_targets(reading, (64, 48), 8, crop)[1].reshape(8, 8)
    blocks = pixels[0].reshape(8, heat.shape[0] // 8, 8, heat.shape[1] // 8)
    np.testing.assert_allclose(patches, blocks.mean(axis=(1, 3)), atol=1e-6)


def test_heatmaps_must_be_eight_bit_pictures():
    with pytest.raises(ValueError, match=r"pictures\[0\].*8-bit"):
        heatmap_targets([np.zeros((40, 40, 4), np.uint8)], 4)
    with pytest.raises(ValueError, match=r"pictures\[1\].*8-bit"):
        heatmap_targets([heatmap((1, 1)), np.zeros((40, 40))], 4)


# Bad input


def good():
    fixations = [
        {"x": 10.0 * k, "y": 20.0, "begin": float(k), "end": k + 0.5, "sigma_x": 3.0, "sigma_y": 3.0, "shown": []}
        for k in range(4)
    ]
    sentences = [{"text": "clear lungs", "begin": 0.0, "end": 2.0}, {"text": "no effusion", "begin": 2.0, "end": 4.0}]
    return {"reader": "r", "sentences": sentences, "fixations": fixations}


def spoil(part, index, **fields):
    reading = good()
    reading[part][index] = reading[part][index] | fields
    return reading


@pytest.mark.parametrize(
    "reading, message",
    [
        (good() | {"fixations": []}, "gaze: .*holds sentences alone"),
        (good() | {"fixations": None, "sentences": None}, "gaze: .*holds nothing"),
        (spoil("fixations", 2, x=float("nan")), r"gaze.fixations\[2\].*not finite"),
        (spoil("fixations", 1, y=float("inf")), r"gaze.fixations\[1\].*not finite"),
        (spoil("fixations", 1, begin=None), r"gaze.fixations\[1\].*missing"),
        (spoil("fixations", 3, x="left"), r"gaze.fixations\[3\].*numbers"),
        (spoil("fixations", 2, end=1.0), r"gaze.fixations\[2\].*end before its begin"),
        (spoil("fixations", 2, begin=0.2), r"gaze.fixations\[2\].*sort"),
        (spoil("fixations", 2, sigma_x=-1.0), r"gaze.fixations\[2\].*sigma"),
        (spoil("fixations", 2, shown=[5, 5, 5, 9]), r"gaze.fixations\[2\].*empty"),
        (spoil("fixations", 2, shown=[5, 5]), r"gaze.fixations \(shown\)\[2\].*4 numbers"),
        (spoil("sentences", 1, begin=float("nan")), r"gaze.sentences\[1\].*not finite"),
        (spoil("sentences", 1, end=1.0), r"gaze.sentences\[1\].*end before"),
        (spoil("sentences", 0, begin=3.0, end=3.5), r"gaze.sentences\[1\].*sort"),
        (spoil("sentences", 1, text="  "), r"gaze.sentences\[1\].text.*empty"),
    ],
)
def test_malformed_readings_are_refused(reading, message):
    with pytest.raises(ValueError, match=message):
        validate_reading(reading, "gaze")


def test_a_reading_without_sentences_is_one_map_for_the_whole_report():
    for sentences in ({"sentences": []}, {"sentences": None}):
        silent = good() | sentences
        validate_reading(silent)
        targets = gaze_targets(silent, (100, 100), 4)
        assert np.array_equal(targets, gaze_targets(good(), (100, 100), 4)[-1:])


def test_a_good_reading_passes_and_stays_as_it_is():
    reading = good()
    validate_reading(reading)
    gaze_targets(reading, (100, 100), 4)
    assert reading == good()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((0, 100), 4), "image_size"),
        (((100, 100), 0), "grid"),
        (((100, 100), 4, (50, 0, 20, 100)), "crop"),
        (((100, 100), 4, (0, 0, float("nan"), 100)), "crop"),
    ],
)
def test_impossible_geometry_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        gaze_targets(good(), *arguments)
