"""What scores the runs of experiments, on rendered radiographs of unseen patients."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset

from processing.datasets.phantom.loading import GALLERY_CLASSES, load_phantom, load_phantom_gallery

from ..data.loading import load_data
from ..evaluation.alignment import facts, measure
from ..evaluation.classes import evaluate_classes
from ..evaluation.prompts import PROMPTS, read_class_prompts, read_prompts
from ..evaluation.scorers import Scorer, load_scorer
from ..metrics.reports import MetricOptions
from ..metrics.scores import Score, to_json
from ..reports.writing import one_per_study, open_writer, score_rows, write_rows
from ..runs.provenance import measured_on
from .plan import phantom_options
from .real import score_real

LABEL_F1 = "Phantom labels micro F1"


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def score_dual_encoder(folder: Path, scoring: dict, settings: dict) -> dict:
    """Zero-shot, retrieval, gaze agreement and grounding of what pretraining has left in `folder`.

    Args:
        scoring: options of the phantom's splits, "train" (for the gaze's baselines), "validation" (for F1's thresholds;
            none if absent), "test" and "gallery"; "classes": tell the gallery's findings apart too; "bootstrap".
            With "real", real radiographs (`score_real`); the phantom's are then scored where there is "test" alone.
        settings: of the pretraining; of its train_data the test's pictures are like.
    """
    scorer, rounds = load_scorer(str(folder), device=device()), scoring.get("bootstrap", 200)
    scores: dict[str, Score] = {}
    measured = None
    if "real" in scoring:
        scores, measured = score_real(scorer, scoring["real"], folder, rounds)
    if "test" in scoring or measured is None:
        on_phantom, test = _score_on_phantom(scorer, scoring, settings)
        scores |= on_phantom
        measured = test if measured is None else measured
    return {"scores": to_json(scores.values())} | facts(scorer, measured)


def _score_on_phantom(scorer: Scorer, scoring: dict, settings: dict) -> tuple[dict[str, Score], Dataset]:
    options = phantom_options(settings)
    splits = {
        split: load_phantom(split, **options | scoring[split]) if split in scoring else None
        for split in ("train", "validation", "test")
    }
    alone = {name: value for name, value in options.items() if name not in ("priors", "views")}
    gallery = load_phantom_gallery(**alone | scoring.get("gallery", {}))
    prompts, rounds = read_prompts(PROMPTS), scoring.get("bootstrap", 200)
    scores = measure(scorer, **splits, gallery=gallery, prompts=prompts, rounds=rounds)
    if settings.get("no_context"):
        # It has never read a context.
        scores = {name: score for name, score in scores.items() if "_context" not in name}
    if scoring.get("classes"):
        scores |= score_classes(scorer, gallery, rounds)
    return scores, splits["test"]


def score_classes(scorer: Scorer, gallery, rounds: int) -> dict[str, Score]:
    """The gallery's findings told apart, by the best and by the mean of a class's prompts."""
    scores, usual = {}, scorer.ensemble
    for scorer.ensemble in ("max", "mean"):
        found = evaluate_classes(scorer, gallery, *read_class_prompts(), list(GALLERY_CLASSES), rounds)
        for score in found.values():
            name = f"{score.name}_{scorer.ensemble}"
            scores[name] = replace(score, name=name)
    scorer.ensemble = usual
    return scores


def score_reports(folder: Path, scoring: dict, settings: dict, checkpoint: str | None = None) -> dict:
    """What a generator says of each study; writes `reports.jsonl`.

    Args:
        folder: to write into, and the generator's unless `checkpoint` is given.
        scoring: "test_data", "bootstrap", and "constrain": let nothing but valid structured reports through.
        settings: of its training.
    """
    test = load_data(scoring.get("test_data", {"name": "phantom", "split": "test"}), "test_data")
    use_context = not settings.get("no_context")
    writer = open_writer(checkpoint or str(folder), device(), batch_size=64, use_context=use_context)
    if scoring.get("constrain"):
        writer.constrain()
    rows = list(writer.rows(test, one_per_study(test)))
    write_rows(folder / "reports.jsonl", rows)
    structured = writer.prepare.report_kind == "structured"
    scores = report_scores(rows, scoring.get("bootstrap", 1000), ("structure",) * structured)
    add_most_frequent_report(scores, rows, load_data(settings["train_data"], "train_data"))
    return {"scores": to_json(scores.values()), "studies": len(rows), "measured_on": measured_on(test)}


def report_scores(rows: list[dict], bootstrap: int, families: tuple[str, ...] = ()) -> dict[str, Score]:
    """Scores of the labels without No Finding, with intervals over patients, and BLEU."""
    found = score_rows(rows, ("phantom", "bleu", *families), bootstrap, MetricOptions(reference_tokens=0))
    return found.scores


def most_frequent_report(rows: list[dict], train) -> list[dict]:
    """The rows, had every study been given the most frequent report of `train`."""
    report, _ = Counter(train["findings"]).most_common(1)[0]
    return [row | {"generated_report": report} for row in rows]


def add_most_frequent_report(scores: dict[str, Score], rows: list[dict], train) -> None:
    """Put beside the scores what the most frequent report of `train` reaches."""
    for name, score in report_scores(most_frequent_report(rows, train), 0).items():
        scores[name].baselines["most frequent report"] = score.value
