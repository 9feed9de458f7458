"""The notebooks run from top to bottom, on tiny checkpoints of random weights, and the documents name what exists."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from training.__main__ import main as cogaze

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_of(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_notebooks_carry_no_outputs():
    assert len(NOTEBOOKS) == 2
    for notebook in NOTEBOOKS:
        cells = [
            cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"
        ]
        assert not any(cell["outputs"] for cell in cells), notebook


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, checkpoints, tmp_path):
    own = {"COGAZE_MODEL": str(checkpoints["writer"]), "COGAZE_PRETRAINED": str(checkpoints["pretrained"])}
    own |= {"MPLBACKEND": "Agg", "COGAZE_STUDIES": "24", "COGAZE_EPOCHS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code_of(notebook)], cwd=tmp_path, env=os.environ | own, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert (tmp_path / {"report": "report.png", "own_images": "outputs/own_images/seed-0"}[notebook.stem]).exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document, capsys):
    text = document.read_text(encoding="utf-8")
    for config in set(re.findall(r"training/configs/[\w/]+\.yaml", text)):
        assert (ROOT / config).is_file(), config
    for script in set(
        re.findall(r"(?<![\w/.])(?:training|tests|spaces|docs|processing)/[\w/]+\.(?:py|md|ipynb|png)", text)
    ):
        assert (ROOT / script).is_file(), script
    cogaze(["--help"])
    commands = capsys.readouterr().out
    for command in set(re.findall(r"^(?:.*`)?cogaze (\w+)", text, re.MULTILINE)):
        assert re.search(rf"^  {command} ", commands, re.MULTILINE), command
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", text, re.MULTILINE)):
        assert re.search(rf"^{''.join(target)}:", targets, re.MULTILINE), target


def test_the_readme_is_a_door():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180
