"""How far reading carries to real radiographs without fine-tuning, kept image by image so that runs can be paired."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from processing.datasets.label_spaces import NO_FINDING, read_label_table
from processing.datasets.records import label_names, label_targets

from ..data.loading import load_data
from ..evaluation.prompts import FURTHER_PROMPTS, PROMPTS, read_prompts
from ..evaluation.scorers import Scorer
from ..metrics.alignment import auroc_per_label
from ..metrics.scores import Bootstrap, Score, mean

# Of a run: what each image scored.
KEPT = "real.safetensors"
MINIMUM = 10  # positives, and negatives, of a label that counts


def score_real(scorer: Scorer, spec: Mapping, folder: Path, rounds: int) -> tuple[dict[str, Score], object]:
    """Zero-shot from the picture alone: pneumonia against no finding, and each label that there are prompts for.

    Args:
        spec: of the data, as for `load_data`. folder: receives `KEPT`.
    Returns:
        The scores, and the data set.
    """
    data = load_data(spec, "scoring.real")
    prompts = read_prompts(PROMPTS)
    findings = prompts["findings"] | read_prompts(FURTHER_PROMPTS)["findings"]
    table = read_label_table()
    joined = [table.name(name) for name in label_names(data)]
    columns = [c for c, name in enumerate(joined) if name in findings and name != NO_FINDING]
    names = [joined[c] for c in columns]
    sides = [findings[name][side] for side in ("positive", "negative") for name in names]
    classes = scorer.embed_classes([*sides, prompts["classes"]["pneumonia"], prompts["classes"]["normal"]])
    found = scorer.class_scores(data, "no_context", classes)
    positive, negative, pneumonia, normal = np.split(found, [len(names), 2 * len(names), 2 * len(names) + 1], axis=1)
    targets = label_targets(data["labels"][:])
    others = [c for c, name in enumerate(joined) if name != NO_FINDING]
    ill = targets[:, joined.index("Pneumonia")] > 0
    _, patients = np.unique(data["patient_id"], return_inverse=True)
    kept = {
        "labels": (positive - negative).astype(np.float32),
        "targets": targets[:, columns],
        "pneumonia": (pneumonia - normal)[:, 0].astype(np.float32),
        "ill": ill,
        "compared": ill | ~(targets[:, others] > 0).any(axis=1),
        "patients": patients.astype(np.int64),
    }
    plain = {name: np.ascontiguousarray(values) for name, values in kept.items()}
    save_file(plain, folder / KEPT, {"names": "|".join(names)})
    statistics = _statistics([kept], counted(kept, names))
    return Bootstrap(kept["patients"], rounds).scores(statistics, chance=0.5), data


def counted(kept: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[int, str]:
    """Column -> name of the labels with positives and negatives enough among all images."""
    positives = (kept["targets"] > 0).sum(axis=0)
    enough = (positives >= MINIMUM) & (len(kept["targets"]) - positives >= MINIMUM)
    return {column: name for column, name in enumerate(names) if enough[column]}


def _statistics(runs: Sequence[Mapping[str, np.ndarray]], columns: Mapping[int, str]):
    """rows -> name -> mean over the runs."""

    def of_run(kept: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, float]:
        own, names = list(columns), list(columns.values())
        each = auroc_per_label(kept["labels"][rows][:, own], kept["targets"][rows][:, own], names, minimum=1)
        rows = rows[kept["compared"][rows]]
        pneumonia = auroc_per_label(kept["pneumonia"][rows, None], kept["ill"][rows, None].astype(float), ["it"], 1)
        found = {"real_pneumonia_auroc": pneumonia.get("it", np.nan), "real_macro_auroc": mean(each.values())}
        return found | {f"real_auroc/{name}": each.get(name, np.nan) for name in names}

    def statistics(rows: np.ndarray) -> dict[str, float]:
        each = [of_run(kept, rows) for kept in runs]
        return {name: float(np.mean([own[name] for own in each])) for name in each[0]}

    return statistics


def compare_zero_shot(rows: Mapping[str, Sequence[Path]], reference: str, rounds: int) -> tuple[dict, dict]:
    """Scores of each row, and how far above the reference's they lie, paired: the same draws of patients for all.

    A row of several runs has their mean, and each draw of patients draws its runs as well, the same ones of every row
    that has as many as the reference.

    Args:
        rows: name -> folders of its runs.
    Returns:
        Twice row -> name -> `Score`.
    """
    runs = {row: [load_file(folder / KEPT) for folder in folders] for row, folders in rows.items()}
    first = runs[reference][0]
    columns = counted(first, kept_names(rows[reference][0]))
    draws, drawn = Bootstrap(first["patients"], rounds), np.random.default_rng(0)
    whole = len(first["patients"])
    scores: dict[str, dict[str, Score]] = {row: {} for row in runs}
    above: dict[str, dict[str, Score]] = {row: {} for row in runs}

    def statistics(patients: np.ndarray) -> dict[tuple, float]:
        # All patients in their order: the value itself, of all runs.
        everything = len(patients) == whole and np.array_equal(patients, np.arange(whole))
        values, chosen = {}, {}
        for row, kept in runs.items():
            count = len(kept)
            if count not in chosen:
                chosen[count] = np.arange(count) if everything else drawn.integers(count, size=count)
            own = _statistics([kept[place] for place in chosen[count]], columns)(patients)
            values |= {(row, name): value for name, value in own.items()}
        higher = {(*key, "above"): value - values[reference, key[1]] for key, value in values.items()}
        return values | {key: value for key, value in higher.items() if key[0] != reference}

    for (row, name, *than), score in draws.scores(statistics, chance=0.5).items():
        if score.value is None:
            continue
        score.name = name
        if than:
            score.chance = None
            above[row][name] = score
            continue
        if len(runs[row]) > 1:
            everything = np.arange(whole)
            score.std = float(np.std([_statistics([kept], columns)(everything)[name] for kept in runs[row]], ddof=1))
        scores[row][name] = score
    return scores, above


def kept_names(folder: Path) -> list[str]:
    """Of the labels in `KEPT`."""
    with safe_open(folder / KEPT, "np") as file:
        return file.metadata()["names"].split("|")
