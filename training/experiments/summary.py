"""What an experiment has found: tables with differences from a reference row, as Markdown and JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from ..downstream.finetuning import kept_predictions
from ..evaluation.alignment import BLANK
from ..metrics.downstream import classification_scores, dice_scores
from ..metrics.scores import Bootstrap, Score, from_json, to_json
from ..runs.provenance import machine_facts
from ..runs.tables import markdown_table
from .baselines import demographics_of
from .plan import FINETUNING, Experiment, Row, Run, Table
from .real import compare_zero_shot

# Their predictions are kept, or made again, so that rows are compared on the same draws of patients.
COMPARED = (*FINETUNING, "view, age and sex")
FACTS = ("label_supervised", "training_minutes", "parameters")


def summarise(experiment: Experiment, carry_out: Callable[[Run], dict]) -> dict:
    """
    Args:
        carry_out: the metrics of a run.
    Returns:
        Key of a table -> "title", "reference", "curve", "note", "measured_on", "left_out" and "test_positives" where
        there are such; "level": column -> chance or the best baseline; "counts": column -> whether the reference begins
        the margin above it, where the experiment has a margin; and "rows", each with its "name", "scores",
        "above_reference" (paired over patients), "outside": column -> "above" or "below" the reference's interval,
        `FACTS` and "published".
    """
    # References first: they say whether the others are worth waiting for.
    found: dict[int, dict] = {}
    references = [table.reference_row for table in experiment.tables if table.reference_row]
    rows = {id(run): (row, run) for row in [*references, *experiment.rows] for run in _runs(row)}
    for number, (row, run) in enumerate(rows.values(), 1):
        print(f"\n[{number} of {len(rows)}] {row.name}: {run.folder}", flush=True)
        found[id(run)] = carry_out(run)
    return {table.key: _table(table, found, experiment) for table in experiment.tables}


def _runs(row: Row) -> list[Run]:
    return [*row.runs, *(run for runs in row.heads.values() for run in runs)]


def _table(table: Table, found: Mapping[int, dict], experiment: Experiment) -> dict:
    results = {row.name: [found[id(run)] for run in row.runs] for row in table.rows}
    scores = {row.name: _scores(row, found, experiment.heads) for row in table.rows}
    above: dict[str, dict[str, Score]] = {}
    if all(run.stage in COMPARED for row in table.rows for run in row.runs):
        own, above = compare(table, results)
        scores = {name: own[name] | scores[name] for name in scores}
    elif all("real" in run.scoring for row in table.rows for run in row.runs) and table.reference_row:
        folders = {row.name: [run.folder for run in row.runs] for row in table.rows}
        own, above = compare_zero_shot(folders, table.reference, table.rows[0].runs[0].scoring.get("bootstrap", 200))
        scores = {name: scores[name] | own[name] for name in scores}
    reference = table.reference_row or table.rows[0]
    base = {name: score for name, score in scores[reference.name].items() if name in experiment.columns}
    level = {name: value for name, score in base.items() if (value := _level(score)) is not None}
    first = next((each for (each, *_) in results.values() if "test_positives" in each), results[reference.name][0])
    facts = {name: first[name] for name in ("measured_on", "left_out", "test_positives", "images") if name in first}
    counts = {}
    if experiment.margin is not None and table.reference_row:
        counts = {name: base[name].interval[0] >= level[name] + experiment.margin for name in level}
    rows = []
    for row in table.rows:
        outside = {} if row is reference or above else _outside(scores[row.name], base)
        own = {name: results[row.name][0][name] for name in FACTS if name in results[row.name][0]}
        if "training_minutes" in own:
            own["training_minutes"] = float(np.mean([each["training_minutes"] for each in results[row.name]]))
        own |= {"scores": to_json(scores[row.name].values()), "outside": outside, "published": row.published}
        rows.append({"name": row.name} | own | {"above_reference": to_json(above.get(row.name, {}).values())})
    kept = {"title": table.title, "reference": table.reference, "curve": table.curve, "note": table.note}
    return kept | facts | {"runs": len(reference.runs), "level": level, "counts": counts, "rows": rows}


def _scores(row: Row, found: Mapping[int, dict], heads: Mapping[str, dict]) -> dict[str, Score]:
    """Of a row, over its seeds; those of heads under their names."""
    scores = over_seeds([from_json(found[id(run)]["scores"]) for run in row.runs])
    for head, runs in row.heads.items():
        asked = heads[head]["scoring"]["score"]
        own = over_seeds([from_json(found[id(run)]["scores"]) for run in runs])
        if asked in own:
            scores[head] = replace(own[asked], name=head)
    return scores


def over_seeds(runs: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Means over runs of values and of the ends of their intervals; std between the runs, where there are several."""
    found = {}
    for name, first in runs[0].items():
        each = [run[name] for run in runs if name in run and run[name].value is not None]
        if len(each) < len(runs):
            continue
        if len(each) == 1:
            found[name] = first
            continue
        values, intervals = [score.value for score in each], [score.interval for score in each if score.interval]
        interval = tuple(np.mean(intervals, axis=0).tolist()) if intervals else None
        std = float(np.std(values, ddof=1))
        found[name] = replace(first, value=float(np.mean(values)), interval=interval, std=std)
    return found


def _level(score: Score) -> float | None:
    """What counts as nothing: the best baseline, else chance."""
    chance = 0.5 if score.chance is None and "auroc" in score.name else score.chance
    return max((value for said, value in score.baselines.items() if said != BLANK), default=chance)


def _outside(scores: Mapping[str, Score], base: Mapping[str, Score]) -> dict[str, str]:
    sides = {}
    for name, score in base.items():
        if name in scores and score.interval:
            low, high = score.interval
            value = scores[name].value
            sides |= {name: "below"} if value < low else {name: "above"} if value > high else {}
    return sides


def compare(table: Table, results: Mapping[str, Sequence[dict]]) -> tuple[dict, dict]:
    """Scores of fine-tuned models and of baselines on the same images, and how far above the reference's they lie.

    Intervals are of the same draws of patients for all.

    Returns:
        Twice row -> name -> `Score`; differences are empty where the reference is not among the rows.
    Raises:
        ValueError: rows of other labels.
    """
    trained = {row.name: row.runs for row in table.rows if row.runs[0].stage in FINETUNING}
    first = (results[next(iter(trained))] if trained else next(iter(results.values())))[0]
    for name, result in ((name, each) for name, own in results.items() for each in own):
        if result["labels"] != first["labels"] or result["left_out"]["test"] != first["left_out"]["test"]:
            raise ValueError(f"table {table.key!r}: {name!r} scores other labels than {next(iter(results))!r}.")
    names = [name for name in first["labels"] if name not in first["left_out"]["test"]]
    columns = [first["labels"].index(name) for name in names]
    predictions, kept = {}, []
    for row in table.rows:
        starts = row.runs if row.name in trained else [row.runs[0].start]
        each_run = zip(starts, results[row.name], strict=True)
        kept = [each for run, result in each_run for each in kept_predictions(run.folder, result["seeds"])]
        predictions[row.name] = [each["predictions"][:, columns] for each in kept]
        if row.name not in trained:
            predictions[row.name] = [demographics_of(starts[0].settings, names)]
    settings = (run.settings for runs in trained.values() for run in runs)
    rounds = next((own["bootstrap"] for own in settings if "bootstrap" in own), 200)
    references, draws = kept[0]["references"][:, columns], Bootstrap(kept[0]["patients"], rounds)

    def statistics(rows: np.ndarray) -> dict[tuple, float]:
        values = {}
        for row, runs in predictions.items():
            each = [_downstream_scores(first["task"], own[rows], references[rows], names) for own in runs]
            values |= {(row, name): float(np.mean([own[name] for own in each])) for name in each[0]}
        if table.reference_row is None:
            return values
        above = {(*key, "above"): value - values[table.reference, key[1]] for key, value in values.items()}
        return values | {key: value for key, value in above.items() if key[0] != table.reference}

    scores: dict[str, dict[str, Score]] = {name: {} for name in predictions}
    above: dict[str, dict[str, Score]] = {name: {} for name in predictions}
    for (row, name, *than), score in draws.scores(statistics).items():
        if score.value is not None:
            (above if than else scores)[row][name] = replace(score, name=name)
    return scores, above


def _downstream_scores(task: str, predictions: np.ndarray, references: np.ndarray, names: list[str]) -> dict:
    """Those that need no threshold."""
    if task == "segmentation":
        return dice_scores(predictions[..., 0], predictions[..., 1], references, names)
    scores = classification_scores(predictions, references, names, {})
    return {name: value for name, value in scores.items() if "f1" not in name}


def markdown(tables: Mapping[str, dict], experiment: Experiment) -> str:
    """All tables with what they are worth."""
    parts = ["\n".join(_lines(table, experiment)) for table in tables.values()]
    every = list(tables.values())
    seeds = max(table["runs"] for table in every)
    facts = ["95 % intervals over patients"]
    if any(row["above_reference"] for table in every for row in table["rows"]):
        facts.append("differences on the same patients")
    if any("std" in score for table in every for row in table["rows"] for score in row["scores"].values()):
        facts.append(f"± is the standard deviation over {f'{seeds} seeds' if seeds > 1 else 'seeds'}")
    elif experiment.margin is not None:
        facts.append("one seed: its own spread is not in the intervals")
    if any(row.get("label_supervised") for table in every for row in table["rows"]):
        facts.append("† label-supervised: L_cls has seen the findings' labels of the training images")
    if experiment.margin is not None:
        facts.append("a row outside the reference's interval is a hint, not a test: its own spread is not in it")
    if any(row["published"] for table in every for row in table["rows"]):
        facts.append("published numbers were measured on MIMIC-CXR by other metrics, and compare by their order alone")
    measured = dict.fromkeys(f"Measured on {table['measured_on']}" for table in every if "measured_on" in table)
    machine = f"{machine_facts()['processor']}, {torch.get_num_threads()} threads."
    notes = [experiment.note] if experiment.note else []
    return "\n\n".join([*parts, " ".join([f"{'; '.join(facts)}.", *measured, *notes, machine])]) + "\n"


def _lines(table: dict, experiment: Experiment) -> list[str]:
    columns = {
        name: title for name, title in experiment.columns.items() if any(name in row["scores"] for row in table["rows"])
    }
    paired = any(row["above_reference"] for row in table["rows"])
    published = any(row["published"] for row in table["rows"])
    parameters = any("parameters" in row for row in table["rows"])
    header = [""] + ["parameters"] * parameters
    for title in columns.values():
        header += [title, *([f"above {table['reference']}"] * paired)]
    lines = [_line(row, table, columns, parameters, paired, published) for row in table["rows"]]
    rest = [""] * (1 + published)

    def row_of(label: str, cells: Mapping[str, str]) -> list[str]:
        values = [cell for name in columns for cell in (cells.get(name, ""), *([""] * paired))]
        return [label, *([""] * parameters), *values, *rest]

    if table["level"]:
        level = {name: f"{value:.3f}" for name, value in table["level"].items()}
        lines.append(row_of("chance, or the better baseline", level))
    if table["counts"]:
        said = {name: "yes" if counts else "**does not count**" for name, counts in table["counts"].items()}
        lines.append(row_of(f"the reference begins {experiment.margin:g} above it", said))
    header += ["training", *(["published (MIMIC-CXR)"] if published else [])]
    text = [f"## {table['title']}", "", markdown_table(header, lines), ""]
    if experiment.margin is not None and not paired:
        worth = {name: title for name, title in columns.items() if table["counts"].get(name) is not False}
        text += _differences(table, worth)
    text += [table["note"]] * bool(table["note"])
    if "test_positives" in table:
        counted = (f"{name} {count}" for name, count in table["test_positives"].items())
        text.append(f"Positives among the test images: {', '.join(counted)}.")
    for split, names in table.get("left_out", {}).items():
        if names:
            text.append(f"Left out of {split}: {'; '.join(f'{name} ({why})' for name, why in names.items())}.")
    return text


def _line(row: dict, table: dict, columns: Mapping[str, str], parameters: bool, paired: bool, published: bool):
    label = f"**{row['name']}** (reference)" if row["name"] == table["reference"] else row["name"]
    cells = [label + " †" * bool(row.get("label_supervised"))]
    if parameters:
        cells.append(f"{row['parameters'] / 1e6:.2f} M" if "parameters" in row else "")
    scores, above = from_json(row["scores"]), from_json(row["above_reference"])
    for name in columns:
        cells.append(scores[name].shown() if name in scores else "–")
        cells += [above[name].shown("+") if name in above else ""] * paired
    cells.append(f"{row['training_minutes']:.1f} min" if "training_minutes" in row else "")
    return cells + [", ".join(f"{name} {value:.3f}" for name, value in row["published"].items())] * published


def _differences(table: dict, columns: Mapping[str, str]) -> list[str]:
    """One sentence per side: the rows outside the reference's interval in the columns that count."""
    if not columns:
        return ["No column counts."]
    found = []
    for side in ("below", "above"):
        said = []
        for row in table["rows"]:
            names = [title.removeprefix("... ") for name, title in columns.items() if row["outside"].get(name) == side]
            if names:
                said.append(f"{row['name']} ({', '.join(names)})")
        if said:
            found.append(f"{side.capitalize()} the reference's interval: {'; '.join(said)}.")
    return found or ["No row lies outside the reference's intervals where the column counts."]
