"""Scores of structured reports, section by section, as StructEval takes them (Delbrouck et al., ACL 2025).

StructEval itself is on no package index and is bound to transformers 4.39; its measures of one section are `radeval`'s,
and what it does with sections is this: a section that both reports have is scored as a text of its own, one that only
one of them has scores 0, and the mean is taken over all sections of all reports.
"""

from collections.abc import Sequence

import numpy as np

from processing.reports import STRUCTURED_HEADERS, parse_structured, structured_validity

from ..scores import CorpusStatistic, mean_statistic
from .environment import ask
from .predictions import ReportPairs
from .radiology import RADGRAPH_LEVELS, radgraph_levels, srr_bert_labels


def structure(pairs: ReportPairs, options=None) -> list[CorpusStatistic]:
    """Validity of the predictions, and whether they have the references' sections: mean over reports."""
    reference, predicted = _has_sections(pairs.references), _has_sections(pairs.predictions)
    both = (reference & predicted).sum(axis=1)
    sizes = {"precision": predicted.sum(axis=1), "recall": reference.sum(axis=1)}
    sizes["F1"] = (sizes["precision"] + sizes["recall"]) / 2
    return [
        mean_statistic("Structure validity", [structured_validity(text) for text in pairs.predictions]),
        *(mean_statistic(f"Sections {name}", both / np.maximum(size, 0.5)) for name, size in sizes.items()),
    ]


def section_overlap(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """BLEU-4 and ROUGE-L of sections."""
    shared = _SharedSections(pairs)
    arguments = {"references": shared.texts("reference"), "predictions": shared.texts("prediction")}
    scores = ask("overlap", arguments, options.metrics_python, options.timeout) if len(shared) else {}
    return [
        shared.mean("Section BLEU-4", scores.get("bleu", [])),
        shared.mean("Section ROUGE-L", scores.get("rouge", [])),
    ]


def section_radgraph(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """F1-RadGraph of sections."""
    shared = _SharedSections(pairs)
    levels = radgraph_levels(shared.texts("reference"), shared.texts("prediction"), options) if len(shared) else {}
    return [shared.mean(f"Section F1-RadGraph {level}", levels.get(level, [])) for level in RADGRAPH_LEVELS]


def section_srr_bert(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """Precision, recall and F1 of each section's SRR-BERT labels."""
    shared = _SharedSections(pairs)
    names = ("precision", "recall", "F1")
    if not len(shared):
        return [shared.mean(f"Section SRR-BERT {name}", []) for name in names]
    reference, predicted = np.split(srr_bert_labels(shared.references + shared.predictions, options), 2)
    both = (reference & predicted).sum(axis=1)
    sizes = (predicted.sum(axis=1), reference.sum(axis=1))
    divisors = (*sizes, (sizes[0] + sizes[1]) / 2)
    return [
        shared.mean(f"Section SRR-BERT {name}", both / np.maximum(divisor, 0.5))
        for name, divisor in zip(names, divisors, strict=True)
    ]


class _SharedSections:
    """The sections that reference and prediction both have, as lists of utterances."""

    def __init__(self, pairs: ReportPairs):
        self.references: list[list[str]] = []
        self.predictions: list[list[str]] = []
        self.report: list[int] = []
        self.sections_of = np.zeros(len(pairs))
        for row, texts in enumerate(zip(pairs.references, pairs.predictions, strict=True)):
            reference, prediction = (parse_structured(text) for text in texts)
            self.sections_of[row] = len(reference.keys() | prediction.keys())
            for header in STRUCTURED_HEADERS:
                if header in reference and header in prediction:
                    self.references.append(reference[header])
                    self.predictions.append(prediction[header])
                    self.report.append(row)

    def __len__(self) -> int:
        return len(self.report)

    def texts(self, side: str) -> list[str]:
        return ["\n".join(utterances) for utterances in getattr(self, f"{side}s")]

    def mean(self, name: str, per_section: Sequence[float]) -> CorpusStatistic:
        """The mean over all sections; those of one report only count as 0."""
        sums = np.bincount(self.report, weights=per_section, minlength=len(self.sections_of)) if len(self) else 0
        statistics = np.stack([sums * np.ones_like(self.sections_of), self.sections_of], axis=1)
        return CorpusStatistic(name, statistics, lambda totals: totals[..., 0] / np.maximum(totals[..., 1], 1))


def _has_sections(texts: list[str]) -> np.ndarray:
    return np.array([[header in parse_structured(text) for header in STRUCTURED_HEADERS] for text in texts])
