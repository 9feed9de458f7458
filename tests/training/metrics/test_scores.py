"""One score, and the bootstrap of its interval."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics.reports import ReportPairs
from training.metrics.reports.natural_language import bleu
from training.metrics.scores import Bootstrap, CorpusStatistic, Score, from_json, mean_statistic, to_json

REFERENCES = ["the heart is normal in size .", "the lungs are clear .", "moderate cardiomegaly .", "a picc line ."]
PREDICTIONS = ["heart size is normal .", "lungs are clear bilaterally .", "moderate cardiomegaly . no effusion .", ""]

numbers = st.floats(-10, 10)
scores = st.builds(
    Score,
    st.text(min_size=1),
    numbers,
    interval=st.none() | st.tuples(numbers, numbers),
    std=st.none() | numbers,
    chance=st.none() | numbers,
    baselines=st.dictionaries(st.text(), numbers, max_size=2),
    published=st.lists(st.fixed_dictionaries({"system": st.text(), "value": numbers}), max_size=2),
    on=st.none() | st.text(min_size=1),
)


@given(scores)
def test_a_score_survives_its_file(score):
    text = json.dumps(to_json([score]))
    assert from_json(json.loads(text)) == {score.name: score}


def test_a_score_that_was_not_computed_keeps_the_reason():
    scores = to_json([Score("METEOR", not_computed="there is no java"), Score("zero", 0.0)])
    assert scores == {"METEOR": {"not_computed": "there is no java"}, "zero": {"value": 0.0}}
    assert from_json(scores)["METEOR"].shown() == "not computed: there is no java"


@pytest.mark.parametrize("values", [0.5, {"mean": 0.5, "interval": [0.4, 0.6]}, {"value": 0.5, "low": 0.4}, {}])
def test_another_form_is_refused_by_name(values):
    with pytest.raises(ValueError, match="scores: 'macro_auroc' is no score of this version; measure it again"):
        from_json({"macro_auroc": values})


def test_a_score_as_text():
    score = Score("auroc", 0.66071, (0.6422, 0.678), std=0.01)
    assert score.shown() == "0.661 [0.642, 0.678] ± 0.010" and score.shown("+").startswith("+0.661 [+0.642")
    assert Score("auroc", 0.5, chance=0.25, baselines={"mean map": 0.3}).beside == {"chance": 0.25, "mean map": 0.3}


# The bootstrap


def test_whole_groups_are_drawn_as_rows_and_as_weights_alike():
    groups = ["p1", "p1", "p2", "p3", "p3"]
    draws = Bootstrap(groups, rounds=50)
    assert draws.weights.shape == (50, 5)
    assert (draws.weights[:, 0] == draws.weights[:, 1]).all() and (draws.weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    np.testing.assert_array_equal(draws.weights, [np.bincount(rows, minlength=5) for rows in draws])


def test_the_interval_is_the_percentiles_of_a_loop_by_hand():
    values, groups = np.random.default_rng(0).normal(size=20), np.repeat(np.arange(8), [1, 2, 3, 4, 1, 2, 3, 4])
    generator, drawn = np.random.default_rng(3), []
    for _ in range(40):
        chosen = generator.integers(8, size=8)
        drawn.append(np.mean([values[row] for group in chosen for row in np.flatnonzero(groups == group)]))
    (score,) = Bootstrap(groups, rounds=40, seed=3).means({"mean": values}, on="20 images").values()
    assert score == Score("mean", values.mean(), tuple(np.percentile(drawn, [2.5, 97.5])), on="20 images")


def test_a_corpus_score_equals_a_loop_that_scores_each_resample_again():
    pairs = ReportPairs.from_lists(REFERENCES, PREDICTIONS)
    draws = Bootstrap(pairs.groups, rounds=40, seed=3)
    values = []
    for rows in draws:
        resample = ReportPairs.from_lists([REFERENCES[i] for i in rows], [PREDICTIONS[i] for i in rows])
        values.append(bleu(resample)[0].value)
    score = draws.corpus_score(bleu(pairs)[0])
    assert score.name == "BLEU-1" and score.interval == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_interval_of_a_mean_has_the_width_of_its_standard_error_and_groups_widen_it():
    values = np.random.default_rng(0).normal(size=400)
    low, high = Bootstrap(range(400), rounds=2000).corpus_score(mean_statistic("mean", values)).interval
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    values = np.repeat(values[:40], 10)
    alone = Bootstrap(range(400), 500).means({"mean": values})["mean"].interval
    grouped = Bootstrap(np.repeat(range(40), 10), 500).means({"mean": values})["mean"].interval
    assert np.ptp(grouped) > 2 * np.ptp(alone)


def test_a_difference_is_paired():
    """Two systems that differ by a constant differ by it in every draw."""
    values = np.random.default_rng(0).normal(size=30)
    draws = Bootstrap(range(30), 100)
    found = draws.differences(lambda rows: {"b": (values[rows] + 0.5).mean(), "a": values[rows].mean()}, "a")
    assert found["b"].value == pytest.approx(0.5) and found["b"].interval == pytest.approx((0.5, 0.5))
    assert found["a"].interval == (0, 0)


def test_what_is_not_defined_has_a_reason_and_zero_rounds_give_no_interval():
    values = np.arange(4.0)

    def statistics(rows):
        # Not defined in some draws, of which nothing is taken.
        return {"never": np.nan, "mostly": values[rows].mean() if 0 in rows else np.nan}

    found = Bootstrap(range(4), 50).scores(statistics)
    assert found["never"].value is None and found["never"].not_computed and np.isfinite(found["mostly"].interval).all()
    assert Bootstrap(range(4), 0).scores(statistics)["mostly"] == Score("mostly", 1.5)
    assert Bootstrap(range(4), 0).corpus_score(mean_statistic("mean", values)) == Score("mean", 1.5)


def test_statistics_add_up():
    statistic = CorpusStatistic(
        "ratio", np.array([[1.0, 2.0], [3.0, 4.0]]), lambda totals: totals[..., 0] / totals[..., 1]
    )
    assert statistic.value == pytest.approx(4 / 6)
