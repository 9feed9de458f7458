"""Metrics of generated radiology reports: one module per family, all giving sums over reports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..scores import Bootstrap, CorpusStatistic, MetricUnavailable, Score
from .chexbert import chexbert
from .clinical import RADCLIQ_NAMES, green, radcliq, ratescore, semb_score, temporal
from .labels import label_score_names, label_scores
from .natural_language import bleu, cider, meteor, rouge
from .phantom import phantom
from .predictions import ReportPairs, read_predictions
from .radiology import RADGRAPH_LEVELS, bertscore, radgraph, srr_bert
from .structured import section_overlap, section_radgraph, section_srr_bert, structure
from .text import cut_to_tokens, load_tokenizer, protocol_text

# Protocol -> tokens that references of free text are cut to. Under each, metrics of words read one line of printable
# ASCII (`protocol_text`).
PROTOCOLS = {"paper": 100, "whole": 0}


@dataclass
class MetricOptions:
    """Where the metrics' models lie. A model or tokenizer is a folder or a Hub id."""

    reference_tokens: int = field(
        default=100, metadata={"help": "cut references of free text to so many tokens first, bos included; 0 = whole"}
    )
    protocol: Literal["paper", "whole"] | None = field(
        default=None,
        metadata={"help": "paper: references of free text cut to 100 tokens, or an error; whole: not cut"},
    )
    reference_tokenizer: str = field(default="distilgpt2", metadata={"help": "the tokenizer that counts them"})
    chexbert_checkpoint: str = field(
        default="StanfordAIMI/RRG_scorers", metadata={"help": "chexbert.pth, or the folder or Hub id that holds it"}
    )
    chexbert_tokenizer: str = "bert-base-uncased"
    radgraph_model: str = field(
        default="radgraph-xl",
        metadata={"help": "radgraph, radgraph-xl or modern-radgraph-xl, or a folder so named with its files"},
    )
    bertscore_model: str = "distilbert-base-uncased"
    bertscore_layer: int = 5
    bertscore_baseline: str | None = field(
        default=None, metadata={"help": "a file to rescale by; radeval brings those of common models"}
    )
    srr_bert_model: str | None = field(default=None, metadata={"help": "by default the published one of its kind"})
    srr_bert_tokenizer: str = "microsoft/BiomedVLP-CXR-BERT-general"
    srr_bert_kind: str = field(
        default="leaves_with_statuses",
        metadata={"help": "leaves, upper, leaves_with_statuses or upper_with_statuses"},
    )
    radcliq_radgraph_model: str = field(
        default="radgraph", metadata={"help": "RadGraph's first model, or a folder of that name with its files"}
    )
    radcliq_bertscore_model: str = "distilroberta-base"
    radcliq_bertscore_layer: int = 5
    ratescore_ner_model: str = "Angelakeke/RaTE-NER-Deberta"
    ratescore_synonym_model: str = "FremyCompany/BioLORD-2023-C"
    green_model: str = "StanfordAIMI/GREEN-radllama2-7b"
    metrics_python: str | None = field(
        default=None, metadata={"help": "a Python with radeval; by default that of .venv-metrics"}
    )
    timeout: float = field(default=3600, metadata={"help": "seconds for each metric that runs in its own process"})
    device: str = "cpu"
    batch_size: int = 32


@dataclass
class Family:
    """Metrics that are computed together. `names` are the rows that it gives, and that a missing one leaves."""

    compute: Callable[[ReportPairs, MetricOptions], list[CorpusStatistic]]
    names: tuple[str, ...]
    cut_references: bool = True


_PRF = ("precision", "recall", "F1")
FAMILIES = {
    "bleu": Family(bleu, ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")),
    "meteor": Family(meteor, ("METEOR",)),
    "rouge": Family(rouge, ("ROUGE-L",)),
    "cider": Family(cider, ("CIDEr",)),
    "bertscore": Family(bertscore, tuple(f"BERTScore {name}" for name in _PRF)),
    "chexbert": Family(chexbert, label_score_names("CheXbert-14") + label_score_names("CheXbert-5")),
    "radgraph": Family(radgraph, tuple(f"F1-RadGraph {level}" for level in RADGRAPH_LEVELS)),
    "semb": Family(semb_score, ("SembScore",)),
    "radcliq": Family(radcliq, RADCLIQ_NAMES),
    "ratescore": Family(ratescore, ("RaTEScore",)),
    "green": Family(green, ("GREEN",)),
    "temporal": Family(temporal, ("Temporal F1",)),
    "structure": Family(structure, ("Structure validity", *(f"Sections {name}" for name in _PRF)), False),
    "srr_bert": Family(srr_bert, label_score_names("SRR-BERT", ("weighted",)), False),
    "section_overlap": Family(section_overlap, ("Section BLEU-4", "Section ROUGE-L"), False),
    "section_radgraph": Family(
        section_radgraph, tuple(f"Section F1-RadGraph {level}" for level in RADGRAPH_LEVELS), False
    ),
    "section_srr_bert": Family(section_srr_bert, tuple(f"Section SRR-BERT {name}" for name in _PRF), False),
    "phantom": Family(phantom, label_score_names("Phantom labels"), False),
}
FREE_TEXT_FAMILIES = ("bleu", "meteor", "rouge", "cider", "bertscore", "chexbert", "radgraph")
# What ReXrank compares by, beside BLEU.
BOARD_FAMILIES = ("bleu", "semb", "radcliq", "ratescore", "green", "temporal")
STRUCTURED_FAMILIES = ("structure", "srr_bert", "section_overlap", "section_radgraph", "section_srr_bert")


@dataclass
class ReportScores:
    """`references` says what was done to the references of free text."""

    scores: dict[str, Score]
    references: str

    @property
    def values(self) -> dict[str, float]:
        """Name -> value of what was computed."""
        return {name: score.value for name, score in self.scores.items() if score.value is not None}

    @property
    def missing(self) -> list[str]:
        return [name for name, score in self.scores.items() if score.not_computed]


def score_reports(
    pairs: ReportPairs,
    families: Sequence[str] = FREE_TEXT_FAMILIES,
    options: MetricOptions | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ReportScores:
    """Score predictions against references; what cannot be computed keeps its place, with the reason.

    References of free text are first cut to `options.reference_tokens`, as the papers' are. If their tokenizer cannot
    be loaded they stay whole, and the result says so.

    Args:
        families: of `FAMILIES`.
        bootstrap: resamples for the intervals, drawn by `pairs.groups`; 0 = no intervals.

    Raises:
        ValueError: an unknown family.
    """
    options = options or MetricOptions()
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        raise ValueError(f"metrics: {unknown[0]!r} is none of {', '.join(FAMILIES)}.")
    draws = Bootstrap(pairs.groups, bootstrap, seed)
    cut, references = prepare_references(pairs, families, options)
    scores: list[Score] = []
    for name in families:
        family = FAMILIES[name]
        try:
            found = family.compute(cut if family.cut_references else pairs, options)
        except MetricUnavailable as error:
            scores += [Score(each, not_computed=str(error)) for each in family.names]
        else:
            scores += [draws.corpus_score(each, on=f"{len(pairs)} reports") for each in found]
    return ReportScores({score.name: score for score in scores}, references)


def prepare_references(pairs: ReportPairs, families: Sequence[str], options: MetricOptions) -> tuple[ReportPairs, str]:
    """The pairs with references as free text is scored against, and what was done to them.

    Raises:
        ValueError: the protocol asks for a cut, and there is no tokenizer to cut with.
    """
    tokens = PROTOCOLS[options.protocol] if options.protocol else options.reference_tokens
    if not tokens or not any(FAMILIES[name].cut_references for name in families):
        return pairs, "whole"
    try:
        tokenizer = load_tokenizer(options.reference_tokenizer, "reference_tokenizer")
    except MetricUnavailable as error:
        if options.protocol:
            raise ValueError(f"protocol: {options.protocol} cuts references to {tokens} tokens, and {error}") from error
        return pairs, f"whole, unlike the papers' (cut to {tokens} tokens): {error}"
    cut = cut_to_tokens(pairs.references, tokenizer, tokens)
    changed = sum(short != long.strip() for short, long in zip(cut, pairs.references, strict=True))
    how = f"cut to {tokens} tokens of {options.reference_tokenizer}"
    return pairs.with_references(cut), f"{how}; {changed} of {len(pairs)} changed"


__all__ = [
    "BOARD_FAMILIES",
    "FAMILIES",
    "FREE_TEXT_FAMILIES",
    "STRUCTURED_FAMILIES",
    "MetricOptions",
    "ReportPairs",
    "ReportScores",
    "label_scores",
    "prepare_references",
    "protocol_text",
    "read_predictions",
    "score_reports",
]
