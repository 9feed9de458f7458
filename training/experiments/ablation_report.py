"""Ablation tables: the runs of each row summed up, as Markdown and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..figures.drawing import plt, save_figure
from ..runs.provenance import ON_PHANTOM
from ..runs.tables import markdown_table, with_interval

# Head -> its column.
DOWNSTREAM = {
    "classification": "classification_macro_auroc",
    "segmentation": "segmentation_dice_lesion",
    "reports": "reports_label_micro_f1",
}
COLUMNS = {
    "zero_shot_macro_auroc": "zero-shot macro AUROC",
    "zero_shot_macro_auroc_context": "... with context",
    "retrieval_image_to_report_p@1": "P@1, balanced gallery",
    "gaze_pointing_game": "gaze pointing game",
    "grounding_pointing_game": "phrase grounding",
    DOWNSTREAM["classification"]: "classification AUROC, head alone",
    DOWNSTREAM["segmentation"]: "Dice on images with a lesion, head alone",
    DOWNSTREAM["reports"]: "reports' label micro-F1 without No Finding",
}
BASELINE_MAPS = ("mean_map", "sentence_type_map")


def summarise(tables: Mapping[str, dict], results: Mapping[str, Sequence[dict]], margin: float) -> dict:
    """What every table says.

    Args:
        tables: key -> title, rows of `label`, `changes`, `published` and `run`, and, as they come, `note` and `curve`.
        results: run -> metrics of each seed.
        margin: a column counts where the reference's interval begins so far above chance.
    Returns:
        Key -> the same with, per row, "scores": metric -> {"value", "interval", "std", "outside"}; means over seeds of
        values and of the ends of their 95 % intervals, the standard deviation over seeds, and whether the value lies
        "above" or "below" the reference's interval; and "label_supervised". "chance": metric -> chance or the better
        baseline. "counts": metric -> whether its column does; those without a level that chance reaches are left out.
    """
    summary = {}
    for key, table in tables.items():
        reference = next(row for row in table["rows"] if not row["changes"])
        base = {name: _over_seeds(name, results[reference["run"]]) for name in COLUMNS}
        chance = {name: _chance(name, results[reference["run"]]) for name in COLUMNS}
        rows = []
        for row in table["rows"]:
            scores = {name: _over_seeds(name, results[row["run"]]) for name in COLUMNS}
            for name, score in scores.items():
                if score and base[name] and row is not reference:
                    low, high = base[name]["interval"]
                    score["outside"] = "below" if score["value"] < low else "above" if score["value"] > high else None
            minutes = float(np.mean([run["training_minutes"] for run in results[row["run"]]]))
            facts = {"training_minutes": minutes, "label_supervised": results[row["run"]][0]["label_supervised"]}
            rows.append(row | {"scores": {n: s for n, s in scores.items() if s}} | facts)
        first = results[reference["run"]][0]
        images = {name: first[name] for name in ("test_images", "test_patients")}
        shown = {name: value for name, value in chance.items() if base[name] and value is not None}
        counts = {name: base[name]["interval"][0] >= level + margin for name, level in shown.items()}
        summary[key] = table | images | {"rows": rows, "chance": shown, "counts": counts}
    return summary


def _over_seeds(name: str, runs: Sequence[dict]) -> dict | None:
    values = [run.get(name, np.nan) for run in runs]
    if not np.isfinite(values).all():
        return None
    interval = np.mean([run[f"{name}_interval"] for run in runs], axis=0).tolist()
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"value": float(np.mean(values)), "interval": interval, "std": std}


def _chance(name: str, runs: Sequence[dict]) -> float | None:
    maps = [runs[0][f"{name}_{kind}"] for kind in BASELINE_MAPS if f"{name}_{kind}" in runs[0]]
    if maps:
        return max(maps)
    return 0.5 if "auroc" in name else runs[0].get(f"{name}_chance")


def markdown(summary: dict) -> str:
    """All tables with what they are worth."""
    parts = []
    for table in summary["tables"].values():
        columns = {name: title for name, title in COLUMNS.items() if any(name in r["scores"] for r in table["rows"])}
        published = any(row.get("published") for row in table["rows"])
        rows = []
        for row in table["rows"]:
            label = row["label"] if row["changes"] else f"**{row['label']}** (reference)"
            label += " †" if row["label_supervised"] else ""
            cited = ", ".join(f"{name} {value:.3f}" for name, value in row.get("published", {}).items())
            cells = [_cell(row["scores"].get(name)) for name in columns]
            rows.append([label, *cells, f"{row['training_minutes']:.1f} min", *([cited] if published else [])])
        rest = ["", *([""] if published else [])]
        level = [f"{table['chance'][name]:.3f}" if name in table["chance"] else "" for name in columns]
        rows.append(["chance, or the better baseline (mean gaze map, most frequent report)", *level, *rest])
        said = {True: "yes", False: "**does not count**", None: ""}
        counts = [said[table["counts"].get(name)] for name in columns]
        rows.append([f"the reference begins {summary['margin']:g} above it", *counts, *rest])
        header = ["", *columns.values(), "training", *(["published (MIMIC-CXR)"] if published else [])]
        worth = {name: title for name, title in columns.items() if table["counts"].get(name) is not False}
        lines = [f"## {table['title']}", "", markdown_table(header, rows), "", *_differences(table, worth)]
        parts.append("\n".join([*lines, *([table["note"]] if table.get("note") else [])]))
    table = next(iter(summary["tables"].values()))
    seeds = len(summary["seeds"])
    spread = f"means over {seeds} seeds ± their standard deviation, intervals averaged over them" if seeds > 1 else ""
    said = [
        f"{table['test_images']} images of {table['test_patients']} unseen patients; 95 % intervals over patients",
        *([spread] if spread else ["one seed: its own spread is not in the intervals"]),
        "† label-supervised: L_cls has seen the findings' labels of the training images",
        "a row outside the reference's interval is a hint, not a test: the row's own spread is not in it",
        "published numbers are cited, were measured on MIMIC-CXR by other metrics, and compare by their order alone",
    ]
    parts.append(f"{'; '.join(said)}. {ON_PHANTOM}")
    return "\n\n".join(parts) + "\n"


def _cell(score: dict | None) -> str:
    if score is None:
        return "–"
    spread = "" if score["std"] is None else f" ± {score['std']:.3f}"
    return with_interval(score["value"], score["interval"]) + spread


def _differences(table: dict, columns: Mapping[str, str]) -> list[str]:
    """One sentence per side: the rows outside the reference's interval in the columns that count."""
    if not columns:
        return ["No column counts."]
    found = []
    for side in ("below", "above"):
        said = []
        for row in table["rows"]:
            names = [columns[name] for name in columns if row["scores"].get(name, {}).get("outside") == side]
            if names:
                said.append(f"{row['label']} ({', '.join(name.removeprefix('... ') for name in names)})")
        if said:
            found.append(f"{side.capitalize()} the reference's interval: {'; '.join(said)}.")
    return found or ["No row lies outside the reference's intervals where the column counts."]


def ablations_figure(summary: dict, path: str | Path) -> None:
    """A panel per table: values with intervals over patients, or over seeds where there are several; dotted: chance."""
    tables = list(summary["tables"].values())
    columns = min(2, len(tables))
    lines = -(-len(tables) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(7.0 * columns, 3.6 * lines), layout="constrained", squeeze=False, facecolor="white"
    )
    for axis in axes.flat[len(tables) :]:
        axis.axis("off")
    for axis, table in zip(axes.flat, tables, strict=False):
        (_curve if table.get("curve") else _dots)(axis, table)
        idle = [COLUMNS[name].removeprefix("... ") for name, counts in table["counts"].items() if not counts]
        axis.set_title(f"{table['title']}\n(not counting: {', '.join(idle)})" if idle else table["title"], fontsize=10)
        axis.grid(alpha=0.25)
    handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle("Rendered radiographs, unseen patients: whether the software works, nothing clinical", fontsize=9)
    save_figure(figure, path)


def _series(table: dict, name: str) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Rows that have a metric, their values (R,), and how far the bars go down and up (2, R)."""
    rows = [place for place, row in enumerate(table["rows"]) if name in row["scores"]]
    scores = [table["rows"][place]["scores"][name] for place in rows]
    values = np.array([score["value"] for score in scores])
    if all(score["std"] is not None for score in scores):
        return rows, values, np.array([[score["std"] for score in scores]] * 2).reshape(2, -1)
    bounds = np.array([score["interval"] for score in scores]).reshape(-1, 2).T
    return rows, values, np.abs(bounds - values)


def _dots(axis, table: dict) -> None:
    count = len(table["rows"])
    shown = [name for name in COLUMNS if any(name in row["scores"] for row in table["rows"])]
    for place, name in enumerate(shown):
        rows, values, bars = _series(table, name)
        height = np.array(rows) + (place - (len(shown) - 1) / 2) * 0.13
        color, label = f"C{list(COLUMNS).index(name)}", COLUMNS[name].lstrip(". ")
        axis.errorbar(values, height, xerr=bars, fmt="o", ms=4, lw=1, color=color, label=label)
        if name in table["chance"]:
            axis.axvline(table["chance"][name], ls=":", lw=1, color=color)
    axis.set_yticks(range(count), [row["label"] for row in table["rows"]], fontsize=9)
    axis.set_ylim(count - 0.5, -0.5)


def _curve(axis, table: dict) -> None:
    x = np.array([float(row["label"]) for row in table["rows"]])
    for place, (name, title) in enumerate(COLUMNS.items()):
        rows, values, bars = _series(table, name)
        if rows:
            axis.errorbar(
                x[rows], values, yerr=bars, fmt="o-", ms=4, lw=1, capsize=2, color=f"C{place}", label=title.lstrip(". ")
            )
            if name in table["chance"]:
                axis.axhline(table["chance"][name], ls=":", lw=1, color=f"C{place}")
    axis.set_xlabel(table["curve"])
