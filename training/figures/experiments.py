"""Pictures of an experiment's tables."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..metrics.scores import Score, from_json
from .canvas import plt, save_figure


def panels_figure(tables: Mapping[str, dict], titles: Mapping[str, str], path: str | Path) -> None:
    """A panel per table: values with intervals over patients, or over seeds where there are several; dotted: chance.

    Args:
        tables: as `experiments.summary.summarise` gives them. titles: of the scores to show.
    """
    columns = min(2, len(tables))
    lines = -(-len(tables) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(7.0 * columns, 3.6 * lines), layout="constrained", squeeze=False, facecolor="white"
    )
    for axis in axes.flat[len(tables) :]:
        axis.axis("off")
    for axis, table in zip(axes.flat, tables.values(), strict=False):
        _panel(axis, table, titles)
        idle = [titles[name].removeprefix("... ") for name, counts in table["counts"].items() if not counts]
        axis.set_title(f"{table['title']}\n(not counting: {', '.join(idle)})" if idle else table["title"], fontsize=10)
        axis.grid(alpha=0.25)
    handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    on_phantom = not any(name.startswith("real_") for name in titles)
    what = "Rendered radiographs, unseen patients: whether the software works, nothing clinical"
    figure.suptitle(what if on_phantom else "Real radiographs, unseen patients; not for clinical use", fontsize=9)
    save_figure(figure, path)


def curves_figure(tables: Mapping[str, dict], titles: Mapping[str, str], path: str | Path) -> None:
    """A line per row over the tables, whose keys are shares of the labels; the first of `titles` that they have."""
    name = next(name for name in titles for table in tables.values() for row in table["rows"] if name in row["scores"])
    figure, axis = plt.subplots(figsize=(5.5, 3.8), layout="constrained", facecolor="white")
    shares = [float(table) for table in tables]
    for label in dict.fromkeys(row["name"] for table in tables.values() for row in table["rows"]):
        found = [next((row for row in table["rows"] if row["name"] == label), None) for table in tables.values()]
        points = [(share, row) for share, row in zip(shares, found, strict=True) if row and name in row["scores"]]
        values, bars = _bars([from_json(row["scores"])[name] for _, row in points])
        dagger = " †" * any(row.get("label_supervised") for _, row in points)
        x = [share for share, _ in points]
        axis.errorbar(x, values, yerr=bars, fmt="o-", ms=4, lw=1, capsize=2, label=label + dagger)
    axis.set_xscale("log")
    axis.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axis.minorticks_off()
    axis.set(xlabel="share of the patients with labels", ylabel=titles[name])
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    measured_on = next(iter(tables.values()))["measured_on"]
    figure.suptitle(f"{measured_on} † pretrained with labels.", fontsize=7, wrap=True)
    save_figure(figure, path)


def _bars(scores: list[Score]) -> tuple[np.ndarray, np.ndarray]:
    """Values (R,), and how far the bars go down and up (2, R): the deviation over seeds, else the interval."""
    values = np.array([score.value for score in scores])
    if scores and all(score.std is not None for score in scores):
        return values, np.array([[score.std for score in scores]] * 2)
    ends = np.array([score.interval or [score.value] * 2 for score in scores]).reshape(-1, 2).T
    return values, np.abs(ends - values)


def _panel(axis, table: dict, titles: Mapping[str, str]) -> None:
    """Rows below each other, or along the axis that they count."""
    count = len(table["rows"])
    shown = [name for name in titles if any(name in row["scores"] for row in table["rows"])]
    for place, name in enumerate(shown):
        rows = [row for row in range(count) if name in table["rows"][row]["scores"]]
        values, bars = _bars([from_json(table["rows"][row]["scores"])[name] for row in rows])
        looks = {"ms": 4, "lw": 1, "color": f"C{list(titles).index(name)}", "label": titles[name].lstrip(". ")}
        if table["curve"]:
            along = [float(table["rows"][row]["name"]) for row in rows]
            axis.errorbar(along, values, yerr=bars, fmt="o-", capsize=2, **looks)
        else:
            axis.errorbar(values, np.array(rows) + (place - (len(shown) - 1) / 2) * 0.13, xerr=bars, fmt="o", **looks)
        if name in table["level"]:
            (axis.axhline if table["curve"] else axis.axvline)(table["level"][name], ls=":", lw=1, color=looks["color"])
    if table["curve"]:
        axis.set_xlabel(table["curve"])
    else:
        axis.set_yticks(range(count), [row["name"] for row in table["rows"]], fontsize=9)
        axis.set_ylim(count - 0.5, -0.5)
