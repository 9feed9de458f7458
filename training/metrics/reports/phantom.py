"""Label F1 of phantom reports, by the phantom's own labeler."""

import numpy as np

from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.records import CHEXBERT_OBSERVATIONS, label_targets
from processing.reports import plain_findings

from ..scores import CorpusStatistic, MetricUnavailable
from .labels import label_scores
from .predictions import ReportPairs


def phantom(pairs: ReportPairs, options=None) -> list[CorpusStatistic]:
    """Precision, recall and F1 over the observations, No Finding left out of the average.

    The known labels of the file count as truth; without any, the labels of the reference text. Headers of structured
    reports say nothing.
    """
    predicted = np.array([phantom_labels(plain_findings(text)) for text in pairs.predictions])
    truth = pairs.labels
    if truth is None:
        truth = np.array([phantom_labels(plain_findings(text)) for text in pairs.references])
    if truth.shape != predicted.shape:
        raise MetricUnavailable(
            f"the column labels holds {truth.shape[1]} codes per row; phantom studies have {predicted.shape[1]}, in "
            "the order of CheXbert's observations."
        )
    kept = [index for index, name in enumerate(CHEXBERT_OBSERVATIONS) if name != "No Finding"]
    return label_scores("Phantom labels", label_targets(truth)[:, kept], label_targets(predicted)[:, kept])
