"""Boxes out of gaze maps: components against scipy's, invariances, pixels of the original, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from transformers.utils import ModelOutput

from modeling_cogaze import CoGazeConfig, EgmaConfig
from processing import CoGazeProcessor, EgmaProcessor
from processing.boxes import UPSAMPLED, BoxSettings, _components, _smoothed, map_boxes, map_confidence
from processing.datasets.phantom.study import draw_study
from processing.datasets.phantom.text import write_report
from processing.statements import affirms, topic
from processing.tokenization import build_tokenizer
from tests import small

GRID = (8, 8)


def a_map(*places, grid=GRID):
    """A distribution whose mass lies on patches (row, column, weight)."""
    values = torch.zeros(grid)
    for row, column, weight in places:
        values[row, column] = weight
    return (values / values.sum()).reshape(1, -1)


@pytest.fixture(scope="module", params=["cogaze", "egma"])
def processor(request):
    classes = {"cogaze": (CoGazeConfig, CoGazeProcessor, small.COGAZE), "egma": (EgmaConfig, EgmaProcessor, small.EGMA)}
    config_class, processor_class, size = classes[request.param]
    config = config_class.tiny(vocab_size=300, **size)
    return processor_class.for_model(build_tokenizer(["cough"], 300), config)


def test_regions_are_those_of_scipy_and_boxes_enclose_them():
    rng = np.random.default_rng(0)
    mask = torch.from_numpy(rng.random((6, 20, 17)) < 0.4)
    own = _components(mask)
    for ours, plain in zip(own.numpy(), mask.numpy(), strict=True):
        theirs, count = ndimage.label(plain, structure=np.ones((3, 3)))
        pairs = set(zip(ours[plain], theirs[plain], strict=True))
        assert len(pairs) == count == len(set(ours[plain])) and not ours[~plain].any()


def test_a_map_of_two_places_has_two_boxes_in_the_order_of_their_mass():
    boxes, scores = map_boxes(a_map((1, 1, 0.4), (6, 5, 0.6)), GRID, BoxSettings(0.5, 0, min_share=0.05))
    assert boxes[0].shape == (2, 4) and scores[0][0] > scores[0][1] > 0
    for box, (row, column) in zip(boxes[0], ((6, 5), (1, 1)), strict=True):
        x0, y0, x1, y1 = (box * 8).tolist()
        assert x0 <= column + 0.5 <= x1 and y0 <= row + 0.5 <= y1 and x1 - x0 <= 2
    plain = BoxSettings(threshold=0.5, smoothing=0)
    assert len(map_boxes(a_map((1, 1, 0.4), (6, 5, 0.6)), GRID, BoxSettings(0.5, 0, min_share=0.5))[0][0]) == 1
    assert (
        len(map_boxes(a_map((1, 1, 0.4), (6, 5, 0.6)), GRID, BoxSettings(0.5, 0, min_share=0.05, max_boxes=1))[0][0])
        == 1
    )
    even = torch.full((1, 64), 1 / 64)
    assert map_confidence(even).abs().item() < 1e-6 and map_confidence(a_map((0, 0, 1))).item() == pytest.approx(1)
    assert len(map_boxes(even, GRID, BoxSettings(min_confidence=0.1))[0][0]) == 0
    torch.testing.assert_close(map_boxes(even, GRID, plain)[0][0], torch.tensor([[0.0, 0.0, 1.0, 1.0]]))


def test_smoothing_is_scipys_gaussian():
    values = torch.rand(2, 1, 12, 9, generator=torch.Generator().manual_seed(0))
    for sigma in (0.7, 1.0):
        expected = ndimage.gaussian_filter(
            values.numpy().astype(np.float64), (0, 0, sigma, sigma), mode="nearest", radius=(0, 0, 3, 3)
        )
        if int(np.ceil(3 * sigma)) == 3:
            np.testing.assert_allclose(_smoothed(values, sigma).numpy(), expected, atol=1e-6)
    assert torch.equal(_smoothed(values, 0), values)


maps = st.lists(st.floats(0.001, 1), min_size=64, max_size=64).map(lambda v: torch.tensor([v]) / sum(v))


@settings(max_examples=25, deadline=None)
@given(maps, st.floats(0.2, 0.95), st.sampled_from([0, 0.5, 1.5]))
def test_boxes_lie_in_the_map_follow_its_mirror_and_do_not_hang_on_the_batch(gaze, threshold, smoothing):
    chosen = BoxSettings(threshold, smoothing, min_share=0.0, max_boxes=100)
    (boxes,), (scores,) = map_boxes(gaze, GRID, chosen)
    assert len(boxes) and (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert (scores.diff() <= 1e-7).all() and 0 < scores.sum() <= 1
    x, y = boxes[:, 0] * 8 * UPSAMPLED, boxes[:, 1] * 8 * UPSAMPLED
    torch.testing.assert_close(x, x.round()), torch.testing.assert_close(y, y.round())
    mirrored = gaze.reshape(1, 8, 8).flip(2).reshape(1, 64)
    together, _ = map_boxes(torch.cat([mirrored, gaze, mirrored]), GRID, chosen)
    torch.testing.assert_close(together[1], boxes)
    back = together[0][:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([1, 0, 1, 0])
    assert {tuple(b) for b in (back * 32).round().int().tolist()} == {
        tuple(b) for b in (boxes * 32).round().int().tolist()
    }


def grounded(boxes, sentences=("Small left effusion.",), reports=1):
    count = len(sentences)
    return ModelOutput(
        sequences=torch.zeros(reports, 3, dtype=torch.long),
        sentences=list(sentences),
        sentence_report_index=torch.arange(count) % reports,
        boxes=[torch.tensor(boxes).reshape(-1, 4)] * count,
        box_scores=[torch.full((len(boxes),), 0.5)] * count,
        map_confidence=torch.full((count,), 0.4),
        text_confidence=torch.full((count,), 0.9),
    )


def test_boxes_in_pixels_of_the_original_whatever_size_the_picture_was_stored_at(processor):
    share = [[0.25, 0.5, 0.5, 0.75]]
    for size, picture in (((640, 480), None), ((640, 480), (320, 240)), ((300, 900), None)):
        x0, y0, x1, y1 = processor.crop_box(picture or size, size)
        ((entry,),) = processor.post_process_grounding(grounded(share), [size], picture and [picture])
        expected = [x0 + 0.25 * (x1 - x0), y0 + 0.5 * (y1 - y0), x0 + 0.5 * (x1 - x0), y0 + 0.75 * (y1 - y0)]
        expected = np.clip(expected, 0, [*size, *size])
        np.testing.assert_allclose(entry["boxes"][0], expected, rtol=1e-4, atol=0.02)
    ((entry,),) = processor.post_process_grounding(grounded([[0.0, 0.0, 1.0, 1.0]]), [(640, 480)])
    assert min(entry["boxes"][0]) >= 0 and entry["boxes"][0][2] <= 640 and entry["boxes"][0][3] <= 480


def test_a_radiograph_resized_keeps_its_boxes_and_reports_keep_their_pictures(processor):
    one = processor.post_process_grounding(grounded([[0.2, 0.2, 0.4, 0.4]]), [(400, 300)])[0][0]["boxes"][0]
    two = processor.post_process_grounding(grounded([[0.2, 0.2, 0.4, 0.4]]), [(800, 600)])[0][0]["boxes"][0]
    np.testing.assert_allclose(np.array(two) / 2, one, rtol=0.02)
    several = grounded([[0.2, 0.2, 0.4, 0.4]], ["a"] * 4, reports=4)
    found = processor.post_process_grounding(several, [(400, 300), (800, 600)])
    np.testing.assert_allclose(found[1][0]["boxes"][0], one)
    np.testing.assert_allclose(found[2][0]["boxes"][0], two)


def test_sentences_that_deny_have_no_box(processor):
    rows, columns = processor.grid_size
    flat = torch.zeros(rows * columns)
    flat[3] = 1
    texts = ["There is a small effusion.", "No pneumothorax.", "The lungs are clear."]
    boxes, scores = processor.sentence_boxes(flat.expand(3, -1), texts, threshold=0.5)
    assert [len(each) for each in boxes] == [len(each) for each in scores] == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("No pleural effusion or pneumothorax.", False),
        ("Small left effusion without pneumothorax.", True),
        ("The lungs are without focal consolidation.", False),
        ("No pneumothorax, but there is a small effusion.", True),
        ("Pneumonia cannot be excluded.", True),
        ("Heart size is normal.", False),
        ("The previously seen effusion has resolved.", False),
        ("No change of the large right effusion.", True),
        ("PA and lateral views of the chest were obtained.", False),
        ("Endotracheal tube tip 4 cm above the carina.", True),
        ("Lungs are clear and there is no pneumothorax.", False),
    ],
)
def test_what_a_sentence_states(text, states):
    assert affirms(text) is states


def test_statements_agree_with_what_phantom_sentences_are_made_to_say():
    checked = 0
    for index in range(120):
        plan, context = draw_study("test", index)
        for sentence in write_report(plan, context).findings:
            if sentence.mentions:
                checked += 1
                assert affirms(sentence.text) == any(code in (1, 2) for code in sentence.mentions.values()), sentence
    assert checked > 500
    assert topic("There is no pleural effusion.") == "There is pleural effusion."


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda p: p.sentence_boxes(torch.ones(1, 5)), "gaze_maps"),
        (lambda p: p.sentence_boxes(torch.full((1, p.grid_size[0] * p.grid_size[1]), float("nan"))), "gaze_maps"),
        (lambda p: p.sentence_boxes(torch.ones(1, p.grid_size[0] * p.grid_size[1]), ["a", "b"]), "sentences"),
        (lambda p: p.sentence_boxes(torch.ones(1, p.grid_size[0] * p.grid_size[1]), threshold=2), "threshold"),
        (lambda p: p.sentence_boxes(torch.ones(1, p.grid_size[0] * p.grid_size[1]), colour=2), "box_settings"),
        (lambda p: p.boxes_of_original(torch.tensor([[0.2, 0.2, 1.4, 0.9]]), (100, 100)), "boxes"),
        (lambda p: p.boxes_of_original(torch.tensor([[0.6, 0.2, 0.4, 0.9]]), (100, 100)), "boxes"),
        (lambda p: p.post_process_grounding(grounded([[0, 0, 1, 1.0]]), []), "image_size"),
    ],
)
def test_wrong_input_is_named(processor, call, named):
    with pytest.raises(ValueError, match=named):
        call(processor)
