"""Box scores against counts by hand and brute force."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from training.metrics.boxes import BoxScores, GroundedSentence, average_precision, iou, matches, union_iou

LEFT, RIGHT = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]
NONE = np.zeros((0, 4))


def item(found=(), scores=(), truth=(), label=""):
    return GroundedSentence(np.array(found).reshape(-1, 4), np.array(scores), np.array(truth).reshape(-1, 4), label)


def test_iou_of_boxes_and_of_unions():
    assert iou([LEFT], [LEFT, RIGHT, [0.25, 0, 0.75, 1]])[0].tolist() == pytest.approx([1, 0, 1 / 3])
    assert union_iou(np.array([LEFT, RIGHT]), np.array([[0.0, 0.0, 1.0, 1.0]])) == 1
    assert union_iou(NONE, np.array([LEFT])) == 0
    rng = np.random.default_rng(0)
    for _ in range(20):  # boxes on the raster's own cells
        a, b = (np.sort(rng.integers(0, 257, (2, 2)), axis=0).ravel() / 256 for _ in range(2))
        assert union_iou(a[None], b[None]) == pytest.approx(iou([a], [b])[0, 0], abs=1e-12)


def test_a_box_that_is_there_is_found_once():
    both = item([LEFT, LEFT, RIGHT], [0.9, 0.8, 0.7], [LEFT, RIGHT])
    assert matches(both, 0.5).tolist() == [True, False, True]
    assert matches(item([LEFT], [0.9], []), 0.5).tolist() == [False]


def test_average_precision_is_the_interpolated_area():
    scores, hits = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True])
    # Recall 1/4 at precision 1, 2/4 and 3/4 at the best precision from there on, 3/4; one box is never found.
    assert average_precision(scores, hits, 4) == pytest.approx((1 + 0.75 + 0.75) / 4)
    assert np.isnan(average_precision(scores, hits, 0)) and average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0
    assert average_precision(np.array([1.0, 1.0]), np.array([True, False]), 1) == 0.5  # a tie is no merit
    rng = np.random.default_rng(1)
    for _ in range(10):
        scores, hits = rng.random(30), rng.random(30) < 0.4
        # Without interpolation the area is scikit-learn's, which is never greater.
        assert average_precision(scores, hits, hits.sum()) >= average_precision_score(hits, scores) - 1e-12


def test_scores_over_sentences_and_over_any_choice_of_them():
    items = [
        item([LEFT], [0.9], [LEFT], "effusion"),
        item([RIGHT], [0.8], [LEFT], "effusion"),
        item([], [], [RIGHT], "nodule"),
        item([], [], []),
        item([LEFT], [0.95], []),
    ]
    measured = BoxScores(items)
    found = measured()
    assert found["box_iou"] == pytest.approx(1 / 3)
    assert found["box_none_accuracy"] == 0.5 and found["box_some_accuracy"] == pytest.approx(2 / 3)
    # The best-scored box is a false one: precision 1/2 where the only hit comes; three boxes are there.
    assert found["box_ap@0.3"] == pytest.approx(0.5 / 3)
    assert measured.by_label(0.3) == {"effusion": 0.5, "nodule": 0.0}
    assert found["box_map@0.5"] == 0.25
    again = BoxScores([items[0], items[0], items[3]])()
    assert measured(np.array([0, 0, 3])) == pytest.approx(again, nan_ok=True)
    assert np.isnan(measured(np.array([3]))["box_iou"])
