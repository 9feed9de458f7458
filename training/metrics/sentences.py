"""Whether a generated sentence is right, by labels and by where the findings lie."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from processing.datasets.records import NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN

from .calibration import expected_calibration_error

NO_FINDING = "No Finding"
_SIDES = {"left": re.compile(r"\bleft\b|\bleft-sided\b", re.I), "right": re.compile(r"\bright\b|\bright-sided\b", re.I)}


def sentence_is_right(
    said: Sequence[int],
    known: Sequence[int],
    names: Sequence[str],
    text: str = "",
    regions: Sequence[Mapping] = (),
    width: float | None = None,
) -> bool | None:
    """Whether all that a sentence says holds; None where it says nothing that the labels know.

    What it affirms (or suspects) must be labelled present (or suspected), what it denies must not be. Where it names
    one side, and the picture shows regions of what it affirms, one of them must lie on that side: the patient's right
    is the picture's left.

    Args:
        said, known: a label code for each of `names`, of the sentence and of the study.
        regions: of the record, in pixels of an original of this width; none: sides are not judged.
    """
    mentioned = [place for place, code in enumerate(said) if code != NOT_MENTIONED and names[place] != NO_FINDING]
    if not mentioned:
        return None
    present = (POSITIVE, UNCERTAIN)
    if any((said[place] in present) != (known[place] in present) for place in mentioned):
        return False
    sides = [side for side, pattern in _SIDES.items() if pattern.search(text)]
    if len(sides) != 1 or width is None:
        return True
    affirmed = {names[place] for place in mentioned if said[place] != NEGATIVE}
    middles = [(region["box"][0] + region["box"][2]) / 2 for region in regions if region["label"] in affirmed]
    left = [middle > width / 2 for middle in middles]
    return not middles or any(left if sides == ["left"] else [not side for side in left])


def risk_coverage(support: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of sentences kept, most supported first, and the share of wrong ones among them: (N,) and (N,)."""
    order = np.argsort(-np.asarray(support), kind="stable")
    wrong = np.cumsum(~np.asarray(right, bool)[order])
    count = np.arange(1, len(order) + 1)
    return count / len(order), wrong / count


def risk_at(support: np.ndarray, right: np.ndarray, coverage: float) -> float:
    """The share of wrong sentences among this share of the most supported ones."""
    kept, risk = risk_coverage(support, right)
    return float(risk[np.searchsorted(kept, coverage - 1e-9)])


def trust_scores(support: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """AUROC of telling right sentences from wrong ones, calibration error, and the risk at 70 % and 100 % coverage."""
    from sklearn.metrics import roc_auc_score

    right = np.asarray(right, bool)
    both = right.any() and not right.all()
    return {
        "support_auroc": float(roc_auc_score(right, support)) if both else float("nan"),
        "support_ece": expected_calibration_error(np.asarray(support), right.astype(float)),
        "risk_at_70": risk_at(support, right, 0.7),
        "risk_at_100": risk_at(support, right, 1.0),
    }


__all__ = ["risk_at", "risk_coverage", "sentence_is_right", "trust_scores"]
