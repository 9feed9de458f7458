"""Looking at the phantom: a sheet of labelled examples, and tables of what is in a split."""

import os
import textwrap
from typing import Any

import numpy as np
from datasets import Dataset

from ..records import LABEL_CODES, label_names

CODE_WORDS = {1: "positive", 0: "negative", 2: "uncertain", -1: "not mentioned"}


def contact_sheet(dataset: Dataset, path: str | os.PathLike, columns: int = 4, image_inches: float = 4.0):
    """Write a picture of the data set's records: radiograph, lesion outlines, the first reading's fixations, findings.

    A fixation's area is its duration; those during a sentence about a lesion have that lesion's colour, others are
    white.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(dataset) // columns)
    figure = Figure(figsize=(columns * image_inches, rows * image_inches * 1.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    colormap: Any = colormaps["Set2"]
    colours = colormap.colors
    records: Any = dataset
    for axis, record in zip(axes, records, strict=False):
        width, height = record["image_width"], record["image_height"]
        axis.imshow(record["image"], cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
        colour_of = {}
        for number, region in enumerate(record["regions"]):
            colour = colours[number % len(colours)]
            colour_of.setdefault(region["sentence"], colour)
            mask = np.asarray(region["mask"], dtype=float)
            across = (np.arange(mask.shape[1]) + 0.5) * width / mask.shape[1]
            down = (np.arange(mask.shape[0]) + 0.5) * height / mask.shape[0]
            axis.contour(across, down, mask, levels=[mask.max() / 2], colors=[colour], linewidths=1)
            x, y = region["box"][0], region["box"][1] - 20
            axis.text(x, y, region["label"], color=colour, fontsize=7, clip_on=True)
        for reading in record["gaze"][:1]:
            said = [(sentence["begin"], sentence["end"]) for sentence in reading["sentences"]]
            seen = []
            for fixation in reading["fixations"]:
                middle = (fixation["begin"] + fixation["end"]) / 2
                now = next((place for place, (begin, end) in enumerate(said) if begin <= middle <= end), None)
                size = 60 * (fixation["end"] - fixation["begin"])
                seen.append((fixation["x"], fixation["y"], size, colour_of.get(now, "white")))
            if seen:
                x, y, size, colour = zip(*seen, strict=True)
                axis.scatter(x, y, s=size, color=colour, alpha=0.6, linewidths=0)
        positive = [
            f"{name}?" if code == 2 else name
            for name, code in zip(label_names(dataset), record["labels"], strict=True)
            if code in (1, 2)
        ]
        axis.set_title(f"{record['view_position']}: {', '.join(positive)}", fontsize=8, wrap=True)
        text = f"{record['indication']} | {record['findings']}"
        axis.set_xlabel("\n".join(textwrap.wrap(text, int(19 * image_inches))), fontsize=6)
    for place, axis in enumerate(axes):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_visible(place < len(dataset))
    partial = f"{path}.partial"
    FigureCanvasAgg(figure)
    figure.savefig(partial, format="png", dpi=110)
    os.replace(partial, path)


def statistics(dataset: Dataset) -> str:
    """A table of label codes per observation, and counts of records, studies, patients, views, context and gaze."""
    data = dataset.select_columns(
        ["labels", "study_id", "patient_id", "view_position", "indication", "history", "findings", "gaze"]
    )
    codes = np.asarray(data["labels"][:])
    lines = [f"{'':28}" + "".join(f"{CODE_WORDS[code]:>15}" for code in LABEL_CODES)]
    for column, name in enumerate(label_names(dataset)):
        lines.append(f"{name:28}" + "".join(f"{(codes[:, column] == code).mean():15.1%}" for code in LABEL_CODES))
    views, counts = np.unique(data["view_position"], return_counts=True)
    context = np.mean([bool(i or h) for i, h in zip(data["indication"], data["history"], strict=True)])
    readings = [reading for record in data["gaze"] for reading in record]
    lines += [
        f"{len(data)} images, {len(set(data['study_id']))} studies, {len(set(data['patient_id']))} patients",
        "views: " + ", ".join(f"{view} {count}" for view, count in zip(views, counts, strict=True)),
        f"with context: {context:.1%}",
        f"words in the findings: {np.mean([len(text.split()) for text in data['findings']]):.1f}",
        f"readings: {len(readings)}",
    ]
    if readings:
        lines.append(f"fixations per reading: {np.mean([len(reading['fixations']) for reading in readings]):.1f}")
        lines.append(f"sentences per reading: {np.mean([len(reading['sentences']) for reading in readings]):.1f}")
    return "\n".join(lines)
