"""EGMA on rendered radiographs: pretrain `tiny`, evaluate on unseen patients, draw gaze maps.

    python -m training.experiments.demo_egma --output_dir outputs/demo --ablations clip egf egm

The full model, L_EGF + L_EGM, is kept as `egma-tiny`; the ablations share its data, seed and number of steps. What is
finished is not run again: delete a run's folder for that.
"""

import argparse
import json
import time
from pathlib import Path

import yaml

from processing.datasets.phantom.loading import DEFAULT_SIZES, GALLERY_CLASSES, load_phantom, load_phantom_gallery

from ..evaluation.alignment import PROMPTS, evaluate, flat, gaze_agreement, read_prompts, zero_shot
from ..evaluation.classes import PROMPTS as CLASS_PROMPTS
from ..evaluation.classes import combinatorial_prompts, evaluate_classes
from ..evaluation.scorers import Scorer
from ..figures.pictures import draw_gaze
from ..runs.files import CONFIGS, write_json
from ..runs.tables import with_interval
from .variants import pretrain_and_score

CONFIG = CONFIGS / "pretrain" / "demo_egma.yaml"
ABLATIONS = {"clip": ["clip"], "egf": ["egf"], "egm": ["egm"], "egf_egm": ["egf", "egm"]}
FULL, BASELINE = "egf_egm", "clip"
COMPARED = {
    "zero_shot_macro_auroc": "zero-shot macro AUROC",
    "gaze_pointing_game": "gaze pointing game",
    "grounding_pointing_game": "phrase grounding, pointing game",
}
GAZE_BASELINE_RECORDS = 500


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--config", default=str(CONFIG), help="what to pretrain: a config of training/pretrain.py")
    parser.add_argument("--epochs", type=float, help="of every run, in place of the config's")
    parser.add_argument("--studies", type=int, help="train on so many studies, and score as many at most")
    parser.add_argument("--ablations", nargs="*", default=[], choices=list(ABLATIONS), help="to compare with")
    arguments = parser.parse_args(argv)
    start = time.monotonic()

    def step(text: str) -> None:
        print(f"\n[{(time.monotonic() - start) / 60:4.1f} min] {text}", flush=True)

    step("Rendering radiographs of healthy and ill patients from a CT")
    sizes = {split: min(size, arguments.studies or size) for split, size in DEFAULT_SIZES.items()}
    splits = {split: load_phantom(split, size) for split, size in sizes.items()}
    flags = ["--config", arguments.config]
    for split in ("train", "validation"):
        flags += [f"--{split}_data", json.dumps({"name": "phantom", "split": split, "size": sizes[split]})]
    if arguments.epochs:
        flags += ["--num_train_epochs", str(arguments.epochs)]
    baseline = splits["train"].select(range(min(GAZE_BASELINE_RECORDS, len(splits["train"]))))
    prompts = read_prompts(PROMPTS)

    def score_full(scorer: Scorer) -> dict:
        gallery = load_phantom_gallery(max(1, min(40, sizes["test"] // 5)))
        draw_gaze(scorer, splits["test"], arguments.output_dir / "gaze_egma.png")
        metrics = evaluate(scorer, baseline, splits["validation"], splits["test"], gallery, prompts)
        return metrics | {"classes": score_classes(scorer, gallery)}

    def score_ablation(scorer: Scorer) -> dict:
        metrics = zero_shot(scorer, splits["validation"], splits["test"], prompts["findings"], rounds=200)
        return flat((metrics | gaze_agreement(scorer, baseline, splits["test"], rounds=200)).values())

    runs = {}
    for name in dict.fromkeys([*arguments.ablations, FULL]):
        checkpoint = arguments.output_dir / ("egma-tiny" if name == FULL else f"egma-ablations/{name}")
        step(
            f"Pretraining EGMA tiny with {' + '.join(ABLATIONS[name])} on {len(splits['train'])} radiographs, "
            f"scoring {len(splits['test'])} of unseen patients"
        )
        score = score_full if name == FULL else score_ablation
        runs[name] = pretrain_and_score(checkpoint, [*flags, "--egma_losses", *ABLATIONS[name]], score)
    summary = runs[FULL] | {
        "ablations": {
            name: {key: value for key, value in metrics.items() if key.removesuffix("_interval") in COMPARED}
            for name, metrics in runs.items()
        },
        "minutes": (time.monotonic() - start) / 60,
    }
    write_json(arguments.output_dir / "metrics_egma.json", summary)
    step("Done")
    print(report(summary, arguments.output_dir))
    return summary


def score_classes(scorer, gallery) -> dict:
    """Accuracy and retrieval in the balanced gallery, with both prompt ensembles."""
    prompts = yaml.safe_load(CLASS_PROMPTS.read_text(encoding="utf-8"))
    combinations = combinatorial_prompts(prompts["combinations"], 50)
    scores = {}
    for ensemble in ("max", "mean"):
        scorer.ensemble = ensemble
        found = evaluate_classes(scorer, gallery, combinations, prompts["queries"], list(GALLERY_CLASSES))
        scores[ensemble] = flat(found.values())
    scorer.ensemble = "mean"
    return scores


def report(summary: dict, output_dir: Path) -> str:
    """The numbers of all runs, and whether the full one beats the baseline beyond the baseline's interval."""
    lines = [f"Measured on {summary['measured_on']}", f"{'':<36}" + "".join(f"{n:>22}" for n in summary["ablations"])]
    for key, title in COMPARED.items():
        cells = [with_interval(metrics[key], metrics[f"{key}_interval"]) for metrics in summary["ablations"].values()]
        lines.append(f"{title:<36}" + "".join(f"{cell:>22}" for cell in cells))
    if BASELINE in summary["ablations"]:
        full, baseline = summary["ablations"][FULL], summary["ablations"][BASELINE]
        above = [title for key, title in COMPARED.items() if full[key] > baseline[f"{key}_interval"][1]]
        if above:
            lines.append(f"L_EGF + L_EGM lies above the interval of the CLIP loss alone in: {', '.join(above)}.")
        else:
            lines.append("L_EGF + L_EGM does not lie above the interval of the CLIP loss alone in any of them.")
    for ensemble, scores in summary["classes"].items():
        lines.append(
            f"five findings apart, {ensemble} over prompts: accuracy {scores['class_accuracy']:.3f} "
            f"(chance {scores['class_accuracy_chance']:.3f}), macro F1 {scores['class_f1']:.3f}"
        )
    return "\n".join([*lines, "", f"All numbers: {output_dir / 'metrics_egma.json'}"])


if __name__ == "__main__":
    main()
