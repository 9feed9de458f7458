"""Paired tests of two systems against scipy's and against enumeration by hand."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from training.metrics.comparison import EXACT_GROUPS, compare
from training.metrics.reports.labels import label_scores
from training.metrics.scores import mean_statistic


def systems(count, shift=0.1, seed=0):
    rng = np.random.default_rng(seed)
    first = rng.random(count)
    return first, np.clip(first + rng.normal(shift, 0.2, count), 0, 1)


def test_few_patients_are_enumerated_as_scipy_does():
    first, second = systems(10)
    found = compare(mean_statistic("m", first), mean_statistic("m", second), range(10), 500)
    # Exchanging the systems' values of one patient turns the sign of its difference.
    scipys = stats.permutation_test(
        (second - first,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert found.exact and found.p_randomisation == pytest.approx(scipys.pvalue)
    assert found.difference == pytest.approx((second - first).mean())


def test_a_corpus_score_is_enumerated_over_whole_patients():
    rng = np.random.default_rng(3)
    truth, one, two = (rng.random((14, 3)) < 0.5 for _ in range(3))
    two = np.where(rng.random((14, 3)) < 0.6, truth, two)
    groups = np.repeat(range(7), 2)
    (own,) = (s for s in label_scores("x", truth, one) if s.name == "x micro F1")
    (other,) = (s for s in label_scores("x", truth, two) if s.name == "x micro F1")

    def f1(predicted):
        return 2 * (truth & predicted).sum() / (truth.sum() + predicted.sum())

    observed = abs(f1(two) - f1(one))
    reached = 0
    for choice in product([False, True], repeat=7):
        swapped = np.repeat(choice, 2)[:, None]
        reached += abs(f1(np.where(swapped, one, two)) - f1(np.where(swapped, two, one))) >= observed - 1e-12
    found = compare(own, other, groups, 300)
    assert found.exact and found.p_randomisation == pytest.approx(reached / 2**7)
    assert found.first == pytest.approx(f1(one)) and found.second == pytest.approx(f1(two))


def test_many_patients_come_near_scipys_permutations_and_bootstrap():
    first, second = systems(60, shift=0.05, seed=5)
    found = compare(mean_statistic("m", first), mean_statistic("m", second), range(60), 5000)
    change = second - first
    scipys = stats.permutation_test((change,), np.mean, permutation_type="samples", n_resamples=5000, rng=0)
    assert not found.exact and found.p_randomisation == pytest.approx(scipys.pvalue, abs=0.02)
    interval = stats.bootstrap((change,), np.mean, method="percentile", n_resamples=5000, rng=0).confidence_interval
    np.testing.assert_allclose(found.interval, interval, atol=0.01)
    # The percentile bootstrap's p value agrees with where its interval lies.
    assert (found.p_bootstrap < 0.05) == (found.interval[0] > 0 or found.interval[1] < 0)


def test_equal_systems_do_not_differ_and_exchanged_ones_mirror():
    first, second = systems(40)
    same = compare(mean_statistic("m", first), mean_statistic("m", first), range(40), 400)
    assert same.p_randomisation == same.p_bootstrap == 1 and same.difference == 0
    there = compare(mean_statistic("m", first), mean_statistic("m", second), range(40), 400)
    back = compare(mean_statistic("m", second), mean_statistic("m", first), range(40), 400)
    assert there.p_randomisation == pytest.approx(back.p_randomisation, abs=0.02)
    assert there.difference == -back.difference
    np.testing.assert_allclose(there.interval, [-back.interval[1], -back.interval[0]])


def test_true_null_is_refused_as_often_as_it_says():
    rng = np.random.default_rng(0)
    values = [
        compare(mean_statistic("m", a), mean_statistic("m", b), range(EXACT_GROUPS), 10).p_randomisation
        for a, b in (rng.random((2, EXACT_GROUPS)) for _ in range(150))
    ]
    assert np.mean(np.array(values) <= 0.1) < 0.18


def test_other_reports_are_refused():
    with pytest.raises(ValueError, match="same reports"):
        compare(mean_statistic("m", [1, 0]), mean_statistic("m", [1, 0, 1]), range(2))
