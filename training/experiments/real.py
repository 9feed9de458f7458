"""Real radiographs: does pretraining on rendered ones help to read them?

    python -m training.experiments.real --checkpoint outputs/demo/cogaze-tiny --output_dir outputs/real

Fine-tunes on 560 radiographs of NIH ChestX-ray14 (`train.csv`), tests on 161 of other patients (`val.csv`), each with
pneumonia or without any finding, for pneumonia and for NIH's 14 labels. Epochs are chosen on a fifth of train's
patients. Beside the pretrained model stand the same from random weights, a timm network of like size from random
weights, and a logistic regression on view position, age and sex alone. What is finished is not run again; further flags
go to training/finetune_classification.py.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from processing.datasets.records import label_names, label_targets
from processing.datasets.sources.nih import MINI_COLUMNS, NIH_LABELS, load_nih

from ..downstream.finetuning import kept_predictions
from ..downstream.training import finetune_classification
from ..metrics.alignment import auroc_per_label
from ..metrics.scores import Bootstrap, Score, from_json, to_json
from ..runs.files import CONFIGS, read_json, slug, write_json, write_text
from ..runs.tables import markdown_table

CONFIG = CONFIGS / "classification" / "nih_mini.yaml"
REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
# A class with fewer positives among the test images is not scored.
MINIMUM = 10
TASKS = {"pneumonia": ["Pneumonia"], "14 labels": list(NIH_LABELS)}
BASELINE = "view, age and sex alone"
SCRATCH, PRETRAINED, TIMM = "random weights", "pretrained on rendered radiographs", "timm, random weights"
MODELS = (PRETRAINED, SCRATCH, TIMM)


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("COGAZE_REAL_DATA", REAL_DATA)) / "nih_mini")
    parser.add_argument("--checkpoint", default="outputs/demo/cogaze-tiny", help="what was pretrained on rendered ones")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/real"))
    parser.add_argument("--config", default=str(CONFIG), help="of training/finetune_classification.py")
    parser.add_argument("--timm_model", default="mobilenetv3_small_100")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bootstrap", type=int, default=1000)
    arguments, further = parser.parse_known_args(argv)
    if not arguments.root.is_dir():
        raise ValueError(f"root: there is no {arguments.root}; set COGAZE_REAL_DATA to the folder that has nih_mini.")
    if not Path(arguments.checkpoint).is_dir():
        raise ValueError(f"checkpoint: there is no folder {arguments.checkpoint}; `make demo` writes one.")

    data = {split: {"name": "nih", "root": str(arguments.root)} | _table(split) for split in ("train", "val")}
    train, test = (load_nih(arguments.root, **_table(split)) for split in ("train", "val"))
    results = {}
    for task, labels in TASKS.items():
        shared = [
            *("--config", arguments.config, *further, "--checkpoint", arguments.checkpoint),
            *("--train_data", json.dumps(data["train"]), "--test_data", json.dumps(data["val"]), "--labels", *labels),
            *("--on_missing_class", "skip", "--minimum_positives", str(MINIMUM), "--seeds", str(arguments.seeds)),
            *("--bootstrap", str(arguments.bootstrap)),
            *("--resume_from_checkpoint", "True"),
        ]
        own = {
            PRETRAINED: [],
            SCRATCH: ["--from_scratch", "True"],
            TIMM: ["--from_scratch", "True", "--timm_model", arguments.timm_model],
        }
        runs = {}
        for model in arguments.models:
            folder = arguments.output_dir / slug(task) / slug(model)
            finetune_classification([*shared, *own[model], "--output_dir", str(folder)])
            runs[model] = folder
        results[task] = compare(runs, train, test, arguments.bootstrap)
        write_json(arguments.output_dir / f"{slug(task)}.json", results[task])
    table = markdown(results)
    write_text(arguments.output_dir / "table.md", table)
    print(table)
    return results


def compare(runs: dict[str, Path], train: Dataset, test: Dataset, rounds: int) -> dict:
    """AUROC of fine-tuned models and of the baseline on the same images, intervals from the same draws of patients.

    Args:
        runs: model -> folder of its `metrics.json`, all for the same labels.
        train, test: what they were made from, for the baseline.
        rounds: of the bootstrap.
    Returns:
        "models": name -> {"scores", "parameters", "seeds"}; "above_scratch": name -> scores of the differences from
        random weights; "labels" that are scored, and what was "left_out".
    """
    summaries = {model: read_json(folder / "metrics.json") for model, folder in runs.items()}
    summary = next(iter(summaries.values()))
    scored = [name for name in summary["labels"] if name not in summary["left_out"]["test"]]
    columns = [label_names(test).index(name) for name in scored]
    known, targets = (label_targets(split["labels"][:])[:, columns] for split in (train, test))
    scores = {BASELINE: [baseline_scores(train, known, test)]}
    for model, found in summaries.items():
        own = [found["labels"].index(name) for name in scored]
        scores[model] = [kept["predictions"][:, own] for kept in kept_predictions(runs[model], found["seeds"])]

    def statistics(rows: np.ndarray) -> dict:
        values = {}
        for model, per_seed in scores.items():
            auroc = [auroc_per_label(own[rows], targets[rows], scored, minimum=1) for own in per_seed]
            values[model, "macro_auroc"] = np.mean([value for each in auroc for value in each.values()] or np.nan)
            for name in auroc[0]:
                values[model, f"auroc/{name}"] = np.mean([each[name] for each in auroc])
        return values

    def above_scratch(rows: np.ndarray) -> dict:
        values = statistics(rows)
        return {key: value - values[SCRATCH, key[1]] for key, value in values.items() if key[0] != SCRATCH}

    draws = Bootstrap(test["patient_id"], rounds)
    found = draws.scores(statistics)
    above = draws.scores(above_scratch) if SCRATCH in scores else {}
    models: dict[str, dict] = {model: {"scores": _of(model, found)} for model in scores}
    for model, own in summaries.items():
        models[model] |= {"parameters": own["seeds"][0]["parameters"], "seeds": len(own["seeds"])}
    return {
        "models": models,
        "above_scratch": {model: _of(model, above) for model in scores if model != SCRATCH and above},
        "labels": scored,
        "left_out": summary["left_out"],
        "images": {"train": len(train), "test": len(test)},
        "patients": {"train": len(set(train["patient_id"])), "test": len(set(test["patient_id"]))},
        "test_positives": dict(zip(scored, targets.sum(axis=0).astype(int).tolist(), strict=True)),
    }


def _of(model: str, scores: dict[tuple[str, str], Score]) -> dict[str, dict]:
    return to_json(replace(score, name=name) for (own, name), score in scores.items() if own == model)


def baseline_scores(train: Dataset, targets: np.ndarray, test: Dataset) -> np.ndarray:
    """(N, C) probabilities of `test` by logistic regressions on view position, age and sex, fitted on all of `train`.

    An unknown age is the mean one.
    """
    views = sorted(set(train["view_position"]))
    ages = np.array([np.nan if age is None else age for age in train["patient_age"]], float)
    mean = np.nanmean(ages) if np.isfinite(ages).any() else 0.0

    def features(dataset: Dataset) -> np.ndarray:
        age = np.array([mean if a is None or not np.isfinite(a) else a for a in dataset["patient_age"]], float)
        view = np.array(dataset["view_position"])[:, None] == np.array(views)
        sex = np.array([s or "" for s in dataset["patient_sex"]])[:, None] == np.array(["F", "M"])
        return np.column_stack([age, view, sex])

    fitted = [
        make_pipeline(StandardScaler(), LogisticRegression()).fit(features(train), wanted) for wanted in targets.T
    ]
    return np.column_stack([model.predict_proba(features(test))[:, 1] for model in fitted])


def markdown(results: dict) -> str:
    """One row per model: AUROC with intervals over patients, and how far above random weights."""
    tasks = list(results)
    header = ["", "parameters", *(column for task in tasks for column in (f"{task}: AUROC", "above random weights"))]
    rows = []
    for model in dict.fromkeys(model for task in tasks for model in results[task]["models"]):
        parameters = results[tasks[0]]["models"][model].get("parameters")
        row = [model, f"{parameters / 1e6:.2f} M" if parameters else ""]
        for task in tasks:
            row.append(from_json(results[task]["models"][model]["scores"])["macro_auroc"].shown())
            above = from_json(results[task]["above_scratch"].get(model, {}))
            row.append(above["macro_auroc"].shown("+") if above else "")
        rows.append(row)
    lines = [markdown_table(header, rows)]
    first = results[tasks[0]]
    lines += [
        "",
        f"Real radiographs, NIH ChestX-ray14 (NIH Clinical Center): {first['images']['train']} images to train on, "
        f"{first['images']['test']} of {first['patients']['test']} other patients to test; 95 % intervals over these, "
        "means over seeds. CoGaze reads picture, view position and an indication of age and sex, timm's network the "
        "picture alone. Not for clinical use.",
    ]
    for task in tasks:
        positives = ", ".join(f"{name} {count}" for name, count in results[task]["test_positives"].items())
        lines.append(f"{task}: mean over {positives} positives.")
        for split, found in results[task]["left_out"].items():
            if found:
                lines.append(f"{task}, left out of {split}: {'; '.join(f'{n} ({c})' for n, c in found.items())}.")
    return "\n".join(lines) + "\n"


def _table(split: str) -> dict:
    return {"table": f"{split}.csv", "columns": MINI_COLUMNS}


if __name__ == "__main__":
    main()
