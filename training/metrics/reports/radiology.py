"""F1-RadGraph, BERTScore and F1-SRR-BERT, by `radeval` in its own environment."""

import numpy as np

from ..scores import CorpusStatistic, mean_statistic
from .environment import ask
from .labels import label_scores
from .predictions import ReportPairs

RADGRAPH_LEVELS = ("simple", "partial", "complete")


def radgraph(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """F1-RadGraph (Delbrouck et al., EMNLP Findings 2022): entities; with whether related; with their relations."""
    levels = radgraph_levels(pairs.references, pairs.predictions, options)
    return [mean_statistic(f"F1-RadGraph {level}", levels[level]) for level in RADGRAPH_LEVELS]


def radgraph_levels(references: list[str], predictions: list[str], options) -> dict[str, list[float]]:
    arguments = {"references": references, "predictions": predictions, "model": options.radgraph_model}
    needs = (
        f"RadGraph's model {options.radgraph_model!r} and the BERT that its config.json names: {options.radgraph_model}"
        ".tar.gz of StanfordAIMI/RRG_scorers, or unpacked, a folder given with --radgraph_model"
    )
    return ask("radgraph", arguments, options.metrics_python, options.timeout, needs)


def bertscore(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """BERTScore (Zhang et al., ICLR 2020), the mean over reports; rescaled where a baseline is known."""
    arguments = {
        "references": pairs.references,
        "predictions": pairs.predictions,
        "model": options.bertscore_model,
        "layer": options.bertscore_layer,
        "baseline": options.bertscore_baseline,
        "batch_size": options.batch_size,
    }
    needs = f"the model {options.bertscore_model!r}; give a folder with --bertscore_model"
    answer = ask("bertscore", arguments, options.metrics_python, options.timeout, needs)
    suffix = " (rescaled)" if answer["rescaled"] else ""
    return [mean_statistic(f"BERTScore {name}{suffix}", answer[name.lower()]) for name in ("precision", "recall", "F1")]


def srr_bert(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """F1-SRR-BERT (Delbrouck et al., ACL 2025) of whole reports, averaged over labels by their frequency."""
    labels = srr_bert_labels(pairs.references + pairs.predictions, options)
    reference, predicted = np.split(labels, 2)
    return label_scores("SRR-BERT", reference, predicted, ("weighted",))


def srr_bert_labels(texts: list, options) -> np.ndarray:
    """(N, C) bool: the labels of each text, which is whole (a string) or a list of utterances."""
    arguments = {
        "texts": texts,
        "model": options.srr_bert_model,
        "tokenizer": options.srr_bert_tokenizer,
        "kind": options.srr_bert_kind,
        "batch_size": options.batch_size,
    }
    needs = (
        f"SRR-BERT ({options.srr_bert_model or 'StanfordAIMI, ' + options.srr_bert_kind}) and its tokenizer "
        f"({options.srr_bert_tokenizer}); give folders with --srr_bert_model and --srr_bert_tokenizer. Whole reports "
        "also need NLTK's punkt_tab (python -m nltk.downloader punkt_tab)"
    )
    answer = ask("srr_bert", arguments, options.metrics_python, options.timeout, needs)
    labels = np.zeros((len(texts), len(answer["names"])), dtype=bool)
    for row, found in enumerate(answer["labels"]):
        labels[row, found] = True
    return labels
