"""A file of training/configs/experiments/ as tables of runs. A run that several rows have is one run.

What the file says of a row (`ROW`) holds for all its rows, what a table says for the table's; mappings within mappings
are merged, and the preset is merged into the file first.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template

import yaml

from ..data.sources import OWN as ENTRY_OPTIONS
from ..runs.command_line import mappings
from ..runs.files import CONFIGS, REAL_DATA, slug

EXPERIMENTS = CONFIGS / "experiments"
FINETUNING = ("classification", "segmentation")
TRAININGS = ("pretrain", "report", *FINETUNING)
# Of a row: its stage (a training, or a baseline of `stages`), the config of its command and what differs from it,
# "checkpoint" or the row that it starts from, how it is scored, and its folder, by default its name.
ROW = {"stage", "config", "changes", "start_from", "seeds", "bootstrap", "scoring", "folder"}
OWN = ROW | {"published", "preset", "for_each_checkpoint"}
TABLE = ROW | {"title", "rows", "reference", "note", "curve", "preset"}
FILE = ROW | {"output_dir", "columns", "margin", "presets", "downstream", "bases", "rows", "tables", "pictures"}
FILE |= {"note"}


@dataclass
class Run:
    """One training with its score, or a baseline.

    config: file of the command. changes: of its values. settings: the config's with the changes.
    start: the run, or the checkpoint, that it starts from. scoring: what it is scored on, and how.
    is_head: it is trained on a row's frozen encoder, by its own flags alone.
    """

    stage: str
    folder: Path
    config: Path | None = None
    changes: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    start: "Run | str | None" = None
    scoring: dict = field(default_factory=dict)
    is_head: bool = False

    @property
    def checkpoint(self) -> str | None:
        """What it starts from."""
        return str(self.start.folder) if isinstance(self.start, Run) else self.start

    @property
    def flags(self) -> list[str]:
        """Of its command, but for `--output_dir`: the same run by hand."""
        flags = ["--config", str(self.config)]
        for name in self.changes:
            flags += [f"--{name}", *_words(self.settings[name])]
        return flags if self.start is None else [*flags, "--checkpoint", self.checkpoint]


@dataclass
class Row:
    """runs: one per seed; of fine-tuning, whose command has seeds of its own, one. heads: name -> a run per run."""

    name: str
    runs: list[Run]
    published: dict[str, float] = field(default_factory=dict)
    heads: dict[str, list[Run]] = field(default_factory=dict)


@dataclass
class Table:
    """reference: the row that others are compared with. curve: what the rows' names count."""

    key: str
    title: str
    rows: list[Row]
    reference: str
    curve: str | None = None
    note: str | None = None

    @property
    def reference_row(self) -> Row | None:
        return next((row for row in self.rows if row.name == self.reference), None)


@dataclass
class Experiment:
    """columns: metric -> title. margin: a column counts where the reference's interval begins so far above chance."""

    output_dir: Path
    tables: list[Table]
    columns: dict[str, str]
    heads: dict[str, dict]
    pictures: dict[str, str]
    margin: float | None = None
    note: str | None = None

    @property
    def rows(self) -> list[Row]:
        return [row for table in self.tables for row in table.rows]

    def keep(self, names: Sequence[str]) -> None:
        """Keep the tables and rows of these names alone.

        Raises:
            ValueError: there is none of such a name.
        """
        known = [*(table.key for table in self.tables), *(row.name for row in self.rows)]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"only: {unknown[0]!r} is no table or row; there are {', '.join(dict.fromkeys(known))}.")
        for table in self.tables:
            if table.key not in names:
                table.rows = [row for row in table.rows if row.name in names]
        self.tables = [table for table in self.tables if table.rows]

    def add_heads(self, names: Sequence[str]) -> None:
        """Train these heads on each run's frozen encoder.

        Raises:
            ValueError: the file has none of such a name.
        """
        for name in names:
            if name not in self.heads:
                raise ValueError(f"downstream: the file has no {name!r}; it has {', '.join(self.heads) or 'none'}.")
            for row in self.rows:
                row.heads[name] = [_head(name, self.heads[name], run) for run in row.runs]


def read_experiment(
    file: str,
    preset: str | None = None,
    checkpoints: Sequence[str] = (),
    output_dir: str | None = None,
    seeds: Sequence[int] | None = None,
    bootstrap: int | None = None,
) -> Experiment:
    """
    Args:
        file: one of `EXPERIMENTS` by its name, or a path.
        preset: of the file; its first if absent.
        checkpoints: that rows start from.
        output_dir, seeds, bootstrap: in place of the file's.
    Raises:
        ValueError: no such file, preset, config or row; an unknown or a missing key; a missing checkpoint.
    """
    path = Path(file) if file.endswith((".yaml", ".yml")) else EXPERIMENTS / f"{file}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(each.stem for each in EXPERIMENTS.glob("*.yaml")))
        raise ValueError(f"experiment: no file {path}; shipped are {shipped}.")
    real_data = os.environ.get("COGAZE_REAL_DATA", str(REAL_DATA))
    values = yaml.safe_load(Template(path.read_text(encoding="utf-8")).safe_substitute(COGAZE_REAL_DATA=real_data))
    _check(values, ("output_dir", "columns", "tables"), str(path), FILE)
    presets = values.get("presets") or {}
    preset = preset or next(iter(presets), None)
    if preset is not None:
        if preset not in presets:
            raise ValueError(f"preset: {preset!r} is none of {', '.join(presets) or 'none'}.")
        values = merged(values, presets[preset])
    given = {"seeds": None if seeds is None else list(seeds), "bootstrap": bootstrap}
    output = Path(output_dir or values["output_dir"]) / (preset or "")
    planner = _Planner(path, values, presets, preset, output, checkpoints, {n: v for n, v in given.items() if v})
    tables = [planner.table(key, table) for key, table in values["tables"].items() if planner.in_preset(key, table)]
    heads = values.get("downstream") or {}
    for name, head in heads.items():
        _check(head, ("stage", "config"), f"downstream {name!r}", ROW)
        heads[name] = head | {"config": find_config(path, head["config"], f"downstream {name!r}")}
    pictures, margin = values.get("pictures") or {}, values.get("margin")
    return Experiment(output, tables, values["columns"], heads, pictures, margin, values.get("note"))


class _Planner:
    """Plans a file's rows; equal runs are one."""

    def __init__(self, path, values, presets, preset, output, checkpoints, given):
        self.path, self.values, self.presets, self.preset = path, values, presets, preset
        self.output, self.given = output, given
        self.checkpoints = _named(checkpoints)
        self.runs: dict[str, Run] = {}
        self.by_row: dict[str, list[Run]] = {}

    def in_preset(self, name: str, values: dict) -> bool:
        own = values.get("preset", self.preset)
        if own != self.preset and own not in self.presets:
            known = ", ".join(self.presets) or "none"
            raise ValueError(f"{self.path.name}: {name!r} has the preset {own!r}, none of {known}.")
        return own == self.preset

    def table(self, key: str, values: dict) -> Table:
        _check(values, ("title", "rows"), f"table {key!r}", TABLE)
        rows = []
        for name, row in values["rows"].items():
            row = row or {}
            _check(row, (), f"row {name!r} of table {key!r}", OWN)
            if self.in_preset(f"row {name} of table {key}", row):
                rows += self.row(key, name, row, values)
        reference = values.get("reference", rows[0].name if rows else None)
        if reference not in [row.name for row in rows]:
            raise ValueError(f"{self.path.name}: the reference {reference!r} of table {key!r} is none of its rows.")
        return Table(key, values["title"], rows, reference, values.get("curve"), values.get("note"))

    def row(self, key: str, name: str, row: dict, table: dict) -> list[Row]:
        own = {}
        for level in (self.values, table, row):
            own = merged(own, {k: v for k, v in level.items() if k in ROW})
        own |= self.given
        where = f"row {name!r} of table {key!r}"
        _check(own, ("stage",), where)
        published = row.get("published") or {}
        if not (row.get("for_each_checkpoint") and len(self.checkpoints) > 1):
            return [Row(name, self.plan(key, name, own, self._start(own, key, where)), published)]
        return [Row(label, self.plan(key, label, own, given)) for label, given in self.checkpoints.items()]

    def _start(self, own: dict, key: str, where: str) -> list[Run] | str | None:
        """The runs of the row that it starts from, in this table or, as "table/row", in another."""
        asked = own.get("start_from")
        if asked is None:
            return None
        if asked == "checkpoint":
            if not self.checkpoints:
                raise ValueError(f"checkpoint: {where} starts from one; give --checkpoint.")
            return next(iter(self.checkpoints.values()))
        start = self.by_row.get(f"{key}/{asked}") or self.by_row.get(asked)
        if start is None:
            raise ValueError(f"{self.path.name}: {where} starts from {asked!r}, which is no row above it.")
        return start

    def plan(self, key: str, name: str, own: dict, start: list[Run] | str | None) -> list[Run]:
        """A run for each seed; of fine-tuning one for all, or one for each of several runs that it starts from."""
        places = [slug(key)] * (len(self.values["tables"]) > 1) + [slug(name)]
        folder = self.output / own.get("folder", "/".join(places))
        where = f"row {name!r} of table {key!r}"
        config = None
        if own["stage"] in TRAININGS:
            _check(own, ("config",), where)
            config = find_config(self.path, own["config"], where)
        scoring = dict(own.get("scoring") or {})
        seeds, changes = own.get("seeds"), dict(own.get("changes") or {})
        rounds = {"bootstrap": own["bootstrap"]} if "bootstrap" in own else {}
        starts = start if isinstance(start, list) else [start]
        variants = [(folder, changes, starts[0])]
        if own["stage"] in FINETUNING and len(starts) > 1 and not changes.get("from_scratch"):
            own_seeds = seeds if seeds and len(seeds) == len(starts) else range(len(starts))
            places = [folder / f"from-{place}" for place in range(len(starts))]
            own_changes = [changes | rounds | {"seed": seed, "seeds": 1} for seed in own_seeds]
            variants = list(zip(places, own_changes, starts, strict=True))
        elif own["stage"] in FINETUNING:
            changes |= _numbered(seeds, where) | rounds
        else:
            scoring |= rounds
            if seeds and config:
                variants = [(folder / f"seed-{seed}", changes | {"seed": seed}, starts[0]) for seed in seeds]
        runs = []
        for place, values, begin in variants:
            run = planned(own["stage"], place, config, values, begin, scoring)
            identity = json.dumps([run.stage, str(config), run.settings, run.checkpoint, scoring], sort_keys=True)
            runs.append(self.runs.setdefault(identity, run))
        self.by_row[f"{key}/{name}"] = runs
        return runs


def planned(stage: str, folder: Path, config: Path | None, changes: dict, start, scoring: dict) -> Run:
    settings = {} if config is None else merged(yaml.safe_load(config.read_text(encoding="utf-8")), changes)
    return Run(stage, folder, config, changes, settings, start, scoring)


def _head(name: str, values: dict, run: Run) -> Run:
    """A head on the frozen encoder of a run, by the data, the seed and the test images of that run."""
    own = {f"{split}_data": run.settings[f"{split}_data"] for split in ("train", "validation")}
    own |= {"no_context": bool(run.settings.get("no_context")), "seed": run.settings.get("seed", 0)}
    test = phantom_options(run.settings) | {"name": "phantom", "split": "test"} | run.scoring.get("test", {})
    scoring = dict(values.get("scoring") or {})
    if values["stage"] in FINETUNING:
        own |= {"test_data": test, "seeds": 1, "bootstrap": run.scoring.get("bootstrap", 200)}
    else:
        scoring |= {"test_data": test, "bootstrap": values.get("bootstrap", 1000)}
    head = planned(values["stage"], run.folder / name, values["config"], values.get("changes") or {}, run, scoring)
    # Its data are the run's alone, whatever the config's are.
    return replace(head, is_head=True, changes=head.changes | own, settings=head.settings | own)


def phantom_options(settings: dict) -> dict:
    """How the rendered radiographs that a run trains on were asked for, but for split and size.

    Raises:
        ValueError: it trains on others.
    """
    entries = mappings(settings["train_data"], "train_data")
    data = next((each for each in entries if each["name"] == "phantom"), None)
    if data is None:
        raise ValueError(f"train_data: {entries[0]['name']}; such a row is scored on rendered radiographs, phantom.")
    return {name: value for name, value in data.items() if name not in ("name", "split", "size", *ENTRY_OPTIONS)}


def find_config(path: Path, name: str, where: str) -> Path:
    """A command's config, beside the experiment's file or among the shipped ones.

    Raises:
        ValueError: it lies in neither.
    """
    files = [folder / name for folder in (path.parent, CONFIGS)]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise ValueError(f"config: {where} names {name}, which lies neither beside {path} nor in {CONFIGS}.")
    return found


def merged(settings: dict, changes: dict) -> dict:
    """`settings` with `changes`, mappings within mappings merged too."""
    both = {
        name: merged(settings[name], value)
        for name, value in changes.items()
        if isinstance(value, dict) and isinstance(settings.get(name), dict)
    }
    return settings | changes | both


def _named(checkpoints: Sequence[str]) -> dict[str, str]:
    """Folder's name -> checkpoint."""
    found: dict[str, str] = {}
    for checkpoint in checkpoints:
        if not Path(checkpoint).is_dir():
            raise ValueError(f"checkpoint: there is no folder {checkpoint}.")
        if Path(checkpoint).name in found:
            raise ValueError(f"checkpoint: two folders are called {Path(checkpoint).name}.")
        found[Path(checkpoint).name] = str(checkpoint)
    return found


def _numbered(seeds: Sequence[int] | None, where: str) -> dict:
    """Seeds as fine-tuning counts them: the first, and how many."""
    if not seeds:
        return {}
    if list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))):
        raise ValueError(f"seeds: {where} is a fine-tuning, whose seeds follow one another; got {list(seeds)}.")
    return {"seed": seeds[0], "seeds": len(seeds)}


def _words(value) -> list[str]:
    if isinstance(value, list) and not any(isinstance(each, dict) for each in value):
        return [str(each) for each in value]
    return [json.dumps(value) if isinstance(value, dict | list) else str(value)]


def _check(values, needed: Sequence[str], where: str, known: set[str] | None = None) -> None:
    """Raises ValueError if `values` are no mapping, lack a key, or have one that is not known."""
    if not isinstance(values, dict):
        raise ValueError(f"experiment: {where} is no mapping.")
    for key in needed:
        if key not in values:
            raise ValueError(f"experiment: {where} lacks {key!r}.")
    for key in values:
        if known and key not in known:
            raise ValueError(f"experiment: {where} has the key {key!r}; known are {', '.join(sorted(known))}.")
