"""Pictures of what a model looks at."""

import os
import textwrap
from pathlib import Path

import matplotlib
import numpy as np

from processing.gaze_pictures import paint_gaze

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def gaze_figure(rows: list[dict], path: str | Path, title: str) -> None:
    """One row per sentence: the radiograph, the recorded gaze over it, the predicted map over it.

    Each row holds `image` (PIL), `recorded` and `predicted` (rows, columns of the patch grid), `sentence`, and, where
    there is one, `mask` (PIL, drawn as an outline on the radiograph).
    """
    figure = plt.figure(figsize=(9.6, 3.75 * len(rows) + 0.4), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=9, color="#555555")
    strips = np.atleast_1d(figure.subfigures(len(rows), 1))
    for strip, row in zip(strips, rows, strict=True):
        strip.suptitle(f"“{row['sentence']}”", fontsize=10)
        picture = row["image"].convert("L")
        panels = {"radiograph": None, "recorded gaze": row["recorded"], "predicted from the sentence": row["predicted"]}
        axes = strip.subplots(1, len(panels))
        for axis, (name, overlay) in zip(axes, panels.items(), strict=True):
            axis.imshow(picture if overlay is None else paint_gaze(picture, overlay), cmap="gray", vmin=0, vmax=255)
            axis.set_title(name, fontsize=8, color="#555555")
            axis.axis("off")
        if row.get("mask") is not None:
            mask = np.asarray(row["mask"].convert("L").resize(picture.size)) > 127
            if mask.any() and not mask.all():
                axes[0].contour(mask, levels=[0.5], colors="#4cc9f0", linewidths=1)
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
