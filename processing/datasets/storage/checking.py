"""What lies in a data set's folder: counts against the published ones, files that cannot be read, a contact sheet."""

import textwrap
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from ...radiographs import read_radiograph
from ..records import POSITIVE, facts_of
from ..sources.common import Source

CELL, MARGIN, LINES = 360, 8, 7


def counts_of(dataset: Dataset) -> dict[str, int]:
    """Images, studies, patients, readings, texts and positive labels of a data set, without decoding an image."""
    plain = dataset.select_columns([name for name in dataset.column_names if name != "image"])
    facts = facts_of(dataset)
    counts: Counter = Counter()
    studies, patients, labels, views = {}, set(), Counter(), Counter()
    batches: Any = plain.with_format("arrow").iter(4096)
    for batch in batches:
        for row in batch.to_pylist():
            counts["images"] += bool(row["image_id"])
            patients.add(row["patient_id"])
            studies.setdefault(row["study_id"], row)
            counts["images with gaze"] += bool(row["gaze"])
            counts["readings"] += len(row["gaze"])
            counts["fixations"] += sum(len(reading["fixations"]) for reading in row["gaze"])
            counts["sentences"] += sum(len(reading["sentences"]) for reading in row["gaze"])
            counts["regions"] += len(row["regions"])
            labels.update(np.flatnonzero(np.array(row["labels"]) == POSITIVE).tolist())
            views[row["view_position"] or "unknown"] += bool(row["image_id"])
    counts |= {"studies": len(studies), "patients": len(patients)}
    for name in ("indication", "history", "findings", "impression"):
        counts[f"studies with {name}"] = sum(bool(row[name]) for row in studies.values())
    for name, count in views.most_common():
        counts[f"view {name}"] = count
    for index, name in enumerate(facts.get("label_names", ())):
        counts[f"positive {name}"] = labels[index]
    return {name: count for name, count in counts.items() if count}


def compared(counts: dict[str, int], source: Source, split: str | None) -> list[str]:
    """A line for each published count that can be set beside these."""
    lines = []
    for name, published in source.published.items():
        if split is None and name in ("images", "studies", "patients", "readings"):
            found = counts.get(name, 0)
        elif split is not None and name == split:
            found = counts.get("images", 0)
        else:
            continue
        versions = published if isinstance(published, tuple) else (published,)
        verdict = "as published" if found in versions else f"published {' or '.join(f'{v:,}' for v in versions)}"
        lines.append(f"{name}: {found:,} ({verdict})")
    return lines


def unreadable(dataset: Dataset, most: int | None = None, num_proc: int = 1, seed: int = 0) -> tuple[int, list[str]]:
    """(images tried, messages of those that cannot be decoded), over all or a random sample of `most`."""
    rows = range(len(dataset))
    if most is not None and most < len(dataset):
        rows = sorted(np.random.default_rng(seed).choice(len(dataset), most, replace=False).tolist())
    stored: Any = dataset.select_columns(["image"]).select(rows).with_format("arrow").iter(256)
    values = (row["image"] for batch in stored for row in batch.to_pylist() if row["image"])
    bar = partial(tqdm, total=len(rows), desc="decoding", unit="image")
    if num_proc > 1:
        with ProcessPoolExecutor(num_proc) as pool:
            verdicts = list(bar(pool.map(_verdict, values, chunksize=16)))
    else:
        verdicts = list(bar(map(_verdict, values)))
    return len(verdicts), [message for message in verdicts if message]


def _verdict(value: dict) -> str | None:
    try:
        read_radiograph(value)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def interesting(dataset: Dataset, count: int) -> list[int]:
    """Rows for a contact sheet: with gaze first, then with regions, spread over the data set."""
    stored: Any = dataset.select_columns(["gaze", "regions"]).with_format("arrow").iter(4096)
    worth = []
    for batch in stored:
        readings = np.asarray(batch["gaze"].combine_chunks().value_lengths())
        regions = np.asarray(batch["regions"].combine_chunks().value_lengths())
        worth.append(2 * (readings > 0) + (regions > 0))
    worth = np.concatenate(worth)
    chosen: list[int] = []
    for value in (3, 2, 1, 0):
        rows = np.flatnonzero(worth == value)
        left = min(count - len(chosen), len(rows))
        chosen += rows[np.linspace(0, len(rows) - 1, left).astype(int)].tolist()
    return sorted(chosen)


def contact_sheet(records: list[dict], label_names: list[str], columns: int = 4) -> Image.Image:
    """Radiographs with fixations (area by duration, joined in order), regions' boxes, and text underneath."""
    font = ImageFont.load_default(12)
    height = CELL + 16 * (LINES + 2)
    rows = -(-len(records) // columns)
    sheet = Image.new("RGB", (columns * (CELL + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN), "black")
    draw = ImageDraw.Draw(sheet)
    for index, record in enumerate(records):
        left = MARGIN + index % columns * (CELL + MARGIN)
        top = MARGIN + index // columns * (height + MARGIN)
        if record["image"] is not None:
            _draw_radiograph(sheet, draw, record, left, top)
        for line, text in enumerate(caption(record, label_names)):
            draw.text((left, top + CELL + 4 + 16 * line), text, fill="white", font=font)
    return sheet


def _draw_radiograph(sheet, draw, record: dict, left: int, top: int) -> None:
    picture = record["image"].convert("RGB")
    scale = CELL / max(record["image_width"], record["image_height"])
    size = max(1, round(record["image_width"] * scale)), max(1, round(record["image_height"] * scale))
    sheet.paste(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2), (left, top))
    for region in record["regions"]:
        x0, y0, x1, y1 = (value * scale for value in region["box"])
        draw.rectangle((left + x0, top + y0, left + x1, top + y1), outline="orange")
    for reading, colour in zip(record["gaze"], ("cyan", "yellow", "magenta", "lime", "red"), strict=False):
        points = [(left + f["x"] * scale, top + f["y"] * scale) for f in reading["fixations"]]
        draw.line(points, fill=colour, width=1)
        for (x, y), fixation in zip(points, reading["fixations"], strict=True):
            radius = 2 + 8 * min(1.0, fixation["end"] - fixation["begin"]) ** 0.5
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour)


def _spoken(sentence: dict) -> str:
    if sentence["begin"] is None:
        return sentence["text"]
    return f"[{sentence['begin']:.1f}-{sentence['end']:.1f} s] {sentence['text']}"


def caption(record: dict, label_names: list[str]) -> list[str]:
    """Lines under a picture: id, view, positive labels, then sentences with their times, or report text."""
    positive = [name for name, code in zip(label_names, record["labels"], strict=False) if code == POSITIVE]
    head = [f"{record['image_id'][-40:]} {record['view_position']}", ", ".join(positive)]
    body = " ".join(_spoken(sentence) for reading in record["gaze"][:1] for sentence in reading["sentences"])
    body = body or record["findings"] or record["impression"] or record["indication"]
    body = body.encode("latin-1", "replace").decode("latin-1")
    return [line[:58] for line in head] + textwrap.wrap(body, 58)[:LINES]
