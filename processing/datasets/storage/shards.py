"""Data sets as shards, for streaming from disk or object storage: parquet, or tar files as webdataset reads them.

    <split>-00000.parquet (or .tar) ...     records with their images and masks inside
    manifest.yaml                           format, facts, and each split's shards with their number of records

In a tar a record is `<index>.jpg` (or .png), `<index>.json` and `<index>.<n>.png` for its masks. Parquet shards open
with `datasets.load_dataset` too.
"""

import io
import json
import os
import tarfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Dataset, Features
from PIL import Image
from tqdm import tqdm

from ...radiographs import read_radiograph
from ..records import facts_of
from ..sources.building import embedded

MANIFEST = "manifest.yaml"
SUFFIXES = {"parquet": ".parquet", "webdataset": ".tar"}
ROW_GROUP = 32  # records that reading one of them brings in
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def size_in_bytes(text: str | int) -> int:
    """Bytes of "500MB" and the like.

    Raises:
        ValueError: no such size.
    """
    text = str(text).strip().upper()
    number, unit = (text[:-2], _UNITS[text[-2:]]) if text[-2:] in _UNITS else (text, 1)
    try:
        return int(float(number) * unit)
    except ValueError as error:
        raise ValueError(f"max_shard: {text!r} is no size; write 500MB or 1GB.") from error


def write_shards(
    dataset: Dataset,
    out,
    to: str = "parquet",
    split: str = "train",
    max_shard: str | int = "500MB",
    image_size: int | None = None,
    skip_unreadable: bool = False,
    num_proc: int = 1,
) -> dict:
    """Write a data set's records with their images. Every image is decoded once, so that no shard holds a bad one.

    Args:
        to: "parquet" or "webdataset".
        split: the shards' name; splits written to the same folder share its manifest.
        image_size: shortest side that larger pictures are reduced to (JPEG, quality 95); default: files as they are,
            DICOM as PNG. Gaze, boxes and `image_width` stay in pixels of the original.
        skip_unreadable: count and leave out what cannot be read, instead of stopping at it.

    Returns:
        {"records", "shards", "bytes", "skipped": {message: count}}.

    Raises:
        ValueError: an unknown format or size, or an unreadable image (named).
    """
    if to not in SUFFIXES:
        raise ValueError(f"to: {to!r} is none of {', '.join(SUFFIXES)}.")
    out = Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    manifest = _manifest(out)
    if manifest.get("format", to) != to:
        raise ValueError(f"output_dir: {out} holds {manifest['format']} shards already; give another folder for {to}.")
    for left in (*out.glob(f".{split}-*.tmp"), *out.glob(f".{MANIFEST}.tmp")):  # by a conversion that was killed
        left.unlink()
    num_proc = max(1, min(num_proc, len(dataset)))
    bounds = [len(dataset) * part // num_proc for part in range(num_proc + 1)]
    ranges = [(index, bounds[index], bounds[index + 1]) for index in range(num_proc)]
    write = partial(_write_part, dataset, out, to, split, size_in_bytes(max_shard), image_size, skip_unreadable)
    if num_proc == 1:
        parts = [write(ranges[0])]
    else:
        with ProcessPoolExecutor(num_proc) as pool:
            parts = list(pool.map(write, ranges))

    written = [shard for shards, _ in parts for shard in shards]
    for old in out.glob(f"{split}-*{SUFFIXES[to]}"):
        old.unlink()
    shards = []
    for index, (temporary, records) in enumerate(written):
        name = f"{split}-{index:05d}{SUFFIXES[to]}"
        os.replace(temporary, out / name)
        shards.append({"file": name, "records": records, "bytes": (out / name).stat().st_size})
    manifest |= {"format": to, "features": dataset.features.to_dict()}
    facts = {name: fact for name, fact in facts_of(dataset).items() if name != "dropped_examples"}  # this disk's paths
    manifest.setdefault("facts", {})[split] = facts
    manifest.setdefault("splits", {})[split] = shards
    temporary = out / f".{MANIFEST}.tmp"
    temporary.write_text(yaml.safe_dump(json.loads(json.dumps(manifest)), sort_keys=False))
    os.replace(temporary, out / MANIFEST)
    return {
        "records": sum(shard["records"] for shard in shards),
        "shards": len(shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "skipped": dict(sum((skipped for _, skipped in parts), Counter())),
    }


def _manifest(out: Path) -> dict:
    path = out / MANIFEST
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def _write_part(dataset, out, to, split, max_bytes, image_size, skip_unreadable, bounds):
    """Shards of the records of one range, under temporary names: [(path, records)], and what was skipped."""
    part, start, stop = bounds
    rows = dataset.with_format("arrow")
    writer, shards, skipped = None, [], Counter()
    bar = tqdm(total=stop - start, desc=f"{split} -> {to}", unit="record", disable=part > 0)
    for first in range(start, stop, ROW_GROUP):
        batch = []
        for row in rows[first : min(first + ROW_GROUP, stop)].to_pylist():
            try:
                batch.append(_with_content(row, image_size))
            except (ValueError, OSError) as error:
                if not skip_unreadable:
                    raise ValueError(f"{error} (or pass skip_unreadable)") from error
                skipped[str(error)] += 1
        bar.update(min(ROW_GROUP, stop - first))
        weight = sum(_weight(row) for row in batch)
        if writer is not None and writer.bytes + weight > max_bytes:
            shards.append(writer.close())
            writer = None
        while batch:
            if writer is None:
                temporary = out / f".{split}-{os.getpid()}-{part}-{len(shards)}.tmp"
                writer = (_ParquetShard if to == "parquet" else _TarShard)(temporary, dataset.features, first)
            fits = _fitting(batch, max_bytes - writer.bytes)
            writer.write(batch[:fits])
            batch = batch[fits:]
            if batch:
                shards.append(writer.close())
                writer = None
    if writer is not None:
        shards.append(writer.close())
    bar.close()
    return shards, skipped


def _fitting(batch: list[dict], room: int) -> int:
    """How many records fit, at least one."""
    total = 0
    for count, row in enumerate(batch):
        total += _weight(row)
        if total > room and count:
            return count
    return len(batch)


def _weight(row: dict) -> int:
    """About the bytes that a record takes: its pictures, and a little for the rest."""
    return 1024 + sum(len(picture["bytes"]) for picture in _pictures(row))


def is_picture(value) -> bool:
    """A stored image: {"bytes", "path"}."""
    return isinstance(value, dict) and value.keys() == {"bytes", "path"}


def _pictures(value) -> list[dict]:
    if is_picture(value):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [picture for child in children for picture in _pictures(child)]


def map_pictures(value, change) -> Any:
    """A record with every stored image in it replaced by `change(image)`."""
    if is_picture(value):
        return change(value)
    if isinstance(value, dict):
        return {key: map_pictures(child, change) for key, child in value.items()}
    return [map_pictures(child, change) for child in value] if isinstance(value, list) else value


def _with_content(row: dict, image_size: int | None) -> dict:
    image = row["image"]
    row = map_pictures({**row, "image": None}, embedded)
    if image is None:
        return row
    picture = read_radiograph(image)
    if image_size and min(picture.size) > image_size:
        scale = image_size / min(picture.size)
        picture = picture.resize(
            [round(side * scale) for side in picture.size], Image.Resampling.BICUBIC, reducing_gap=3
        )
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=95)
        name = os.path.splitext(os.path.basename(image["path"] or "image"))[0]
        return {**row, "image": {"bytes": buffer.getvalue(), "path": f"{name}.jpg"}}
    return {**row, "image": embedded(image)}


class _ParquetShard:
    def __init__(self, path: Path, features: Features, first: int):
        self.path, self.records, self.bytes = path, 0, 0
        self.schema = Features.from_dict(features.to_dict()).arrow_schema
        self.writer = pq.ParquetWriter(path, self.schema)

    def write(self, rows: list[dict]) -> None:
        self.writer.write_table(pa.Table.from_pylist(rows, schema=self.schema))
        self.records += len(rows)
        self.bytes += sum(map(_weight, rows))

    def close(self) -> tuple[Path, int]:
        self.writer.close()
        return self.path, self.records


class _TarShard:
    def __init__(self, path: Path, features: Features, first: int):
        self.path, self.records, self.bytes, self.first = path, 0, 0, first
        self.tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)

    def write(self, rows: list[dict]) -> None:
        for row in rows:
            key = f"{self.first + self.records:08d}"
            image = row["image"]
            members = []

            def refer(picture: dict, key=key, members=members) -> dict:
                name = f"{len(members)}.png"
                members.append((f"{key}.{name}", picture["bytes"]))
                return {"member": name}

            rest = map_pictures({**row, "image": None}, refer)
            if image is not None:
                suffix = "png" if image["bytes"][:4] == b"\x89PNG" else "jpg"
                rest["image"] = {"member": suffix}
                members.insert(0, (f"{key}.{suffix}", image["bytes"]))
            members.append((f"{key}.json", json.dumps(rest).encode()))
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                self.tar.addfile(info, io.BytesIO(data))
            self.records += 1
            self.bytes += _weight(row)

    def close(self) -> tuple[Path, int]:
        self.tar.close()
        return self.path, self.records
