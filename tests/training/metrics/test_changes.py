"""Scores of how findings have changed."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from processing.comparisons import COMPARED
from training.data.changes import CHANGE_LABELS, change_codes
from training.metrics.changes import change_scores, comparison_scores, stated_changes


@pytest.mark.parametrize(
    ("report", "changes"),
    [
        ("Small left pleural effusion, increased from the prior study.", {"Pleural Effusion": "worse"}),
        ("Mild cardiomegaly, unchanged. Edema has improved.", {"Cardiomegaly": "same", "Edema": "better"}),
        ("Right effusion, unchanged from ___. Left effusion, new since ___.", {"Pleural Effusion": "worse"}),
        ("Left effusion has increased. Right effusion has decreased.", {}),
        ("The previously seen left pneumothorax has resolved.", {"Pneumothorax": "resolved"}),
        ("Moderate edema. No pneumothorax.", {}),
        ("There are no new effusions.", {}),
        ("", {}),
    ],
)
def test_what_reports_state(report, changes):
    assert stated_changes(report) == changes


def test_scores_are_scikit_learns_means_over_findings():
    generator = np.random.default_rng(0)
    findings = ("Edema", "Cardiomegaly")
    truth = [{name: COMPARED[generator.integers(3)] for name in findings} | {"Fracture": "same"} for _ in range(60)]
    truth += [{"Edema": "new", "Cardiomegaly": "resolved"}, {}]
    found = [{name: COMPARED[generator.integers(3)] for name in findings} for _ in range(62)]
    scores = change_scores(truth, found, [str(i // 2) for i in range(62)], findings, rounds=20)
    columns = [([row[name] for row in truth[:60]], [row[name] for row in found[:60]]) for name in findings]
    accuracy = np.mean([balanced_accuracy_score(*column) for column in columns])
    f1 = np.mean([f1_score(*column, average="macro") for column in columns])
    assert scores["change_macro_accuracy"].value == pytest.approx(accuracy)
    assert scores["change_macro_f1"].value == pytest.approx(f1)
    assert scores["change_macro_accuracy"].baselines["always same"] == pytest.approx(1 / 3)
    low, high = scores["change_macro_accuracy"].interval
    assert low <= accuracy <= high and scores["change_macro_accuracy"].on == "120 findings"
    assert scores["change_macro_accuracy/Edema"].value == pytest.approx(balanced_accuracy_score(*columns[0]))


def test_what_is_not_given_is_wrong_and_told_apart():
    truth = [{"Edema": change} for change in COMPARED]
    scores = change_scores(truth, [truth[0], {}, truth[2]], ["a", "b", "c"], ("Edema",), rounds=0)
    assert scores["change_macro_accuracy"].value == pytest.approx(2 / 3)
    assert scores["change_macro_accuracy_where_given"].value == 1
    assert scores["change_share_given"].value == pytest.approx(2 / 3)


def test_comparisons_that_are_false_or_made_without_a_prior():
    reports = [
        "Edema, unchanged from the prior study. Effusion has increased.",
        "Stable cardiomegaly. No pneumothorax.",
        "Clear lungs.",
        "New edema, compared to the prior study.",
    ]
    truth = [{"Edema": "same", "Pleural Effusion": "better"}, None, None, {"Edema": "new"}]
    scores = comparison_scores(reports, truth, list("abcd"), rounds=0)
    assert scores["false_comparisons"].value == pytest.approx(1 / 3)
    assert scores["comparisons_without_prior"].value == 0.5
    nothing = comparison_scores(["Clear."], [{}], ["a"], rounds=0)
    assert nothing["false_comparisons"].not_computed


def test_changes_become_label_codes():
    record = {"changes": [{"label": "Edema", "change": "worse"}, {"label": "Cardiomegaly", "change": "new"}]}
    codes = dict(zip(CHANGE_LABELS, change_codes(record), strict=True))
    assert [codes[f"Edema {change}"] for change in COMPARED] == [0, 0, 1]
    assert {code for name, code in codes.items() if not name.startswith("Edema")} == {-1}
    assert set(change_codes({})) == {-1}
