import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.datasets.phantom.gaze import dictated, simulate_reading
from processing.datasets.phantom.plan import Rendering
from processing.datasets.phantom.text import Sentence

SIZE = (2000, 1000)
SENTENCES = (
    Sentence("There is a small nodule in the left upper lobe, unchanged from ___.", (0,), ("left upper lobe",)),
    Sentence("There is a large right pleural effusion with adjacent right lower lobe atelectasis.", (1, 2)),
    Sentence("The heart is normal in size.", (), ("heart",)),
    Sentence("No pneumothorax is seen on either side of the chest.", (), ("left apex", "right apex")),
    Sentence("PA and lateral views of the chest were obtained.", ()),
)
# Where things lie, as (x0, y0, x1, y1) in shares of the picture.
LESIONS = [(0.7, 0.2, 0.75, 0.26), (0.1, 0.6, 0.35, 0.8), None]
ANATOMY = {
    "left lung": (0.55, 0.15, 0.9, 0.7),
    "right lung": (0.1, 0.15, 0.45, 0.7),
    "left upper lobe": (0.55, 0.15, 0.9, 0.4),
    "heart": (0.42, 0.5, 0.7, 0.75),
    "left apex": (0.6, 0.1, 0.75, 0.2),
    "right apex": (0.25, 0.1, 0.4, 0.2),
}


def filled(box, size):
    canvas = np.zeros((size, size))
    if box:
        x0, y0, x1, y1 = (round(edge * size) for edge in box)
        canvas[y0:y1, x0:x1] = 1
    return canvas


RENDERING = Rendering(
    image=np.zeros((100, 100), np.uint8),
    lesion_masks=[filled(box, 100).astype(bool) for box in LESIONS],
    anatomy={name: filled(box, 64).astype(np.float32) for name, box in ANATOMY.items()},
)


def read(seed, sentences=SENTENCES, rendering=RENDERING, **options):
    return simulate_reading(sentences, rendering, SIZE, np.random.default_rng(seed), **options)


def share_inside(reading, sentence, boxes, margin=0.03):
    """Of the fixations within a sentence, the share near the boxes."""
    said = reading["sentences"][sentence]
    inside = []
    for fixation in reading["fixations"]:
        if said["begin"] <= (fixation["begin"] + fixation["end"]) / 2 <= said["end"]:
            x, y = fixation["x"] / SIZE[0], fixation["y"] / SIZE[1]
            inside.append(any(a - margin <= x <= c + margin and b - margin <= y <= d + margin for a, b, c, d in boxes))
    return inside


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_times_and_places_are_possible(seed):
    reading = read(seed)
    edges = [time for fixation in reading["fixations"] for time in (fixation["begin"], fixation["end"])]
    assert edges == sorted(edges) and edges[0] >= 0
    for fixation in reading["fixations"]:
        assert 0.149 <= fixation["end"] - fixation["begin"] <= 0.601
        x0, y0, x1, y1 = fixation["shown"]
        assert 0 <= x0 < x1 <= SIZE[0] and 0 <= y0 < y1 <= SIZE[1]
        assert x0 <= fixation["x"] <= x1 and y0 <= fixation["y"] <= y1
        assert fixation["sigma_x"] / fixation["sigma_y"] == pytest.approx(SIZE[0] / SIZE[1], rel=0.02)
    edges = [time for sentence in reading["sentences"] for time in (sentence["begin"], sentence["end"])]
    assert edges == sorted(edges) and edges[0] >= 2
    for sentence in reading["sentences"]:
        assert 1.5 <= len(sentence["text"].split()) / (sentence["end"] - sentence["begin"]) <= 3
    assert reading["fixations"][0]["begin"] < reading["sentences"][0]["begin"] - 1
    assert reading["fixations"][-1]["end"] <= reading["sentences"][-1]["end"]


@pytest.mark.parametrize(
    ("sentence", "boxes"),
    [
        (0, [LESIONS[0]]),
        (1, [LESIONS[1]]),
        (2, [ANATOMY["heart"]]),
        (3, [ANATOMY["left apex"], ANATOMY["right apex"]]),
    ],
)
def test_eyes_are_on_what_is_said(sentence, boxes):
    during = np.concatenate([share_inside(read(seed), sentence, boxes) for seed in range(40)])
    others = [other for other in range(len(SENTENCES)) if other != sentence]
    chance = np.concatenate([share_inside(read(seed), other, boxes) for seed in range(40) for other in others])
    assert 0.6 < during.mean() < 0.97  # distractors remain
    assert during.mean() > chance.mean() + 0.3


def test_eyes_lead_the_voice():
    leading = []
    for seed in range(60):
        reading = read(seed)
        begin = reading["sentences"][2]["begin"]
        x0, y0, x1, y1 = ANATOMY["heart"]
        leading += [
            x0 <= fixation["x"] / SIZE[0] <= x1 and y0 <= fixation["y"] / SIZE[1] <= y1
            for fixation in reading["fixations"]
            if begin - 0.45 <= fixation["begin"] and fixation["end"] <= begin
        ]
    assert len(leading) > 20 and np.mean(leading) > 0.5


def test_both_sides_are_looked_at_in_turn():
    left, right = (
        np.concatenate([share_inside(read(seed), 3, [ANATOMY[side]]) for seed in range(40)])
        for side in ("left apex", "right apex")
    )
    assert left.mean() > 0.25 and right.mean() > 0.25


def test_magnified_stretches_show_less_and_have_a_smaller_sigma():
    zoomed, whole = [], []
    for seed in range(60):
        for fixation in read(seed)["fixations"]:
            x0, _, x1, _ = fixation["shown"]
            (zoomed if x1 - x0 < SIZE[0] else whole).append((fixation["sigma_x"], (x1 - x0) / SIZE[0]))
    assert 0 < len(zoomed) < 0.3 * len(whole)
    assert max(sigma for sigma, _ in zoomed) < min(sigma for sigma, _ in whole)


def test_a_lesion_that_the_view_hides_is_looked_for_in_its_place():
    hidden = Rendering(RENDERING.image, [np.zeros((100, 100), bool)] * 3, RENDERING.anatomy)
    during = np.concatenate(
        [share_inside(read(seed, rendering=hidden), 0, [ANATOMY["left upper lobe"]]) for seed in range(40)]
    )
    assert during.mean() > 0.6


def test_what_is_left_out_is_about_no_lesion():
    assert [len(read(seed)["sentences"]) for seed in range(5)] == [5] * 5
    assert len(read(0, leave_out=1.0)["sentences"]) == 2
    assert {len(read(seed, leave_out=0.5)["sentences"]) for seed in range(20)} >= {3, 4}


def test_a_reading_without_sentences_is_a_search():
    reading = read(0, sentences=())
    assert reading["sentences"] == [] and 2 < len(reading["fixations"]) < 40


def test_same_randomness_same_reading():
    assert read(3) == read(3) != read(4)


def test_dictation_shortens():
    spoken = {dictated(SENTENCES[0].text, np.random.default_rng(seed)) for seed in range(40)}
    assert spoken == {
        SENTENCES[0].text,
        "There is a small nodule in the left upper lobe.",
        "Small nodule in the left upper lobe.",
        "Small nodule in the left upper lobe, unchanged from ___.",
    }
