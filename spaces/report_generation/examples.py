"""Radiographs to try: rendered from a CT, of nobody. `python examples.py` renders them again."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from report_model import Context

FOLDER = Path(__file__).parent / "examples"
SIDE = 640
# (title, index in the phantom's test split, view position)
CHOSEN = (
    ("Clear lungs", 7, "AP"),
    ("Consolidation, effusions", 13, "PA"),
    ("Mass, opacities", 4, "PA"),
    ("Mass, pneumothorax", 3, "PA"),
    ("The same, lateral", 3, "LATERAL"),
    ("Catheter, chest tube", 2, "PA"),
)


@dataclass(frozen=True)
class Example:
    title: str
    path: Path
    context: Context
    findings: str

    def picture(self) -> Image.Image:
        with Image.open(self.path) as picture:
            return picture.convert("L")


@cache
def examples() -> list[Example]:
    entries = json.loads((FOLDER / "examples.json").read_text(encoding="utf-8"))
    return [
        Example(entry["title"], FOLDER / entry["file"], Context(**entry["context"]), entry["findings"])
        for entry in entries
    ]


def render() -> None:
    """Write the pictures and what the renderer says is in them."""
    import io

    from processing.datasets.phantom.loading import phantom_records

    FOLDER.mkdir(exist_ok=True)
    entries = []
    for title, index, view in CHOSEN:
        record = next(each for each in phantom_records("test", index, image_size=SIDE) if each["view_position"] == view)
        file = f"{index:02d}-{view.lower()}.jpg"
        Image.open(io.BytesIO(record["image"]["bytes"])).save(FOLDER / file, quality=90, optimize=True)
        context = {name: record[name] for name in ("view_position", "indication", "history")}
        entries.append({"title": title, "file": file, "context": context, "findings": record["findings"]})
    (FOLDER / "examples.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    render()
