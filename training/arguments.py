"""Command lines: a YAML file gives the defaults, flags override them."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from .files import read_json, write_json

# Beside what was trained: what it hangs on.
SETTINGS_FILE = "settings.json"


def parse_arguments(
    kinds: Sequence[type],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    defaults: dict | None = None,
):
    """One instance of each dataclass in `kinds`, filled from `--config file.yaml` and the flags after it.

    `defaults` replace the dataclasses' own.

    Raises:
        ValueError: the YAML file is missing, is no mapping, or has a key that no dataclass knows; names the key.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--config")
    known, rest = first.parse_known_args(argv)

    parser = HfArgumentParser(kinds, description=description)
    parser.set_defaults(**(defaults or {}))
    parser.add_argument("--config", help="a YAML file whose keys are the arguments below; flags override it")
    if known.config:
        parser.set_defaults(**_read_yaml(known.config, {field.name for kind in kinds for field in fields(kind)}))
        for action in parser._actions:
            action.required = action.required and parser.get_default(action.dest) is None
    *parsed, _ = parser.parse_args_into_dataclasses(args=rest, look_for_args_file=False)
    return parsed


def _read_yaml(path: str, known: set[str]) -> dict:
    if not Path(path).is_file():
        raise ValueError(f"config: no file {path}; the ones that come with the project are in training/configs/.")
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"config: {path} holds no `key: value` lines.")
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"config: {path} has the key {key!r}, which this script does not know; see its --help.")
        # YAML reads 5e-5 as a string.
        if isinstance(value, str):
            try:
                values[key] = float(value)
            except ValueError:
                pass
    return values


def mapping(value: dict | str | None, argument: str) -> dict:
    """A mapping given as such (YAML) or as JSON text (command line); None is empty.

    Raises:
        ValueError: the text is no JSON object; names the argument.
    """
    if value is None or isinstance(value, dict):
        return dict(value or {})
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{argument}: {value!r} is no JSON object ({error}).") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{argument}: {value!r} is no JSON object.")
    return parsed


# Of `TrainingArguments`: what results hang on, whatever the machine.
SETTINGS = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")
SETTINGS += ("weight_decay", "lr_scheduler_type", "warmup_steps", "max_grad_norm", "optim", "max_steps")
SETTINGS += ("metric_for_best_model", "lr_scheduler_kwargs", "bf16", "fp16")


def comparable_settings(arguments, training: TrainingArguments, left_out: Sequence[str] = ()) -> dict:
    """What makes results comparable: a dataclass of arguments but for `left_out`, and `SETTINGS`, as JSON has them."""
    own = {name: value for name, value in asdict(arguments).items() if name not in left_out}
    return json.loads(json.dumps(own | {name: getattr(training, name) for name in SETTINGS}))


def refuse_other_settings(folder: Path, earlier: dict, settings: dict, advice: str = "") -> None:
    """
    Raises:
        ValueError: `folder` was made with `earlier` settings that differ from `settings`; names the first.
    """
    for name, value in settings.items():
        if earlier.get(name) != value:
            raise ValueError(
                f"output_dir: {folder} was made with {name} = {earlier.get(name)!r}, now it is {value!r}; "
                f"give another folder{advice}."
            )


def hold_to_settings(path: Path, settings: dict) -> None:
    """Write `settings` to `path`, unless an earlier run in that folder has.

    Raises:
        ValueError: it has written others; names the first.
    """
    if path.is_file():
        refuse_other_settings(path.parent, read_json(path), settings, ", or delete that one")
    else:
        write_json(path, settings)


def checkpoint_to_resume(training: TrainingArguments) -> str | None:
    """The checkpoint to go on from; "True" is the last one.

    Raises:
        ValueError: "True", and there is none.
    """
    asked = training.resume_from_checkpoint
    if asked is None or str(asked).lower() in ("false", "none"):
        return None
    if str(asked).lower() != "true":
        return str(asked)
    last = get_last_checkpoint(training.output_dir) if Path(training.output_dir).is_dir() else None
    if last is None:
        raise ValueError(f"resume_from_checkpoint: there is no checkpoint in {training.output_dir}.")
    return last
