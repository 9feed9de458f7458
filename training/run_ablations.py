"""Ablations of both papers on rendered radiographs: pretrain each row, score it on unseen patients, tabulate and plot.

    python -m training.run_ablations --preset hour --output_dir outputs/ablations

Presets: `hour`, one seed in about an hour on two CPU cores, and `full`, several seeds without a limit. Rows, presets
and published numbers are in training/configs/ablations.yaml. A run is trained and scored once: what is finished is not
run again, what was cut off goes on from its last epoch. Writes `metrics.json`, `table.md` and `ablations.png` into the
preset's folder; further flags go to training/pretrain.py.
"""

import argparse
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from processing.datasets.phantom import GALLERY_CLASSES, load_phantom, load_phantom_gallery

from . import finetune_classification
from .ablation_report import DOWNSTREAM, ablations_figure, markdown, summarise
from .arguments import refuse_other_settings
from .evaluate_alignment import PROMPTS, gaze_agreement, read_prompts, retrieval, zero_shot
from .files import write_json, write_text
from .runs import pretrain_and_score
from .scorers import Scorer

CONFIG = Path(__file__).parent / "configs" / "ablations.yaml"
BASELINE_RECORDS = 500  # that the baselines of gaze agreement are averaged over


@dataclass
class Run:
    """One variant of a base. settings: of training/pretrain.py; test: the phantom's options for scoring."""

    name: str
    settings: dict
    test: dict
    is_reference: bool


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="hour", help="of the config: hour or full")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/ablations"))
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML file of rows, presets and bases")
    parser.add_argument("--tables", nargs="+", help="of the config, by key; all if absent")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the preset's")
    parser.add_argument("--downstream", action="store_true", help="also train a head on each frozen encoder")
    parser.add_argument("--bootstrap", type=int, default=200, help="rounds of the bootstrap over patients")
    arguments, further = parser.parse_known_args(argv)
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
            run = plan_run(config, arguments.config.parent, preset, table["base"], row["changes"])
            row["run"] = run.name
            runs.setdefault(run.name, run)
    results: dict[str, list[dict]] = {}
    # References first: they say whether the others are worth waiting for.
    for number, run in enumerate(sorted(runs.values(), key=lambda run: not run.is_reference), 1):
        for seed in seeds:
            print(f"\n[{number} of {len(runs)}] {run.name}, seed {seed}", flush=True)
            folder = output / "runs" / run.name / f"seed-{seed}"
            metrics = carry_out(run, folder, seed, arguments.bootstrap, further)
            if arguments.downstream:
                metrics |= head_alone(config, arguments.config.parent, run, folder, seed, arguments.bootstrap)
            results.setdefault(run.name, []).append(metrics)

    facts = {"preset": arguments.preset, "seeds": seeds, "margin": config["margin"]}
    summary = facts | {"tables": summarise(tables, results, config["above_chance"], config["margin"])}
    write_json(output / "metrics.json", summary)
    write_text(output / "table.md", markdown(summary))
    ablations_figure(summary, output / "ablations.png")
    print(markdown(summary))
    return summary


def read_ablations(path: Path) -> dict:
    """
    Raises:
        ValueError: no such file, an unknown base, or a table that has not one reference; names it.
    """
    if not path.is_file():
        raise ValueError(f"config: no file {path}.")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, table in config["tables"].items():
        if table["base"] not in config["bases"]:
            raise ValueError(f"config: table {key!r} has the base {table['base']!r}, which bases lacks.")
        if sum(not row["changes"] for row in table["rows"]) != 1:
            raise ValueError(f"config: table {key!r} needs one row without changes, its reference.")
    return config


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
        if key in (asked or config["tables"])
    }


def plan_run(config: dict, folder: Path, preset: dict, base: str, changes: dict) -> Run:
    """The run of a row: its base's settings with those of the preset and its own.

    Args:
        folder: where the bases' config files lie.
    """
    own = config["bases"][base]
    settings = yaml.safe_load((folder / own["config"]).read_text(encoding="utf-8"))
    for each in (own.get("changes", {}), preset.get("changes", {}), changes):
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
    score = partial(_score, data=run, rounds=rounds)
    metrics = pretrain_and_score(folder, ["--config", str(file), *further], score)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return metrics


def _score(scorer: Scorer, data: Run, rounds: int) -> dict:
    scorer.conditions = tuple(condition for condition in scorer.conditions if condition != "context_blank_image")
    test = load_phantom("test", **data.test["split"])
    train = None
    if data.is_reference:
        options = {name: value for name, value in data.settings["train_data"].items() if name != "name"}
        train = load_phantom(**options | {"split": "train", "size": min(BASELINE_RECORDS, options["size"])})
    metrics = zero_shot(scorer, None, test, read_prompts(PROMPTS)["findings"], rounds, groups=False)
    metrics |= retrieval(scorer, load_phantom_gallery(**data.test["gallery"]), "retrieval", rounds, GALLERY_CLASSES)
    metrics |= gaze_agreement(scorer, train, test, rounds)
    if data.settings.get("no_context"):
        # It has never read a context.
        untrained = ("_context", "_context_interval")
        metrics = {name: value for name, value in metrics.items() if not name.endswith(untrained)}
    return metrics | {"test_images": len(test), "test_patients": len(set(test["patient_id"]))}


def head_alone(config: dict, folder: Path, run: Run, checkpoint: Path, seed: int, rounds: int) -> dict:
    """AUROC of a classifier on the frozen encoder of a finished run, as a column of the tables."""
    own = config["downstream"]
    settings = merged(yaml.safe_load((folder / own["config"]).read_text(encoding="utf-8")), own.get("changes", {}))
    for split in ("train", "validation"):
        settings[f"{split}_data"] = run.settings[f"{split}_data"]
    settings["test_data"] = {"name": "phantom", "split": "test"} | run.test["split"]
    settings |= {"seed": seed, "bootstrap": rounds}
    file = checkpoint / "classification.yaml"
    write_text(file, yaml.safe_dump(settings, sort_keys=False))
    flags = ["--config", str(file), "--checkpoint", str(checkpoint), "--linear_probe", "True", "--seeds", "1"]
    flags += ["--output_dir", str(checkpoint / "classification"), "--resume_from_checkpoint", "True"]
    found = finetune_classification.main(flags)["metrics"]["macro_auroc"]
    return {DOWNSTREAM: found["mean"], f"{DOWNSTREAM}_interval": found["interval"] or (float("nan"),) * 2}


def _slug(changes: dict) -> str:
    flat = changes.get("model_overrides", {}) | {k: v for k, v in changes.items() if k != "model_overrides"}
    words = (f"{name}={'+'.join(value) if isinstance(value, list) else value}" for name, value in flat.items())
    return ",".join(words).replace("/", "_")


if __name__ == "__main__":
    main()
