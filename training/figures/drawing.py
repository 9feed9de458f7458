"""Pictures of what a model looks at."""

import os
import textwrap
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def maps_figure(rows: list[dict], path: str | Path, title: str) -> None:
    """One row per radiograph: the picture, and what has been painted over it.

    Each row holds `caption`, `panels` (title -> PIL picture, the radiograph first), and, where there are any, `masks`
    (PIL, of the whole radiograph), drawn as outlines on the first panel.
    """
    widest = max(len(row["panels"]) for row in rows)
    figure = plt.figure(figsize=(3.2 * widest, 3.75 * len(rows) + 0.6), layout="constrained", facecolor="white")
    figure.suptitle(textwrap.fill(title, 42 * widest), fontsize=9, color="#555555")
    strips = np.atleast_1d(figure.subfigures(len(rows), 1))
    for strip, row in zip(strips, rows, strict=True):
        strip.suptitle(textwrap.fill(row["caption"], 32 * widest), fontsize=10)
        axes = strip.subplots(1, widest, squeeze=False)[0]
        for axis in axes:
            axis.axis("off")
        for axis, (name, picture) in zip(axes, row["panels"].items(), strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.set_title(name, fontsize=8, color="#555555")
        size = next(iter(row["panels"].values())).size
        for mask in row.get("masks", ()):
            outline = np.asarray(mask.convert("L").resize(size)) > 127
            if outline.any() and not outline.all():
                axes[0].contour(outline, levels=[0.5], colors="#4cc9f0", linewidths=1)
    save_figure(figure, path)


def features_figure(places: dict[str, np.ndarray], names: list[str], of: np.ndarray, path: str | Path, title: str):
    """Images as points, coloured by class.

    Args:
        places: panel's title -> (N, 2).
        names: of the classes, at most ten. of: (N,) each image's class.
    """
    size = (4.6 * len(places) + 2.0, 5.2)
    figure, axes = plt.subplots(1, len(places), figsize=size, layout="constrained", squeeze=False, facecolor="white")
    figure.suptitle(textwrap.fill(title, 60 * len(places)), fontsize=9, color="#555555")
    for axis, (name, points) in zip(axes[0], places.items(), strict=True):
        for index, label in enumerate(names):
            own = points[of == index]
            axis.scatter(*own.T, s=14, alpha=0.8, linewidths=0, color=f"C{index}", label=f"{label} ({len(own)})")
        axis.set_title(name, fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    save_figure(figure, path)


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


def grounding_figure(pictures: list, sentences: list[dict], path: str | Path, title: str | None = None) -> None:
    """A report's sentences, each with the picture that its gaze map was painted on.

    Each of `sentences` holds `text`, `map_confidence` and `text_confidence`, which stand below it.
    """
    columns = min(3, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = plt.figure(figsize=(4.2 * columns, 4.6 * rows + 0.4), layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=9, color="#555555")
    for place, (picture, sentence) in enumerate(zip(pictures, sentences, strict=True), 1):
        axis = figure.add_subplot(rows, columns, place)
        axis.imshow(picture)
        axis.axis("off")
        confidence = f"text {sentence['text_confidence']:.2f}, map {sentence['map_confidence']:.2f}"
        axis.set_title(f"{textwrap.fill(sentence['text'], 46)}\n({confidence})", fontsize=9)
    save_figure(figure, path)


def save_figure(figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all, and close it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    figure.savefig(partial, dpi=110, format="png")
    plt.close(figure)
    os.replace(partial, path)
