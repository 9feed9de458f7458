"""What a reader copies from the documents runs: the README's Python as it stands, every command line by its parser."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from training.__main__ import commands
from training.__main__ import main as cogaze
from training.runs.command_line import CommandParser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN = re.compile(r"(?:cogaze \w+|python -m (?:training|processing)\S*|accelerate launch \S+) .+")


def blocks(text: str, language: str) -> list[str]:
    return [block for found, block in BLOCK.findall(text) if found == language]


def command_lines(text: str) -> list[str]:
    """Of shell blocks, a line each with its continuations, and of code within sentences."""
    shell = "\n".join(blocks(text, "sh")).replace("\\\n", " ")
    lines = [" ".join(shlex.split(line, comments=True, posix=False)) for line in shell.splitlines()]
    within = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]
    return [line for line in [*lines, *within] if RUN.fullmatch(line) and "<" not in line]


LINES = sorted({line for document in DOCUMENTS for line in command_lines(document.read_text(encoding="utf-8"))})


def as_cogaze(line: str) -> list[str]:
    """The same command, as `cogaze` is told it on a machine without a GPU."""
    words = shlex.split(line)
    if words[0] == "cogaze":
        return words[1:]
    named = words[2].removesuffix(".py").replace("/", ".")
    (name,) = [name for name, module in commands().items() if named in (module, module.removesuffix(".__main__"))]
    trains = name == "pretrain" or name.startswith(("train_", "finetune_"))
    return [name, *words[3:], *(["--use_cpu", "true"] if trains else [])]


class Parsed(BaseException):
    """The command line was taken; what it asks for is not done."""


@pytest.fixture
def parsers_stop(monkeypatch):
    """A command ends where its own parser has taken all that it was given."""
    depth = 0

    def stop_after(kind, name):
        parse = getattr(kind, name)

        def parse_and_stop(self, *args, **kwargs):
            nonlocal depth
            depth += 1
            try:
                parsed = parse(self, *args, **kwargs)
            finally:
                depth -= 1
            if depth or not self.add_help:  # One that looks for --config alone has no --help.
                return parsed
            raise Parsed

        monkeypatch.setattr(kind, name, parse_and_stop)

    stop_after(argparse.ArgumentParser, "parse_args")
    stop_after(argparse.ArgumentParser, "parse_known_args")
    stop_after(CommandParser, "parse_args_into_dataclasses")
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_command_line_of_the_documents_parses(line, parsers_stop):
    with pytest.raises((Parsed, SystemExit)) as ended:
        cogaze(as_cogaze(line))
    assert ended.type is Parsed or ended.value.code == 0


def test_a_command_line_that_is_not_taken_is_noticed(parsers_stop):
    with pytest.raises(SystemExit) as ended:
        cogaze(["publish", "--checkpoint", "outputs/demo", "--no_such_flag"])
    assert ended.value.code == 2
    with pytest.raises(ValueError, match="config"):
        cogaze(["pretrain", "--config", "training/configs/pretrain/none.yaml"])


@pytest.mark.slow
def test_the_code_of_the_readme_runs_as_it_stands(checkpoints, tmp_path):
    """From an empty folder with what `make demo` and the fine-tuning have written, and without the packages."""
    stands_for = {
        "outputs/demo/cogaze-tiny": checkpoints["pretrained"],
        "outputs/demo/cogaze-tiny-report": checkpoints["writer"],
        "outputs/classes/seed-0": checkpoints["classifier"],
        "spaces": ROOT / "spaces",
    }
    for name, target in stands_for.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(target)
    code = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    assert len(code) == 4
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    own |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert (tmp_path / "gaze.png").exists()
