import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from training.metrics.downstream import classification_scores, dice_scores, f1_thresholds


def test_classification_scores_are_scikit_learns():
    generator = np.random.default_rng(0)
    targets = (generator.random((60, 3)) < [0.5, 0.2, 0.0]).astype(float)
    scores = np.clip(targets * 0.3 + generator.random((60, 3)) * 0.7, 0, 1)
    names = ["a", "b", "c"]
    found = classification_scores(scores, targets, names, {"a": 0.4, "b": 0.6, "c": 0.5})
    auroc = [roc_auc_score(targets[:, c], scores[:, c]) for c in (0, 1)]
    f1 = [f1_score(targets[:, c], scores[:, c] >= threshold) for c, threshold in ((0, 0.4), (1, 0.6))]
    assert found == pytest.approx(
        {
            "macro_auroc": np.mean(auroc),
            "macro_f1": np.mean(f1),
            "auroc/a": auroc[0],
            "auroc/b": auroc[1],
            "f1/a": f1[0],
            "f1/b": f1[1],
        }
    )


def test_the_threshold_is_the_best_on_its_own_data():
    generator = np.random.default_rng(1)
    targets = (generator.random((80, 2)) < 0.3).astype(float)
    scores = np.clip(targets * 0.2 + generator.random((80, 2)) * 0.8, 0, 1)
    thresholds = f1_thresholds(scores, targets, ["a", "b"])
    for column, name in enumerate(("a", "b")):
        best = max(f1_score(targets[:, column], scores[:, column] >= t) for t in np.unique(scores[:, column]))
        assert f1_score(targets[:, column], scores[:, column] >= thresholds[name]) == pytest.approx(best)
    assert f1_thresholds(scores, targets * [1, 0], ["a", "b"]).keys() == {"a"}


def test_dice_of_empty_masks_is_one_where_nothing_is_predicted():
    overlap, predicted = np.array([[4], [0], [0]]), np.array([[8], [0], [3]])
    mask = np.array([[8], [0], [0]])
    found = dice_scores(overlap, predicted, mask, ["effusion"])
    assert found == pytest.approx(
        {"dice": (0.5 + 1 + 0) / 3, "dice_lesion": 0.5, "dice/effusion": 0.5, "dice_lesion/effusion": 0.5}
    )


def test_dice_is_the_mean_over_findings_and_leaves_out_findings_without_a_lesion():
    overlap, predicted, mask = np.array([[2, 0]]), np.array([[2, 0]]), np.array([[4, 0]])
    found = dice_scores(overlap, predicted, mask, ["a", "b"])
    assert found["dice"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["dice_lesion"] == pytest.approx(2 / 3) and "dice_lesion/b" not in found
    assert np.isnan(dice_scores(overlap * 0, predicted * 0, mask * 0, ["a", "b"])["dice_lesion"])
