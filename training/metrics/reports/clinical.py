"""The metrics that boards of generated reports compare by: SembScore, RadCliQ-v1, RaTEScore, GREEN and temporal F1.

SembScore is taken of the published CheXbert; the others run in `radeval`'s own code, in the metrics' environment.
"""

import numpy as np
import torch

from ..scores import CorpusStatistic, MetricUnavailable, mean_statistic
from .chexbert import checkpoint_path, chexbert_embeddings, load_chexbert, open_chexbert
from .environment import ask
from .predictions import ReportPairs

RADCLIQ_NAMES = ("RadCliQ-v1 (less is better)", "1/RadCliQ-v1", "RadGraph combined", "BERTScore F1 (RadCliQ-v1's)")


def semb_score(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """Cosine of CheXbert's embeddings of both reports, the mean over reports (Yu et al., Patterns 2023)."""
    model, tokenizer = open_chexbert(options)
    found = chexbert_embeddings(
        pairs.references + pairs.predictions, model, tokenizer, options.device, options.batch_size
    )
    reference, predicted = torch.from_numpy(found).chunk(2)
    return [mean_statistic("SembScore", torch.cosine_similarity(reference, predicted).numpy())]


def radcliq(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """RadCliQ-v1 (Yu et al., Patterns 2023), and its reciprocal as ReXrank shows it, with the parts it is made of.

    BERTScore's weights of words are those of the file's references, in every resample too.
    """
    config = load_chexbert(options.chexbert_checkpoint).bert.config.to_dict()
    arguments = {
        "references": pairs.references,
        "predictions": pairs.predictions,
        "radgraph_model": options.radcliq_radgraph_model,
        "chexbert": str(checkpoint_path(options.chexbert_checkpoint).resolve()),
        "chexbert_config": config,
        "chexbert_tokenizer": options.chexbert_tokenizer,
        "bertscore_model": options.radcliq_bertscore_model,
        "bertscore_layer": options.radcliq_bertscore_layer,
    }
    needs = (
        f"RadGraph's first model ({options.radcliq_radgraph_model}: radgraph.tar.gz of StanfordAIMI/RRG_scorers, "
        f"unpacked, with --radcliq_radgraph_model), {options.radcliq_bertscore_model} "
        "(--radcliq_bertscore_model) and bert-base-uncased's tokenizer (--chexbert_tokenizer)"
    )
    answer = ask("radcliq", arguments, options.metrics_python, options.timeout, needs)
    composite = mean_statistic(RADCLIQ_NAMES[0], answer["radcliq"])
    return [
        composite,
        CorpusStatistic(RADCLIQ_NAMES[1], composite.statistics, lambda totals: 1 / composite.combine(totals)),
        mean_statistic(RADCLIQ_NAMES[2], answer["radgraph"]),
        mean_statistic(RADCLIQ_NAMES[3], answer["bertscore"]),
    ]


def ratescore(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """RaTEScore (Zhao et al., EMNLP 2024), the mean over reports."""
    arguments = {"ner": options.ratescore_ner_model, "synonyms": options.ratescore_synonym_model}
    needs = (
        f"the models {options.ratescore_ner_model} (--ratescore_ner_model) and {options.ratescore_synonym_model} "
        "(--ratescore_synonym_model): config.json, model.safetensors and the tokenizer's files of each"
    )
    return [_one("ratescore", "RaTEScore", pairs, options, arguments, needs)]


def green(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """GREEN (Ostmeier et al., EMNLP Findings 2024), by its 7B language model, the mean over reports."""
    needs = f"the language model {options.green_model}; give its folder with --green_model"
    return [_one("green", "GREEN", pairs, options, {"model": options.green_model}, needs)]


def temporal(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """Temporal entity F1 (Zhang et al., Libra, 2024), the mean over reports."""
    needs = (
        "the package stanza and its English radiology models (stanza.download('en', package='radiology', "
        "processors={'tokenize': 'default', 'ner': 'radiology'}), or STANZA_RESOURCES_DIR)"
    )
    return [_one("temporal", "Temporal F1", pairs, options, {}, needs)]


def _one(operation: str, name: str, pairs: ReportPairs, options, arguments: dict, needs: str) -> CorpusStatistic:
    arguments = {"references": pairs.references, "predictions": pairs.predictions} | arguments
    answer = ask(operation, arguments, options.metrics_python, options.timeout, needs)
    scores = np.asarray(answer["scores"], dtype=np.float64)
    if len(scores) != len(pairs):
        raise MetricUnavailable(f"{name} gave {len(scores)} scores for {len(pairs)} reports.")
    return mean_statistic(name, scores)


__all__ = ["RADCLIQ_NAMES", "green", "radcliq", "ratescore", "semb_score", "temporal"]
