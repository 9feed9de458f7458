import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.metrics.alignment import (
    auroc_per_label,
    best_f1_threshold,
    f1_at,
    gaze_pointing_game,
    jensen_shannon,
    phrase_grounding,
    retrieval_scores,
)


def test_retrieval_by_hand():
    similarity = np.array([[0.9, 0.5, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]])
    relevant = np.array([[True, False, True, False], [True, False, False, False]])
    scores = retrieval_scores(similarity, relevant, precision_at=(1, 2), hit_rate_at=(2, 4))
    assert scores["p@1"] == 0.5
    assert scores["p@2"] == 0.25
    assert scores["r@2"] == 0.5
    assert scores["r@4"] == 1.0
    assert scores["p@1_chance"] == pytest.approx((2 + 1) / 2 / 4)
    # C(2,2)/C(4,2) = 1/6 and C(3,2)/C(4,2) = 1/2 of the pairs hold no relevant item.
    assert scores["r@2_chance"] == pytest.approx(((1 - 1 / 6) + (1 - 1 / 2)) / 2)
    assert scores["r@4_chance"] == 1.0


def test_queries_without_a_relevant_item_are_left_out():
    similarity = np.array([[0.9, 0.5], [0.1, 0.2]])
    relevant = np.array([[True, False], [False, False]])
    scores = retrieval_scores(similarity, relevant, (1,), ())
    assert scores["queries"] == 1
    assert scores["p@1"] == 1.0


def test_chance_is_what_random_orders_reach():
    generator = np.random.default_rng(0)
    relevant = generator.random((400, 30)) < 0.2
    relevant[:, 0] = True
    scores = retrieval_scores(generator.random((400, 30)), relevant)
    assert scores["p@5"] == pytest.approx(scores["p@5_chance"], abs=0.04)
    assert scores["r@5"] == pytest.approx(scores["r@5_chance"], abs=0.05)


def test_auroc_leaves_rare_labels_out():
    targets = np.zeros((40, 2))
    targets[:20, 0] = 1
    targets[0, 1] = 1
    scores = np.stack([targets[:, 0], targets[:, 1]], axis=1)
    assert auroc_per_label(scores, targets, ["often", "rare"]) == {"often": 1.0}


def test_best_threshold_separates():
    targets = np.array([0, 0, 0, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.9])
    assert f1_at(scores, targets, best_f1_threshold(scores, targets)) == 1.0


maps = arrays(np.float64, (3, 16), elements=st.floats(0.01, 1.0))


@given(maps, maps)
def test_jensen_shannon_is_a_bounded_symmetric_distance(p, q):
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    value = jensen_shannon(p, q)
    assert (value >= -1e-12).all() and (value <= np.log(2) + 1e-12).all()
    np.testing.assert_allclose(value, jensen_shannon(q, p))
    np.testing.assert_allclose(jensen_shannon(p, p), 0, atol=1e-12)


def test_jensen_shannon_of_disjoint_maps_is_ln_2():
    assert jensen_shannon(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == pytest.approx(np.log(2))


def test_pointing_game_counts_a_quarter_of_the_patches():
    recorded = np.arange(1.0, 17.0)[None].repeat(16, axis=0)
    assert gaze_pointing_game(np.eye(16), recorded).tolist() == [False] * 12 + [True] * 4
    # A patch that was never looked at is no hit, whatever its rank.
    assert not gaze_pointing_game(np.eye(4)[:1], np.zeros((1, 4)))[0]


def test_phrase_grounding_by_hand():
    predicted = np.array([[0.7, 0.1, 0.1, 0.1], [0.0, 0.2, 0.4, 0.4]])
    coverage = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    hits, contrast = phrase_grounding(predicted, coverage)
    assert hits.tolist() == [True, False]
    assert contrast[0] > 1e3
    assert contrast[1] == pytest.approx((0.1 - 0.4) / 0.1)
