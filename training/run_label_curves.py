"""What pretraining saves in labels: fine-tune on shares of the patients, from a checkpoint and from random weights.

    python -m training.run_label_curves classification --checkpoint outputs/demo/cogaze-tiny --output_dir outputs/curves

By default on rendered radiographs of patients whom no pretraining has seen; `--config` names another data set. Writes
`table.md`, `curves.png` and `metrics.json`; what is finished is not run again. Further flags go to
training/finetune_classification.py or training/finetune_segmentation.py.
"""

import argparse
from pathlib import Path

import numpy as np

from . import finetune_classification, finetune_segmentation
from .figures import plt, save_figure
from .files import slug
from .tables import markdown_table, with_interval, write_results

CONFIGS = Path(__file__).parent / "configs"
# Task -> script, its config, what counts.
TASKS = {
    "classification": (finetune_classification, "finetune_classification_phantom.yaml", "macro_auroc", "macro AUROC"),
    "segmentation": (
        finetune_segmentation,
        "finetune_segmentation_phantom.yaml",
        "dice_lesion",
        "Dice, images with a lesion",
    ),
}
STARTS = {"pretrained": [], "random weights": ["--from_scratch", "True"]}


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--checkpoint", required=True, help="of the pretraining")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/curves"))
    parser.add_argument("--config", help="of the fine-tuning; by default the phantom's")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="of the patients")
    parser.add_argument(
        "--epochs", type=int, nargs="+", default=[100, 30, 10], help="for each: a smaller share has fewer steps in one"
    )
    parser.add_argument("--starts", nargs="+", choices=list(STARTS), default=list(STARTS))
    parser.add_argument("--seeds", type=int, default=1)
    arguments, further = parser.parse_known_args(argv)
    if len(arguments.epochs) != len(arguments.fractions):
        raise ValueError(f"epochs: {len(arguments.epochs)} numbers for {len(arguments.fractions)} fractions.")
    if not Path(arguments.checkpoint).is_dir():
        raise ValueError(f"checkpoint: there is no folder {arguments.checkpoint}.")

    script, config, metric, title = TASKS[arguments.task]
    shared = ["--config", arguments.config or str(CONFIGS / config), "--checkpoint", arguments.checkpoint, *further]
    shared += ["--seeds", str(arguments.seeds), "--resume_from_checkpoint", "True"]
    # Twenty looks at the validation images and no early stop, however few steps an epoch has.
    shared += ["--eval_strategy", "steps", "--eval_steps", "0.05", "--save_strategy", "steps", "--save_steps", "0.05"]
    shared += ["--early_stopping_patience", "20", "--warmup_steps", "0.05"]
    output = arguments.output_dir / arguments.task
    curves: dict[str, list[dict]] = {start: [] for start in arguments.starts}
    measured_on = ""
    for fraction, epochs in zip(arguments.fractions, arguments.epochs, strict=True):
        for start, points in curves.items():
            folder = output / f"{slug(start)}-{fraction:g}"
            own = ["--label_fraction", str(fraction), "--num_train_epochs", str(epochs), "--output_dir", str(folder)]
            found = script.main([*shared, *STARTS[start], *own])
            points.append({"label_fraction": fraction, **found["metrics"][metric]})
            measured_on = found["measured_on"]
    result = {"task": arguments.task, "metric": metric, "curves": curves, "measured_on": measured_on}
    draw(result, title, output / "curves.png")
    write_results(output, result, markdown(result, title))
    return result


def markdown(result: dict, title: str) -> str:
    starts = list(result["curves"])
    rows = []
    for points in zip(*result["curves"].values(), strict=True):
        spread = ["" if p["std"] is None else f" ± {p['std']:.3f}" for p in points]
        cells = [with_interval(p["mean"], p["interval"]) + more for p, more in zip(points, spread, strict=True)]
        rows.append([f"{points[0]['label_fraction']:.0%}", *cells])
    table = markdown_table([f"labels ({title})", *starts], rows)
    return f"{table}\n\n95 % intervals over patients. Measured on {result['measured_on']}\n"


def draw(result: dict, title: str, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(5.5, 3.8), layout="constrained", facecolor="white")
    for start, points in result["curves"].items():
        shares = [point["label_fraction"] for point in points]
        values = np.array([point["mean"] for point in points])
        ends = np.array([point["interval"] or [point["mean"]] * 2 for point in points])
        bars = np.abs(ends - values[:, None]).T
        axis.errorbar(shares, values, yerr=bars, fmt="o-", ms=4, lw=1, capsize=2, label=start)
    axis.set_xscale("log")
    axis.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axis.minorticks_off()
    axis.set(xlabel="share of the patients with labels", ylabel=title)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    figure.suptitle(result["measured_on"], fontsize=7, wrap=True)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
