"""How findings have changed since an earlier study: what reports state of it, and scores against the truth.

A study's truth is a mapping from finding to one of `comparisons.CHANGES`. Texts are read by rules: comparisons by
`processing.comparisons`, findings by the phantom's labeler, whose words are those of CheXpert's mentions.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from processing.comparisons import CHANGE_FINDINGS, COMPARED, change_in, combined, comparisons
from processing.datasets.phantom.labeler import MENTIONS
from processing.reports import split_sentences

from .scores import Bootstrap, Score

_MENTIONS = {name: re.compile(pattern, re.I) for name, pattern in MENTIONS.items()}


def stated_changes(report: str, findings: Sequence[str] = CHANGE_FINDINGS) -> dict[str, str]:
    """Finding -> change, of the findings that a report compares; those called better here and worse there are not."""
    said: dict[str, list[str]] = {}
    for sentence in split_sentences(report):
        change = change_in(sentence)
        for name in findings if change else ():
            if _MENTIONS[name].search(sentence):
                said.setdefault(name, []).append(change)
    both = {name: combined(changes) for name, changes in said.items()}
    return {name: change for name, change in both.items() if change}


def change_scores(
    truth: Sequence[Mapping[str, str]],
    found: Sequence[Mapping[str, str]],
    groups: Sequence[str],
    findings: Sequence[str] = CHANGE_FINDINGS,
    rounds: int = 200,
    prefix: str = "change",
) -> dict[str, Score]:
    """Macro accuracy and macro F1 of better, same and worse, with intervals.

    Of each finding the recalls, or F1, of the three classes are averaged, then the findings. A finding for which no
    change is given counts as wrong; "... where given" leaves those out. Beside them: always "same".

    Args:
        truth, found: per study finding -> change; other changes than the three are no part of the truth.
        groups: per study, what is resampled together: the patient.
    """
    codes = {name: index for index, name in enumerate(COMPARED)}
    shape = len(truth), len(findings)
    true, given = np.full(shape, -1), np.full(shape, -1)
    for row, (own, other) in enumerate(zip(truth, found, strict=True)):
        for column, name in enumerate(findings):
            true[row, column] = codes.get(own.get(name), -1)
            given[row, column] = codes.get(other.get(name), -1)
    always = np.full(shape, codes["same"])

    def statistics(rows: np.ndarray) -> dict[str, float]:
        values = {}
        for name, kept in (("", true[rows]), ("_where_given", np.where(given[rows] >= 0, true[rows], -1))):
            values[f"{prefix}_macro_accuracy{name}"], values[f"{prefix}_macro_f1{name}"] = _macro(kept, given[rows])
        return values

    scores = Bootstrap(groups, rounds).scores(statistics, chance=1 / 3, on=f"{int((true >= 0).sum())} findings")
    accuracy, f1 = _macro(true, always)
    for name, score in scores.items():
        score.baselines["always same"] = f1 if "f1" in name else accuracy
    judged = true >= 0
    share = float((given[judged] >= 0).mean()) if judged.any() else float("nan")
    scores[f"{prefix}_share_given"] = Score(f"{prefix}_share_given", share)
    for column, name in enumerate(findings):
        own = true[:, [column]]
        if (own >= 0).any():
            accuracy, _ = _macro(own, given[:, [column]])
            counts = ", ".join(f"{(own == code).sum()} {each}" for each, code in codes.items())
            label = f"{prefix}_macro_accuracy/{name}"
            scores[label] = Score(label, accuracy, on=counts)
    return scores


def _macro(true: np.ndarray, given: np.ndarray) -> tuple[float, float]:
    """Mean over findings (columns) and classes of recall and F1; classes without truth are left out."""
    recalls, f1s = [], []
    for own, other in zip(true.T, given.T, strict=True):
        judged = own >= 0
        of_finding = [(own == code, (other == code) & judged) for code in range(len(COMPARED))]
        present = [(t, g) for t, g in of_finding if t.any()]
        if present:
            recalls.append(np.mean([(t & g).sum() / t.sum() for t, g in present]))
            f1s.append(np.mean([2 * (t & g).sum() / (t.sum() + g.sum()) for t, g in present]))
    return (float(np.mean(recalls)), float(np.mean(f1s))) if recalls else (float("nan"), float("nan"))


def comparison_scores(
    reports: Sequence[str],
    truth: Sequence[Mapping[str, str] | None],
    groups: Sequence[str],
    rounds: int = 200,
    findings: Sequence[str] = CHANGE_FINDINGS,
) -> dict[str, Score]:
    """Whether what reports compare is so.

    Args:
        truth: None for a study that was given no prior: whatever its report compares is made up.
    Returns:
        false_comparisons: the share of the stated changes of findings that are not so; comparisons_without_prior: the
        mean number of comparing sentences in reports without a prior.
    """
    stated, false, alone, made_up = (np.zeros(len(reports)) for _ in range(4))
    for row, (report, own) in enumerate(zip(reports, truth, strict=True)):
        if own is None:
            alone[row], made_up[row] = 1, len(comparisons(report))
            continue
        said = stated_changes(report, findings)
        stated[row] = len(said)
        false[row] = sum(own.get(name) != change for name, change in said.items())
    counts = {"false_comparisons": (false, stated), "comparisons_without_prior": (made_up, alone)}
    on = {
        "false_comparisons": f"{int(stated.sum())} stated changes",
        "comparisons_without_prior": f"{int(made_up.sum())} sentences in {int(alone.sum())} reports",
    }
    bootstrap, scores = Bootstrap(groups, rounds), {}
    for name, (part, whole) in counts.items():

        def share(rows: np.ndarray, name=name, part=part, whole=whole) -> dict[str, float]:
            total = whole[rows].sum()
            return {name: float(part[rows].sum() / total) if total else float("nan")}

        scores |= bootstrap.scores(share, on=on[name])
    return scores
