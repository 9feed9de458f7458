"""What pretraining saves in labels: fine-tune on shares of the patients, from checkpoints and from random weights.

    python -m training.experiments.label_curves classification --checkpoint outputs/demo/cogaze-tiny

By default on rendered radiographs of patients whom no pretraining has seen; `--config` names another data set. Several
checkpoints may be given. Writes `table.md`, `curves.png` and `metrics.json`; what is finished is not run again. Further
flags go to training/finetune_classification.py or training/finetune_segmentation.py.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import AutoConfig

import modeling_cogaze  # noqa: F401  (registers the Auto classes)

from ..downstream.data import Task
from ..downstream.finetuning import kept_predictions
from ..downstream.tasks import ClassificationTask, SegmentationTask
from ..downstream.training import finetune_classification, finetune_segmentation
from ..figures.drawing import plt, save_figure
from ..metrics.scores import Bootstrap, Score, from_json, to_json
from ..runs.files import CONFIGS, slug
from ..runs.tables import markdown_table, write_results

SCRATCH = "random weights"
# Twenty looks at the validation images and no early stop, however few steps an epoch has.
LOOKS = ["--eval_strategy", "steps", "--eval_steps", "0.05", "--save_strategy", "steps", "--save_steps", "0.05"]
LOOKS += ["--early_stopping_patience", "20", "--warmup_steps", "0.05"]


# Name -> script, its config, what counts, and what scores it.
TASKS = {
    "classification": (
        finetune_classification,
        "classification/phantom.yaml",
        "macro_auroc",
        "macro AUROC",
        ClassificationTask,
    ),
    "segmentation": (
        finetune_segmentation,
        "segmentation/phantom.yaml",
        "dice_lesion",
        "Dice, images with a lesion",
        SegmentationTask,
    ),
}


def main(argv: list[str] | None = None) -> dict:
    """
    Raises:
        ValueError: a checkpoint that is no folder, or two of one name; another number of epochs than of fractions.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--checkpoint", required=True, nargs="+", help="folders of pretrainings")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/curves"))
    parser.add_argument("--config", help="of the fine-tuning; by default the phantom's")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="of the patients")
    parser.add_argument(
        "--epochs", type=int, nargs="+", default=[100, 30, 10], help="for each: a smaller share has fewer steps in one"
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, with a draw of the patients of its own")
    parser.add_argument("--bootstrap", type=int, default=200, help="rounds of the bootstrap over patients")
    arguments, further = parser.parse_known_args(argv)
    if len(arguments.epochs) != len(arguments.fractions):
        raise ValueError(f"epochs: {len(arguments.epochs)} numbers for {len(arguments.fractions)} fractions.")
    starts = starts_of(arguments.checkpoint)

    script, config, metric, title, kind = TASKS[arguments.task]
    shared = [*LOOKS, *further, "--config", arguments.config or str(CONFIGS / config)]
    shared += ["--seeds", str(arguments.seeds), "--bootstrap", str(arguments.bootstrap)]
    shared += ["--resume_from_checkpoint", "True"]
    output = arguments.output_dir / arguments.task
    curves: dict[str, list[dict]] = {name: [] for name in starts}
    measured_on = ""
    for fraction, epochs in zip(arguments.fractions, arguments.epochs, strict=True):
        own = ["--label_fraction", str(fraction), "--num_train_epochs", str(epochs)]
        folders, found = {}, {}
        for name, start in starts.items():
            folders[name] = output / f"{slug(name)}-{fraction:g}"
            found[name] = script([*shared, *own, *start["flags"], "--output_dir", str(folders[name])])
            measured_on = found[name]["measured_on"]
        above = above_scratch(folders, found, kind(), metric, arguments.bootstrap)
        for name, points in curves.items():
            score = from_json(found[name]["scores"])[metric]
            points.append({"label_fraction": fraction, "scores": to_json([score, above[name]])})
    supervised = {name: start["label_supervised"] for name, start in starts.items()}
    result = {"task": arguments.task, "metric": metric, "curves": curves, "label_supervised": supervised}
    result["measured_on"] = measured_on
    draw(result, title, output / "curves.png")
    write_results(output, result, markdown(result, title))
    return result


def starts_of(checkpoints: Sequence[str]) -> dict[str, dict]:
    """Name of each start, random weights last: "flags" of fine-tuning, and whether labels were seen before."""
    starts = {}
    for checkpoint in checkpoints:
        if not Path(checkpoint).is_dir():
            raise ValueError(f"checkpoint: there is no folder {checkpoint}.")
        name = "pretrained" if len(checkpoints) == 1 else Path(checkpoint).name
        if name in starts:
            raise ValueError(f"checkpoint: two folders are called {name}.")
        supervised = bool(getattr(AutoConfig.from_pretrained(checkpoint), "use_classification", False))
        starts[name] = {"flags": ["--checkpoint", checkpoint], "label_supervised": supervised}
    scratch = ["--checkpoint", checkpoints[0], "--from_scratch", "True"]
    return starts | {SCRATCH: {"flags": scratch, "label_supervised": False}}


def above_scratch(
    folders: dict[str, Path], found: dict[str, dict], task: Task, metric: str, rounds: int
) -> dict[str, Score]:
    """ "above_scratch" of each start: the difference from random weights, on the same draws of patients for all.

    Args:
        folders: start -> where fine-tuning has written. found: start -> what it returned.
        task: of the fine-tuning. metric: of its scores that needs no thresholds.
    """
    task.names = found[SCRATCH]["labels"]
    scored = [name for name in task.names if name not in found[SCRATCH]["left_out"]["test"]]
    runs = {name: kept_predictions(folder, found[name]["seeds"]) for name, folder in folders.items()}

    def score(run: dict[str, np.ndarray], rows: np.ndarray) -> float:
        return task.scores(run["predictions"][rows], run["references"][rows], {}, scored)[metric]

    def statistics(rows: np.ndarray) -> dict[str, float]:
        return {name: np.mean([score(run, rows) for run in own]) for name, own in runs.items()}

    differences = Bootstrap(runs[SCRATCH][0]["patients"], rounds).differences(statistics, SCRATCH)
    return {name: replace(score, name="above_scratch") for name, score in differences.items()}


def markdown(result: dict, title: str) -> str:
    starts = list(result["curves"])
    header = [f"labels ({title})"]
    for name in starts:
        header.append(name + " †" * result["label_supervised"][name])
        header += ["above random weights"] * (name != SCRATCH)
    rows = []
    for points in zip(*result["curves"].values(), strict=True):
        row = [f"{points[0]['label_fraction']:.0%}"]
        for name, point in zip(starts, points, strict=True):
            scores = from_json(point["scores"])
            row.append(scores[result["metric"]].shown())
            row += [scores["above_scratch"].shown("+")] * (name != SCRATCH)
        rows.append(row)
    notes = "95 % intervals over patients; differences on the same patients."
    if any("std" in point["scores"][result["metric"]] for points in result["curves"].values() for point in points):
        notes += " ± is the standard deviation over runs."
    if any(result["label_supervised"].values()):
        notes += " † has been pretrained with labels (L_cls)."
    return f"{markdown_table(header, rows)}\n\n{notes} Measured on {result['measured_on']}\n"


def draw(result: dict, title: str, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(5.5, 3.8), layout="constrained", facecolor="white")
    for name, points in result["curves"].items():
        shares = [point["label_fraction"] for point in points]
        found = [from_json(point["scores"])[result["metric"]] for point in points]
        values = np.array([score.value for score in found])
        ends = np.array([score.interval or [score.value] * 2 for score in found])
        bars = np.abs(ends - values[:, None]).T
        label = name + " †" * result["label_supervised"][name]
        axis.errorbar(shares, values, yerr=bars, fmt="o-", ms=4, lw=1, capsize=2, label=label)
    axis.set_xscale("log")
    axis.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axis.minorticks_off()
    axis.set(xlabel="share of the patients with labels", ylabel=title)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    notes = result["measured_on"] + " † pretrained with labels." * any(result["label_supervised"].values())
    figure.suptitle(notes, fontsize=7, wrap=True)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
