"""Files that are written whole or not at all, and what they are called."""

import json
import os
import re
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Where the real radiographs lie unless COGAZE_REAL_DATA names another folder.
REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def read_json(path: str | Path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(path: str | Path, values: dict) -> None:
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def slug(name: str) -> str:
    """A name as that of a folder: lower case, with a hyphen for all that is no letter or digit."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
