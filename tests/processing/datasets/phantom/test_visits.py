"""Phantom patients who come again: truth, wording, records."""

import functools

import numpy as np
import pytest

from processing.comparisons import change_in, comparisons, without_comparisons
from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.phantom.loading import _written, load_phantom, phantom_records
from processing.datasets.phantom.text import write_report
from processing.datasets.phantom.visits import STEP, changes_of, draw_visit
from processing.datasets.records import record_features

STUDIES = 240


def report_of(plan, context, past):
    return write_report(plan, context, functools.partial(_written, plan=plan, past=past))


def text_of(sentences) -> str:
    return " ".join(sentence.text for sentence in sentences)


@pytest.fixture(scope="module")
def visits():
    return [draw_visit("train", index) for index in range(STUDIES)]


def test_patients_come_in_order_and_again(visits):
    names = [plan.study_id for plan, _, _ in visits]
    assert len(set(names)) == STUDIES and draw_visit("train", 7)[0] == visits[7][0]
    later = [index for index, (_, _, past) in enumerate(visits) if past]
    assert len(later) == STUDIES * 5 // 8
    for index in later:
        (plan, context, past), (before, _, _) = visits[index], visits[index - 1]
        assert plan.patient == before.patient and context.visit and past.days >= 1
        assert all(lesion in before.lesions for lesion in past.gone)


def test_findings_evolve_as_their_change_says(visits):
    seen = set()
    for index, (plan, _, past) in enumerate(visits):
        if past is None:
            continue
        before = {lesion.seed: lesion for lesion in visits[index - 1][0].lesions}
        for lesion, change in zip(plan.lesions, past.changes, strict=True):
            earlier = before.get(lesion.seed)
            seen.add(change)
            assert (earlier is None) == (change == "new")
            if change in ("worse", "better"):
                assert (lesion.severity - earlier.severity) * (1 if change == "worse" else -1) >= STEP
            elif earlier is not None:
                assert lesion == earlier
    assert seen == {"", "same", "worse", "better", "new"}


def test_sentences_compare_truthfully_and_only_with_a_prior(visits):
    compared = 0
    for plan, context, past in visits:
        alone, findings = (report_of(plan, context, each).findings for each in (None, past))
        assert comparisons(text_of(alone)) == []
        assert without_comparisons(text_of(findings)) == text_of(alone)
        if past is None:
            continue
        for sentence in findings:
            changes = {past.changes[lesion] for lesion in sentence.lesions}
            said = change_in(sentence.text)
            if sentence.lesions and said:
                assert changes == {said}
                compared += 1
            elif said:
                assert said == "resolved" and past.gone
    assert compared > STUDIES / 2


def test_labels_and_changes_are_what_the_text_says(visits):
    for plan, context, past in visits:
        report = report_of(plan, context, past)
        assert phantom_labels(f"{text_of(report.findings)} {text_of(report.impression)}") == list(report.labels)
        changes = {each["label"]: each["change"] for each in changes_of(plan, past)}
        assert "Support Devices" not in changes and bool(changes) <= (past is not None)


def test_records_hold_their_companions(tmp_path):
    options = {"size": 8, "image_size": 48, "num_proc": 1, "cache_dir": tmp_path}
    dataset = load_phantom("test", priors=True, views=True, **options)
    assert dataset.features == record_features()
    by_id = {record["image_id"]: record for record in dataset}
    priors = views = 0
    for record in dataset:
        for companion in record["companions"]:
            other = by_id[companion["image_id"]]
            np.testing.assert_array_equal(np.asarray(companion["image"]), np.asarray(other["image"]))
            assert companion["view_position"] == other["view_position"]
            if companion["role"] == "view":
                views += 1
                assert other["study_id"] == record["study_id"] and companion["days"] == 0
            else:
                priors += 1
                assert other["patient_id"] == record["patient_id"] and other["study_id"] < record["study_id"]
                assert record["prior_findings"] == other["findings"] and companion["days"] >= 1
        earlier = [each for each in record["companions"] if each["role"] == "prior"]
        assert len(earlier) <= 1 and bool(earlier) == record["study_id"][-1].isdigit() * (
            record["study_id"][-2:] != "s0"
        )
    assert priors and views
    plain = load_phantom("test", priors=False, **options)
    assert plain["image_id"] == dataset["image_id"]
    assert not any(plain["prior_findings"]) and not any(map(len, plain["changes"]))
    for record, other in zip(plain, dataset, strict=True):
        np.testing.assert_array_equal(np.asarray(record["image"]), np.asarray(other["image"]))
        assert record["findings"] == without_comparisons(other["findings"])


def test_a_study_is_the_same_alone():
    together = phantom_records("train", 5, 0, 32, priors=True)
    earlier = phantom_records("train", 4, 0, 32, priors=True)
    assert phantom_records("train", 5, 0, 32, priors=True, earlier=earlier) == together
