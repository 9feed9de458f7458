"""Command lines: a YAML file gives the defaults, flags override them."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from .renamed import FLAGS, new_config, refuse_old_flags


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults of the flags, and a description with its own lines."""


class CommandParser(HfArgumentParser):
    """`HfArgumentParser` that takes no abbreviations, and tells an old flag's new name.

    Args:
        kinds: dataclasses whose fields are the flags; more may be added as in `argparse`.
    """

    def __init__(self, kinds: Sequence[type] = (), description: str | None = None, **options):
        super().__init__(
            list(kinds), description=description, formatter_class=_Formatter, allow_abbrev=False, **options
        )

    def parse_known_args(self, args=None, namespace=None):
        """
        Raises:
            ValueError: an old flag; names the new one.
        """
        if args is not None:
            refuse_old_flags(args, self._option_string_actions)
        return super().parse_known_args(args, namespace)


def parse_arguments(
    kinds: Sequence[type],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    defaults: dict | None = None,
):
    """One instance of each dataclass in `kinds`, filled from `--config file.yaml` and the flags after it.

    `defaults` replace the dataclasses' own.

    Raises:
        ValueError: the YAML file is missing, is no mapping, or has a key that no dataclass knows; names the key. A
            flag or a key that has another name now; names it.
    """
    argv = sys.argv[1:] if argv is None else argv
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    known, rest = first.parse_known_args(argv)

    parser = CommandParser(kinds, description)
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
        moved = new_config(path)
        where = f"it is {moved} now" if moved else "the ones that come with the project are in training/configs/"
        raise ValueError(f"config: no file {path}; {where}.")
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"config: {path} holds no `key: value` lines.")
    for key, value in values.items():
        if key not in known:
            why = f"it is called {FLAGS[key]} now" if key in FLAGS else "this command does not know it; see its --help"
            raise ValueError(f"config: {path} has the key {key!r}: {why}.")
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


def mappings(value: list | dict | str, argument: str) -> list[dict]:
    """A list of mappings given as such (YAML) or as JSON text (command line); one mapping is a list of one.

    Raises:
        ValueError: the text is neither, or the list is empty or holds something else; names the argument.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{argument}: {value!r} is no JSON list ({error}).") from error
    if not isinstance(value, list):
        return [mapping(value, argument)]
    if not value or not all(isinstance(each, dict) for each in value):
        raise ValueError(f"{argument}: {value!r} is no list of mappings; give each data set one.")
    return [dict(each) for each in value]


def is_list(value) -> bool:
    """Whether `mappings` would find a list, of one entry or more."""
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))
