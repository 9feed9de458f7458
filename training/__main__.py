"""The `cogaze` command: `cogaze <command> [its flags]`, or `python -m training <command>`."""

import ast
import importlib
import sys
from pathlib import Path

from . import __version__
from .runs.renamed import MODULES, refuse_old_flags

# The files beside this one, and what lies elsewhere: command -> module with a `main(argv)`.
_ELSEWHERE = {
    "datasets": "processing.datasets.__main__",
    "phantom": "processing.datasets.phantom.__main__",
    "metrics_environment": "training.metrics.reports.environment",
}
_ROOT = Path(__file__).resolve().parents[1]


def commands() -> dict[str, str]:
    """Command -> module."""
    here = {
        path.stem: f"training.{path.stem}"
        for path in (_ROOT / "training").glob("*.py")
        if not path.stem.startswith("_") and path.stem != "training"
    }
    return dict(sorted((here | _ELSEWHERE).items()))


def summary(module: str) -> str:
    """The first line of a module's docstring, without importing it."""
    path = _ROOT / Path(*module.split(".")).with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def usage() -> str:
    known = commands()
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {summary(module)}" for name, module in known.items()]
    head = ["usage: cogaze <command> [flags]", "", "Each command has its own --help.", ""]
    return "\n".join([*head, *lines])


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in ([], ["-h"], ["--help"]):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"cogaze {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    known = commands()
    if name not in known:
        new = MODULES.get(f"training.{name}")
        text = f"there is no such command; now it is `{new}`" if new else "there is no such command; see cogaze --help"
        print(f"cogaze {name}: {text}.", file=sys.stderr)
        return 2
    sys.argv = [f"cogaze {name}", *rest]  # what a parser calls itself by
    try:
        code = importlib.import_module(known[name]).main(rest)
    except SystemExit as end:
        if end.code == 2:  # A parser of `argparse` alone, which knows no names of before.
            refuse_old_flags(rest)
        raise
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
