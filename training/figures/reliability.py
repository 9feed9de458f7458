"""How far probabilities can be believed."""

import textwrap
from pathlib import Path

import numpy as np
from scipy.special import expit

from ..evaluation.calibration import Calibration
from ..metrics.calibration import calibration_scores, reliability
from .canvas import plt, save_figure, title_of


def draw_calibration(calibration: Calibration, dataset, path: str | Path) -> None:
    """Reliability over all labels and each one's calibration error, before and after the temperatures.

    Args:
        dataset: what it was measured on.
    """
    variants = {"before": calibration.logits}
    if not np.all(calibration.temperatures == 1):
        variants["after temperature scaling"] = calibration.logits / calibration.temperatures
    curves, errors = {}, {}
    for name, values in variants.items():
        scores = calibration_scores(values, calibration.targets, calibration.names)
        name = f"{name}: ECE {scores['ece_pooled']:.3f}"
        curves[name] = reliability(expit(values), calibration.targets)
        errors[name] = scores["ece_per_label"]
    title = title_of(f"Calibration on {len(calibration.targets)} images.", dataset)
    reliability_figure(curves, errors, path, title)


def reliability_figure(curves: dict[str, tuple], errors: dict[str, dict[str, float]], path: str | Path, title: str):
    """Share of positives over probability, how many predictions there are, and each label's calibration error.

    Args:
        curves: name -> what `calibration.reliability` gave for all labels together.
        errors: the same name -> label -> calibration error.
    """
    labels = list(next(iter(errors.values())))
    size = (9.6, max(4.6, 1.4 + 0.3 * len(labels)))
    figure, axes = plt.subplot_mosaic(
        [["curve", "errors"], ["counts", "errors"]],
        figsize=size,
        layout="constrained",
        facecolor="white",
        height_ratios=[3, 1],
    )
    figure.suptitle(textwrap.fill(title, 140), fontsize=9, color="#555555")
    axes["curve"].plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, linestyle="--")
    height = 0.8 / len(curves)
    for index, (name, (mean, positive, share)) in enumerate(curves.items()):
        filled = share > 0
        axes["curve"].plot(mean[filled], positive[filled], marker="o", markersize=4, color=f"C{index}", label=name)
        axes["counts"].stairs(share, np.linspace(0, 1, len(share) + 1), color=f"C{index}", linewidth=1.5)
        offset = np.arange(len(labels)) + (index - (len(curves) - 1) / 2) * height
        axes["errors"].barh(offset, list(errors[name].values()), height, color=f"C{index}")
    axes["curve"].set(xlim=(0, 1), ylim=(0, 1), ylabel="share of positives")
    axes["curve"].legend(fontsize=8, frameon=False, loc="upper left")
    axes["counts"].set(xlim=(0, 1), yscale="log", xlabel="probability", ylabel="share of all")
    axes["errors"].set(yticks=range(len(labels)), yticklabels=labels, xlabel="expected calibration error")
    axes["errors"].invert_yaxis()
    axes["errors"].tick_params(axis="y", labelsize=8)
    save_figure(figure, path)
