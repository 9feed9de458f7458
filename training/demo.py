"""The whole way on rendered radiographs: render, pretrain `tiny`, evaluate on unseen patients, draw gaze maps.

cogaze demo --output_dir outputs/demo
"""

import os
import time
from dataclasses import replace
from pathlib import Path

from processing.datasets.phantom.loading import load_phantom, load_phantom_gallery
from processing.datasets.sources.nih import MINI_COLUMNS, load_nih
from training.evaluation.alignment import PROMPTS, against_normal, facts, measure, read_prompts
from training.evaluation.scorers import Scorer, load_scorer
from training.evaluation.shortcuts import shortcut_auroc
from training.experiments.demo_report import demo_reports
from training.figures.pictures import draw_gaze
from training.metrics.scores import Score, from_json, to_json
from training.pretraining.training import pretrain
from training.runs.command_line import CommandParser
from training.runs.files import CONFIGS, write_json

CONFIG = CONFIGS / "pretrain" / "demo.yaml"
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def main(argv: list[str] | None = None) -> dict:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--config", default=str(CONFIG), help="what to pretrain: a config of training/pretrain.py")
    arguments = parser.parse_args(argv)
    checkpoint = arguments.output_dir / "cogaze-tiny"
    start = time.monotonic()

    def step(text: str) -> None:
        print(f"\n[{(time.monotonic() - start) / 60:4.1f} min] {text}", flush=True)

    step("Rendering radiographs of healthy and ill patients from a CT")
    splits = {split: load_phantom(split) for split in ("train", "validation", "test")}
    gallery = load_phantom_gallery()
    step(f"Pretraining CoGaze tiny on {len(splits['train'])} radiographs")
    pretrain(["--config", arguments.config, "--output_dir", str(checkpoint)])
    step(f"Scoring {len(splits['test'])} radiographs of unseen patients")
    scorer = load_scorer(str(checkpoint))
    prompts = read_prompts(PROMPTS)
    scores = measure(scorer, **splits, gallery=gallery, prompts=prompts)
    step("Checking that no shortcut solves the task")
    scores |= shortcut_auroc(splits["train"], splits["test"])
    draw_gaze(scorer, splits["test"], arguments.output_dir / "gaze.png")
    scores |= score_real_radiographs(scorer, prompts)
    minutes = (time.monotonic() - start) / 60
    metrics = {"scores": to_json(scores.values())} | facts(scorer, splits["test"]) | {"minutes": minutes}
    write_json(arguments.output_dir / "metrics.json", metrics)
    print(summary(metrics, arguments.output_dir))
    demo_reports(checkpoint, splits["train"], splits["test"], arguments.output_dir, step)
    return metrics


def score_real_radiographs(scorer: Scorer, prompts: dict) -> dict[str, Score]:
    """Pneumonia against no finding on real radiographs (NIH ChestX-ray14), zero-shot; nothing if they are absent."""
    root = Path(os.environ.get("COGAZE_REAL_DATA", REAL_DATA)) / "nih_mini"
    if not root.is_dir():
        return {}
    dataset = load_nih(root, table="val.csv", columns=MINI_COLUMNS)
    found = against_normal(scorer, dataset, "Pneumonia", prompts["classes"], rounds=200)
    score = replace(found["zero_shot_pneumonia_auroc"], name="real_pneumonia_auroc")
    return {score.name: score}


def summary(metrics: dict, output_dir: Path) -> str:
    scores = from_json(metrics["scores"])

    def line(title, name, reference):
        return f"  {title:<52} {scores[name].shown()}   {reference}"

    def best_baseline(name):
        return f"best baseline {max(scores[name].baselines.values()):.3f}"

    lines = [
        f"Measured on {metrics['measured_on']}",
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
            "Real radiographs (NIH ChestX-ray14; the model has seen rendered ones alone):",
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


if __name__ == "__main__":
    main()
