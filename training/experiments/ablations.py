"""Ablations of both papers on rendered radiographs: pretrain each row, score it on unseen patients, tabulate and plot.

    python -m training.experiments.ablations --preset hour --output_dir outputs/ablations

Presets: `hour`, one seed in an hour and a half on one CPU core, less on two, and `full`, several seeds without a limit.
Rows, presets and published numbers are in training/configs/experiments/ablations.yaml. A run is scored once: what is
finished is not run again, what was cut off goes on from its last epoch. Writes `metrics.json`, `table.md` and
`ablations.png` into the preset's folder; further flags go to training/pretrain.py. `--downstream` adds a column for
each head that it names, trained on every run's frozen encoder: a linear classifier, the decoder of masks, a report
generator.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import yaml
from transformers import AutoConfig

from processing.datasets.phantom.loading import GALLERY_CLASSES, load_phantom, load_phantom_gallery

from ..data.loading import load_data
from ..downstream.training import finetune_classification, finetune_segmentation
from ..evaluation.alignment import PROMPTS, flat, gaze_agreement, read_prompts, retrieval, zero_shot
from ..evaluation.scorers import Scorer
from ..reports.training import settings_of, train_report_generator
from ..reports.writing import one_per_study, open_writer
from ..runs.files import CONFIGS, write_text
from ..runs.settings import hold_to_settings, refuse_other_settings
from ..runs.tables import write_results
from .ablation_report import DOWNSTREAM, ablations_figure, markdown, summarise
from .demo_report import most_frequent_scores, scores
from .variants import pretrain_and_score, train_and_score

CONFIG = CONFIGS / "experiments" / "ablations.yaml"
SCORING = "scoring.json"
BASELINE_RECORDS = 500  # that the baselines of gaze agreement are averaged over


@dataclass
class Run:
    """One variant of a base. settings: of training/pretrain.py; test: the phantom's options for scoring."""

    name: str
    settings: dict
    test: dict
    is_reference: bool


def main(argv: list[str] | None = None) -> dict:
    # No abbreviations: a flag of training/pretrain.py may begin like one of these.
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--preset", default="hour", help="of the config: hour or full")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/ablations"))
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML file of rows, presets and bases")
    parser.add_argument("--tables", nargs="+", help="of the config, by key; all if absent")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the preset's")
    parser.add_argument(
        "--downstream", nargs="+", default=[], choices=list(DOWNSTREAM), help="heads to train on each frozen encoder"
    )
    parser.add_argument("--bootstrap", type=int, default=200, help="rounds of the bootstrap over patients")
    arguments, further = parser.parse_known_args(argv)
    if any(flag.partition("=")[0] == "--seed" for flag in further):
        raise ValueError("seed: each run has its own; give --seeds.")
    config = read_ablations(arguments.config)
    if arguments.preset not in config["presets"]:
        raise ValueError(f"preset: {arguments.preset!r} is none of {', '.join(config['presets'])}.")
    preset = config["presets"][arguments.preset]
    tables = rows_of(config, arguments.preset, arguments.tables)
    seeds = arguments.seeds or preset["seeds"]
    output = arguments.output_dir / arguments.preset

    runs = {}
    for table in tables.values():
        for row in table["rows"]:
            run = plan_run(config, arguments.config, preset, table["base"], row["changes"])
            row["run"] = run.name
            runs.setdefault(run.name, run)
    results: dict[str, list[dict]] = {}
    # References first: they say whether the others are worth waiting for.
    for number, run in enumerate(sorted(runs.values(), key=lambda run: not run.is_reference), 1):
        for seed in seeds:
            print(f"\n[{number} of {len(runs)}] {run.name}, seed {seed}", flush=True)
            folder = output / "runs" / run.name / f"seed-{seed}"
            metrics = carry_out(run, folder, seed, arguments.bootstrap, further)
            for head in arguments.downstream:
                metrics |= score_head(head, config, arguments.config, run, folder, seed, arguments.bootstrap)
            results.setdefault(run.name, []).append(metrics)

    facts = {"preset": arguments.preset, "seeds": seeds, "margin": config["margin"]}
    summary = facts | {"tables": summarise(tables, results, config["margin"])}
    ablations_figure(summary, output / "ablations.png")
    write_results(output, summary, markdown(summary))
    return summary


def read_ablations(path: Path) -> dict:
    """
    Raises:
        ValueError: no such file, a missing key, an unknown base or preset, or a table that has not one reference;
            names it.
    """
    if not path.is_file():
        raise ValueError(f"config: no file {path}.")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    _require(config, ("bases", "presets", "margin", "tables"), str(path))
    for key, table in config["tables"].items():
        _require(table, ("title", "base", "rows"), f"table {key!r}")
        if table["base"] not in config["bases"]:
            raise ValueError(f"config: table {key!r} has the base {table['base']!r}, which bases lacks.")
        for row in table["rows"]:
            _require(row, ("label", "changes"), f"a row of table {key!r}")
        for where, each in (
            (f"table {key!r}", table),
            *((f"row {r['label']!r} of table {key!r}", r) for r in table["rows"]),
        ):
            if each.get("preset", next(iter(config["presets"]))) not in config["presets"]:
                raise ValueError(
                    f"config: {where} has the preset {each['preset']!r}, none of {', '.join(config['presets'])}."
                )
        if sum(not row["changes"] for row in table["rows"]) != 1:
            raise ValueError(f"config: table {key!r} needs one row without changes, its reference.")
    return config


def _require(values, keys: Sequence[str], where: str) -> None:
    lacking = [key for key in keys if not isinstance(values, dict) or key not in values]
    if lacking:
        raise ValueError(f"config: {where} lacks {lacking[0]!r}.")


def read_settings(config: Path, own: dict, where: str) -> dict:
    """The settings of the file that `own` names, beside the ablations' `config` or among the shipped ones, changed.

    Raises:
        ValueError: no such file.
    """
    _require(own, ("config",), where)
    files = [folder / own["config"] for folder in (config.parent, CONFIGS)]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ValueError(
            f"config: {where} names {own['config']}, which lies neither beside {config} nor in {files[1]}."
        )
    return merged(yaml.safe_load(file.read_text(encoding="utf-8")), own.get("changes", {}))


def rows_of(config: dict, preset: str, asked: list[str] | None) -> dict[str, dict]:
    """The tables asked for, with the preset's rows.

    Raises:
        ValueError: an unknown table.
    """
    unknown = [key for key in asked or [] if key not in config["tables"]]
    if unknown:
        raise ValueError(f"tables: {unknown[0]!r} is none of {', '.join(config['tables'])}.")
    return {
        key: table | {"rows": [dict(row) for row in table["rows"] if row.get("preset", preset) == preset]}
        for key, table in config["tables"].items()
        if (key in asked if asked else table.get("preset", preset) == preset)
    }


def plan_run(config: dict, path: Path, preset: dict, base: str, changes: dict) -> Run:
    """The run of a row: its base's settings with those of the preset and its own.

    Args:
        path: of the file that `config` was read from.
    """
    own = config["bases"][base]
    settings = read_settings(path, own, f"base {base!r}")
    for each in (preset.get("changes", {}), changes):
        settings = merged(settings, each)
    for split in ("train", "validation"):
        if settings[f"{split}_data"]["name"] != "phantom":
            raise ValueError(f"{split}_data: {own['config']} names no phantom; ablations run on rendered radiographs.")
        settings[f"{split}_data"] = settings[f"{split}_data"] | {"size": preset[f"{split}_studies"]}
    options = {name: value for name, value in settings["train_data"].items() if name not in ("name", "split", "size")}
    test = {
        "split": options | {"size": preset["test_studies"]},
        "gallery": options | {"size_per_class": preset["gallery_per_class"]},
    }
    return Run(f"{base}-{_slug(changes)}" if changes else f"{base}-reference", settings, test, not changes)


def merged(settings: dict, changes: dict) -> dict:
    """`settings` with `changes`, mappings within mappings merged too."""
    both = {
        name: merged(settings[name], value)
        for name, value in changes.items()
        if isinstance(value, dict) and isinstance(settings.get(name), dict)
    }
    return settings | changes | both


def carry_out(run: Run, folder: Path, seed: int, rounds: int, further: list[str]) -> dict:
    """Pretrain and score one run, unless it is finished.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    settings = run.settings | {"seed": seed}
    file = folder / "pretrain.yaml"
    if file.is_file():
        earlier = yaml.safe_load(file.read_text(encoding="utf-8"))
        refuse_other_settings(folder, earlier, settings, ", or delete that one")
    else:
        write_text(file, yaml.safe_dump(settings, sort_keys=False))
    # What it is scored on, apart from what it is trained by.
    hold_to_settings(folder / SCORING, {"test": run.test, "bootstrap": rounds})
    score = partial(_score, data=run, rounds=rounds)
    metrics = pretrain_and_score(folder, ["--config", str(file), *further], score)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    # L_cls has seen the findings that the scores ask for.
    supervised = getattr(AutoConfig.from_pretrained(folder), "use_classification", False)
    return metrics | {"label_supervised": supervised}


def _score(scorer: Scorer, data: Run, rounds: int) -> dict:
    scorer.conditions = tuple(condition for condition in scorer.conditions if condition != "context_blank_image")
    test = load_phantom("test", **data.test["split"])
    train = None
    if data.is_reference:
        options = {name: value for name, value in data.settings["train_data"].items() if name != "name"}
        train = load_phantom(**options | {"split": "train", "size": min(BASELINE_RECORDS, options["size"])})
    metrics = zero_shot(scorer, None, test, read_prompts(PROMPTS)["findings"], rounds, groups=False)
    metrics |= retrieval(scorer, load_phantom_gallery(**data.test["gallery"]), "retrieval", rounds, GALLERY_CLASSES)
    metrics = flat((metrics | gaze_agreement(scorer, train, test, rounds)).values())
    if data.settings.get("no_context"):
        # It has never read a context.
        untrained = ("_context", "_context_interval", "_context_chance")
        metrics = {name: value for name, value in metrics.items() if not name.endswith(untrained)}
    return metrics | {"test_images": len(test), "test_patients": len(set(test["patient_id"]))}


def score_head(head: str, config: dict, path: Path, run: Run, checkpoint: Path, seed: int, rounds: int) -> dict:
    """The score of a head on the frozen encoder of a finished run, as a column of the tables.

    Args:
        head: of `DOWNSTREAM`. path: of the file that `config` was read from.
    """
    _require(config.get("downstream"), (head,), "downstream")
    settings = read_settings(path, config["downstream"][head], f"downstream {head!r}")
    for split in ("train", "validation"):
        settings[f"{split}_data"] = run.settings[f"{split}_data"]
    settings |= {"seed": seed, "no_context": bool(run.settings.get("no_context"))}
    test = {"name": "phantom", "split": "test"} | run.test["split"]
    if head != "reports":
        settings |= {"test_data": test, "bootstrap": rounds}
    file, output = checkpoint / f"{head}.yaml", checkpoint / head
    write_text(file, yaml.safe_dump(settings, sort_keys=False))
    flags = ["--config", str(file), "--output_dir", str(output)]
    if head == "reports":
        return _score_reports(flags + ["--checkpoint", str(checkpoint)], settings, test, output)
    flags += ["--checkpoint", str(checkpoint), "--linear_probe", "True", "--seeds", "1"]
    train = {"classification": finetune_classification, "segmentation": finetune_segmentation}[head]
    found = train([*flags, "--resume_from_checkpoint", "True"])["scores"]
    found, column = found[{"classification": "macro_auroc", "segmentation": "dice_lesion"}[head]], DOWNSTREAM[head]
    return {column: found.get("value", float("nan")), f"{column}_interval": found.get("interval", (float("nan"),) * 2)}


def _score_reports(flags: list[str], settings: dict, test: dict, output: Path) -> dict:
    """Label F1 of the reports that a decoder writes, beside that of the training data's most frequent report."""

    def score() -> dict:
        dataset = load_data(test, "test_data")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        writer = open_writer(str(output), device, batch_size=64, use_context=not settings["no_context"])
        rows = list(writer.rows(dataset, one_per_study(dataset)))
        return scores(rows, "") | most_frequent_scores(rows, load_data(settings["train_data"], "train_data"))

    own = settings_of(flags)
    found = train_and_score(output, own, lambda resume: train_report_generator([*flags, *resume]), score)
    for each in output.glob("checkpoint-*"):
        shutil.rmtree(each)
    column = DOWNSTREAM["reports"]
    values = {column: found["label_micro_f1"], f"{column}_interval": found["label_micro_f1_interval"]}
    return values | {f"{column}_chance": found["most_frequent_report_label_micro_f1"]}


def _slug(changes: dict) -> str:
    flat = changes.get("model_overrides", {}) | {k: v for k, v in changes.items() if k != "model_overrides"}
    words = (f"{name}={'+'.join(value) if isinstance(value, list) else value}" for name, value in flat.items())
    return ",".join(words).replace("/", "_")


if __name__ == "__main__":
    main()
