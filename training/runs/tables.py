"""Markdown tables of measurements."""

from collections.abc import Sequence
from pathlib import Path

from .files import write_json, write_text


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without a line end; bars within cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write_results(folder: Path, results: dict, table: str) -> None:
    """`metrics.json` and `table.md`; the table is printed too."""
    write_json(folder / "metrics.json", results)
    write_text(folder / "table.md", table)
    print(table)
