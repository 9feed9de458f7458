"""The demo: render, pretrain `tiny`, evaluate on unseen patients, draw gaze maps, teach it to write reports.

With `COGAZE_REAL_DATA`, a folder of NIH ChestX-ray14 (`processing.datasets.sources.nih_sample`), real radiographs with
their labels join the pretraining, and others of other patients say how it reads them.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml
from datasets import Dataset

from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.phantom.loading import load_phantom, load_phantom_gallery
from processing.datasets.registry import load

from ..evaluation.alignment import against_normal, facts, measure
from ..evaluation.prompts import PROMPTS, read_prompts
from ..evaluation.scorers import Scorer, load_scorer
from ..evaluation.shortcuts import shortcut_auroc
from ..figures.maps import draw_gaze, draw_report, positive_names
from ..metrics.scores import Score, to_json
from ..pretraining.training import pretrain
from ..reports.training import train_report_generator
from ..reports.writing import one_per_study, open_writer, write_rows
from ..runs.files import CONFIGS, write_json
from ..runs.provenance import ON_PHANTOM
from .scoring import LABEL_F1, add_most_frequent_report, report_scores

Step = Callable[[str], None]


def run_demo(output_dir: Path, config: str, report_config: str = str(CONFIGS / "report" / "demo.yaml")) -> dict:
    """Writes `metrics.json`, `gaze.png`, `report.json`, `reports.jsonl`, `report.png` and the two models.

    Args:
        config: of the pretraining. report_config: of the report generator's training.
    Returns:
        What `metrics.json` holds.
    """
    checkpoint = output_dir / "cogaze-tiny"
    start = time.monotonic()

    def step(text: str) -> None:
        print(f"\n[{(time.monotonic() - start) / 60:4.1f} min] {text}", flush=True)

    real = real_radiographs()
    step("Rendering radiographs of healthy and ill patients from a CT")
    splits = {split: load_phantom(split) for split in ("train", "validation", "test")}
    gallery = load_phantom_gallery()
    joined = f" and {len(real['train'])} real ones" if real else ""
    step(f"Pretraining CoGaze tiny on {len(splits['train'])} radiographs{joined}")
    pretrain(["--config", config, "--output_dir", str(checkpoint), *(joining_flags() if real else [])])
    step(f"Scoring {len(splits['test'])} radiographs of unseen patients")
    scorer = load_scorer(str(checkpoint))
    prompts = read_prompts(PROMPTS)
    scores = measure(scorer, **splits, gallery=gallery, prompts=prompts)
    step("Checking that no shortcut solves the task")
    scores |= shortcut_auroc(splits["train"], splits["test"])
    draw_gaze(scorer, splits["test"], output_dir / "gaze.png")
    if real:
        scores |= score_real_radiographs(scorer, prompts, real["val"])
    minutes = (time.monotonic() - start) / 60
    metrics = {"scores": to_json(scores.values())} | facts(scorer, splits["test"]) | {"minutes": minutes}
    write_json(output_dir / "metrics.json", metrics)
    print(alignment_summary(scores, metrics["measured_on"], output_dir, real and len(real["train"])))
    demo_reports(checkpoint, splits["train"], splits["test"], output_dir, step, report_config)
    return metrics


def real_radiographs() -> dict[str, Dataset] | None:
    """ "train" and "val" of the folder that `COGAZE_REAL_DATA` names; None without it.

    Raises:
        ValueError: the folder holds none of the listed radiographs; says where they can be had.
    """
    root = os.environ.get("COGAZE_REAL_DATA")
    return {split: load("nih_sample", root, split=split) for split in ("train", "val")} if root else None


def joining_flags() -> list[str]:
    """Of the pretraining: as `pretrain/real.yaml` mixes, the real ones under `COGAZE_REAL_DATA`."""
    mixed = yaml.safe_load((CONFIGS / "pretrain" / "real.yaml").read_text(encoding="utf-8"))
    for entry in mixed["train_data"]:
        if entry["name"] == "nih_sample":
            entry["root"] = os.environ["COGAZE_REAL_DATA"]
    flags = ["--train_data", json.dumps(mixed["train_data"])]
    for name in ("records_per_epoch", "num_train_epochs"):
        flags += [f"--{name}", str(mixed[name])]
    return flags


def score_real_radiographs(scorer: Scorer, prompts: dict, held_out: Dataset) -> dict[str, Score]:
    """Pneumonia against no finding on real radiographs (NIH ChestX-ray14), zero-shot."""
    found = against_normal(scorer, held_out, "Pneumonia", prompts["classes"], rounds=200)
    score = replace(found["zero_shot_pneumonia_auroc"], name="real_pneumonia_auroc")
    return {score.name: score}


def alignment_summary(scores: dict[str, Score], measured_on: str, output_dir: Path, joined: int | None = None) -> str:
    def line(title, name, reference):
        return f"  {title:<52} {scores[name].shown()}   {reference}"

    def best_baseline(name):
        return f"best baseline {max(scores[name].baselines.values()):.3f}"

    lines = [
        f"Measured on {measured_on}",
        line("zero-shot macro AUROC, image alone", "zero_shot_macro_auroc", "chance 0.500"),
        line("zero-shot macro AUROC, with context", "zero_shot_macro_auroc_context", ""),
        line("... with context and a blank image", "zero_shot_macro_auroc_context_blank_image", ""),
        line(
            "image-to-report P@1, balanced gallery of 5 findings",
            "retrieval_image_to_report_p@1",
            f"chance {scores['retrieval_image_to_report_p@1'].chance:.3f}",
        ),
        line("gaze pointing game", "gaze_pointing_game", f"{best_baseline('gaze_pointing_game')}, chance 0.250"),
        line("phrase grounding, pointing game", "grounding_pointing_game", best_baseline("grounding_pointing_game")),
        line("shortcut: 32x32 pixels", "shortcut_pixels_auroc", "a linear model; at most 0.80"),
        line("shortcut: words of indication and history", "shortcut_context_auroc", "a linear model; 0.55 to 0.70"),
    ]
    if "real_pneumonia_auroc" in scores:
        lines += [
            f"Held-out real radiographs (NIH ChestX-ray14, {scores['real_pneumonia_auroc'].on}); {joined} of other "
            "patients have joined the pretraining. Not for clinical use:",
            line("pneumonia against no finding, zero-shot AUROC", "real_pneumonia_auroc", "chance 0.500"),
        ]
    checkpoint = output_dir / "cogaze-tiny"
    return "\n".join(
        lines
        + [
            "",
            f"All numbers: {output_dir / 'metrics.json'}   Picture: {output_dir / 'gaze.png'}",
            "Next:",
            f'  model = transformers.AutoModel.from_pretrained("{checkpoint}")',
            f"  .venv/bin/cogaze evaluate --checkpoint {checkpoint} --help",
            "  make pretrain-phantom",
        ]
    )


def demo_reports(checkpoint: Path, train, test, output_dir: Path, step: Step, config: str) -> dict:
    """Train a generator on the pretrained encoder, write reports of unseen patients, score and draw them."""
    folder = output_dir / "cogaze-tiny-report"
    step(f"Teaching a decoder to write reports, on {len(train)} radiographs")
    train_report_generator(["--config", str(config), "--checkpoint", str(checkpoint), "--output_dir", str(folder)])
    places = one_per_study(test)
    step(f"Writing reports of {len(places)} unseen studies")
    writer = open_writer(str(folder), batch_size=64)
    rows = list(writer.rows(test, places))
    write_rows(output_dir / "reports.jsonl", rows)
    scores = report_scores(rows, 1000)
    add_most_frequent_report(scores, rows, train)
    result = {"measured_on": ON_PHANTOM, "studies": len(rows), "scores": to_json(scores.values())}
    write_json(output_dir / "report.json", result)
    draw_report(writer, test, places, output_dir / "report.png")
    print(examples(test, places, rows))
    print(report_summary(scores[LABEL_F1], len(rows), output_dir))
    return result


def examples(test, places: list[int], rows: list[dict], count: int = 3) -> str:
    """The first held-out studies with a finding: not chosen by how well they came out."""
    lines = []
    for place, row in zip(places, rows, strict=True):
        record = test[place]
        if len(lines) == count or not positive_names(record["labels"]):
            continue
        lines.append(
            f"{record['image_id']}\n"
            f"  indication  {record['indication'] or '-'}\n"
            f"  reference   {row['reference_report']}\n"
            f"              [{', '.join(positive_names(record['labels']))}]\n"
            f"  generated   {row['generated_report']}\n"
            f"              [{', '.join(positive_names(phantom_labels(row['generated_report']))) or 'nothing'}]"
        )
    return "\n\n".join(lines)


def report_summary(score: Score, studies: int, output_dir: Path) -> str:
    return (
        f"\nGenerated reports of {studies} unseen studies. {ON_PHANTOM}\n"
        f"  label micro-F1, No Finding left out   {score.shown()}   "
        f"most frequent report {score.baselines['most frequent report']:.3f}\n"
        f"All numbers: {output_dir / 'report.json'}   Reports: {output_dir / 'reports.jsonl'}   "
        f"Picture: {output_dir / 'report.png'}\n"
    )
