import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.downstream.subsets import check_patients_apart, missing_classes, stratified_patients


def cohort(seed: int, patients: int = 200, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    ids = np.repeat(np.arange(patients), generator.integers(1, 4, patients))
    positives = generator.random((len(ids), classes)) < np.array([0.4, 0.2, 0.05, 0.02])[:classes]
    return positives, ids


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([0.05, 0.1, 0.3, 0.5, 1.0]))
def test_a_share_of_the_patients_keeps_all_their_images_and_the_classes_shares(seed, fraction):
    positives, patients = cohort(seed)
    rows = stratified_patients(positives, patients, fraction, seed)
    chosen = set(patients[rows])
    assert len(chosen) == max(1, round(fraction * 200))
    assert rows.tolist() == np.flatnonzero(np.isin(patients, list(chosen))).tolist()
    for column in range(positives.shape[1]):
        available = len(set(patients[positives[:, column]]))
        kept = len(set(patients[rows][positives[rows, column]]))
        assert kept >= min(available, max(1, round(fraction * available)) if fraction >= 0.1 else 1)
        assert kept <= 2 * fraction * available + 4


def test_draws_follow_the_seed():
    positives, patients = cohort(0)
    draws = [stratified_patients(positives, patients, 0.1, seed).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_patients_without_a_class_fill_the_rest():
    positives = np.zeros((100, 1), bool)
    positives[:10] = True
    rows = stratified_patients(positives, np.arange(100), 0.2)
    assert positives[rows].sum() == 2 and len(rows) == 20


def test_missing_classes_say_what_there_is():
    positives = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0]], bool)
    assert missing_classes(positives, ["a", "b", "c"]) == {
        "a": "3 positives and 0 negatives",
        "b": "0 positives and 3 negatives",
    }
    assert set(missing_classes(positives, ["a", "b", "c"], negatives=False)) == {"b"}
    assert set(missing_classes(positives, ["a", "b", "c"], minimum=2)) == {"a", "b", "c"}


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_fractions_outside_0_and_1_are_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        stratified_patients(np.ones((3, 1), bool), range(3), fraction)


def test_a_patient_in_two_splits_is_refused():
    check_patients_apart({"train": ["a", "b", "a"], "test": ["c"]})
    with pytest.raises(ValueError, match="test: patient b is in train"):
        check_patients_apart({"train": ["a", "b"], "test": ["c", "b"]})
