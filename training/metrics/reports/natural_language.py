"""BLEU, METEOR, ROUGE-L and CIDEr of `pycocoevalcap`, on `protocol_text`."""

import shutil
import subprocess
from pathlib import Path

import numpy as np

from ..scores import CorpusStatistic, MetricUnavailable, mean_statistic
from .predictions import ReportPairs
from .text import protocol_text

# METEOR 1.5's parameters for English, which the jar applies by default (Denkowski and Lavie, WMT 2014).
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MODULE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_METEOR_STATISTICS = 23
_METEOR_TIMEOUT = 1800


def bleu(pairs: ReportPairs, options=None) -> list[CorpusStatistic]:
    """BLEU-1 to BLEU-4, of the whole corpus."""
    scorer = _package("bleu.bleu_scorer").BleuScorer(n=4)
    for prediction, reference in _prepared(pairs):
        scorer += (prediction, [reference])
    statistics = np.array(
        [[row["testlen"], *row["reflen"], *row["correct"], *row["guess"]] for row in scorer.ctest], dtype=np.float64
    )
    return [
        CorpusStatistic(f"BLEU-{order}", statistics, lambda totals, order=order: _bleu(totals, order))
        for order in range(1, 5)
    ]


def _bleu(totals: np.ndarray, order: int) -> np.ndarray:
    """Totals (..., 10) of length, reference length, matched n-grams and n-grams; with pycocoevalcap's two epsilons."""
    correct, guess = totals[..., 2 : 2 + order], totals[..., 6 : 6 + order]
    precision = np.exp(np.log((correct + 1e-15) / (guess + 1e-9)).mean(axis=-1))
    ratio = (totals[..., 0] + 1e-15) / (totals[..., 1] + 1e-9)
    return precision * np.exp(np.minimum(0, 1 - 1 / ratio))


def rouge(pairs: ReportPairs, options=None) -> list[CorpusStatistic]:
    """ROUGE-L (F with beta 1.2), the mean over reports."""
    scorer = _package("rouge.rouge").Rouge()
    return [mean_statistic("ROUGE-L", [scorer.calc_score([pred], [ref]) for pred, ref in _prepared(pairs)])]


def cider(pairs: ReportPairs, options=None) -> list[CorpusStatistic]:
    """CIDEr, the mean over reports; document frequencies are those of the file's references, in every resample too."""
    scorer = _package("cider.cider_scorer").CiderScorer(n=4, sigma=6.0)
    for prediction, reference in _prepared(pairs):
        scorer += (prediction, [reference])
    return [mean_statistic("CIDEr", scorer.compute_score()[1])]


def meteor(pairs: ReportPairs, options=None) -> list[CorpusStatistic]:
    """METEOR 1.5 of the whole corpus, by the jar that `pycocoevalcap` brings.

    Raises:
        MetricUnavailable: there is no `java`, or it fails.
    """
    jar = Path(_package("meteor.meteor").__file__).with_name("meteor-1.5.jar")
    if shutil.which("java") is None:
        raise MetricUnavailable(
            "METEOR runs in Java, and there is no `java` on the PATH; install a Java runtime (17 is known to work), "
            "for example with `apt install openjdk-17-jre-headless`."
        )
    lines = [
        "SCORE ||| {} ||| {}\n".format(reference.replace("|||", " "), prediction.replace("|||", " "))
        for prediction, reference in _prepared(pairs)
    ]
    command = ["java", "-Xmx2G", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        done = subprocess.run(
            command, cwd=jar.parent, input="".join(lines), capture_output=True, text=True, timeout=_METEOR_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailable(f"METEOR's Java process did not end within {_METEOR_TIMEOUT} s.") from error
    rows = [line.split() for line in done.stdout.splitlines()]
    if done.returncode or len(rows) != len(lines) or any(len(row) != _METEOR_STATISTICS for row in rows):
        reason = (done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["no output"])[-1]
        raise MetricUnavailable(f"METEOR's Java process failed (exit code {done.returncode}: {reason}).")
    return [CorpusStatistic("METEOR", _without_perfect_chunks(np.array(rows, dtype=np.float64)), _meteor)]


def _without_perfect_chunks(statistics: np.ndarray) -> np.ndarray:
    """METEOR counts the one chunk of a prediction that equals its reference as none, in the corpus' sum too."""
    chunks, lengths, matched = statistics[:, 20], statistics[:, :2], statistics[:, 21:23]
    perfect = (chunks == 1) & (lengths == matched).all(axis=1)
    return np.concatenate([statistics[:, :20], np.where(perfect, 0, chunks)[:, None], matched], axis=1)


def _meteor(totals: np.ndarray) -> np.ndarray:
    """Totals (..., 23) in the jar's order: lengths and function words of prediction and reference, for each of four
    matchers the matched content words of both and function words of both, chunks, matched words of both."""
    matches = totals[..., 4:20].reshape(*totals.shape[:-1], 4, 4)

    def share(side):
        content, function = matches[..., side], matches[..., 2 + side]
        matched = ((_DELTA * content + (1 - _DELTA) * function) * _MODULE_WEIGHTS).sum(axis=-1)
        length, functions = totals[..., side], totals[..., 2 + side]
        return matched / np.maximum(_DELTA * (length - functions) + (1 - _DELTA) * functions, 1e-12)

    precision, recall = share(0), share(1)
    f_mean = precision * recall / np.maximum(_ALPHA * precision + (1 - _ALPHA) * recall, 1e-12)
    chunks, matched = totals[..., 20], totals[..., 21:23].mean(axis=-1)
    fragmentation = chunks / np.maximum(matched, 1e-12)
    penalty = _GAMMA * fragmentation**_BETA
    return f_mean * (1 - penalty)


def _prepared(pairs: ReportPairs) -> list[tuple[str, str]]:
    return [
        (protocol_text(prediction), protocol_text(reference))
        for prediction, reference in zip(pairs.predictions, pairs.references, strict=True)
    ]


def _package(module: str):
    from importlib import import_module

    try:
        return import_module(f"pycocoevalcap.{module}")
    except ImportError as error:
        raise MetricUnavailable(f"{error}; install it with `pip install pycocoevalcap`.") from error
