"""Records read from shards in a stream: over processes and workers, shuffled by buffer, resumable within an epoch."""

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, TextIO, cast

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from datasets import Features, Image, List

from ..sources.building import Radiograph
from .shards import MANIFEST

# A shard's name within its folder: neither absolute nor a URL.
_FILE_NAME = re.compile(r"[\w.-][\w./-]*")


class RecordStream(torch.utils.data.IterableDataset):
    """The records of one split of a folder of shards (`write_shards`), as `dataset[i]` would give them.

    Which records come in which order follows from (seed, epoch, rank, worker) alone. Shards are permuted, every
    process takes an equal share of the records (the remainder of the division is left out, so that no process waits
    for another), every worker an equal part of that, and a buffer shuffles within it. Reading goes on exactly where it
    stopped: what was given out is left out by its number, without being read again, decoded never.

    For a `DataLoader` that accelerate is not to shard a second time: leave it out of `prepare`, or give world_size=1.

    Args:
        location: folder of the shards, local or a URL that fsspec opens (`s3://bucket/folder`).
        split: one of the manifest's splits.
        shuffle_buffer: records held to draw from; 0 or 1 keeps the order of the shards.
        rank, world_size: default: `torch.distributed`'s, or the launcher's RANK and WORLD_SIZE.
        transform: called on each decoded record.
        on_bad_record: "raise", or "skip": give a record that cannot be decoded as {"image_id", "error"}, which the
            processors' `collate` leaves out and counts.

    Raises:
        ValueError: no manifest, an unknown split, fewer records than processes.
    """

    def __init__(
        self,
        location,
        split: str = "train",
        *,
        shuffle_buffer: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        transform: Callable[[dict], dict] | None = None,
        on_bad_record: str = "raise",
    ):
        self.on_bad_record = on_bad_record
        self.location, self.split = str(location).rstrip("/"), split
        self.shuffle_buffer, self.seed, self.transform = shuffle_buffer, seed, transform
        self.rank, self.world_size = process_of(rank, world_size)
        manifest = _read_manifest(self.location)
        if split not in manifest["splits"]:
            raise ValueError(f"split: {split!r} is not in {self.location}; there are {sorted(manifest['splits'])}.")
        self.format, self.facts = manifest["format"], manifest["facts"][split]
        self.shards = manifest["splits"][split]
        self.features = Features.from_dict(manifest["features"])
        self.features["image"] = Radiograph()
        self.total = sum(shard["records"] for shard in self.shards)
        if self.total < self.world_size:
            raise ValueError(f"world_size: {self.world_size} processes cannot share {self.total} records.")
        self.epoch = 0
        self._resume: list[int] | None = None
        self._consumed = [0]

    def __len__(self) -> int:
        return self.total // self.world_size

    def set_epoch(self, epoch: int) -> None:
        """The next iteration begins this epoch, in its own order. Workers that persist from the last do not see it."""
        self.epoch, self._resume, self._consumed = epoch, None, [0]

    def state_dict(self) -> dict:
        """Where reading stands in this process. With loader workers, take `state_after` instead."""
        return {"epoch": self.epoch, "seed": self.seed, "consumed": list(self._consumed)}

    def load_state_dict(self, state: dict) -> None:
        """The next iteration goes on from there; call `set_epoch` before the one after it.

        Raises:
            ValueError: a state of another seed.
        """
        if state["seed"] != self.seed:
            raise ValueError(f"state: it was saved with seed {state['seed']}, this stream has {self.seed}.")
        self.epoch, self._resume = state["epoch"], list(state["consumed"])

    def state_after(self, batches: int, batch_size: int, num_workers: int = 0, drop_last: bool = False) -> dict:
        """The state once a `DataLoader` of these settings has given that many batches of the epoch, from its start.

        The loader takes batches from its workers in turn and passes over those that have run out.
        """
        limits = self._limits(batch_size, num_workers, drop_last)
        workers = len(limits)
        consumed = [0] * workers
        worker = 0
        for _ in range(min(batches, sum(-(-limit // batch_size) for limit in limits))):
            while consumed[worker] >= limits[worker]:
                worker = (worker + 1) % workers
            consumed[worker] = min(consumed[worker] + batch_size, limits[worker])
            worker = (worker + 1) % workers
        return {"epoch": self.epoch, "seed": self.seed, "consumed": consumed}

    def num_batches(self, batch_size: int, num_workers: int = 0, drop_last: bool = False) -> int:
        """How many batches of an epoch a `DataLoader` of these settings gives this process."""
        return sum(-(-limit // batch_size) for limit in self._limits(batch_size, num_workers, drop_last))

    def _limits(self, batch_size: int, num_workers: int, drop_last: bool) -> list[int]:
        """How many records each worker gives."""
        workers = max(1, num_workers)
        sizes = [stop - start for start, stop in (self._share(worker, workers) for worker in range(workers))]
        return [size // batch_size * batch_size if drop_last else size for size in sizes]

    def __iter__(self) -> Iterator[dict]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        consumed, self._resume = self._resume or [0] * workers, None
        if len(consumed) != workers:
            raise ValueError(
                f"num_workers: the state to go on from was saved with {len(consumed)} reading processes, now there are "
                f"{workers}; use the same number of loader workers."
            )
        start, stop = self._share(worker, workers)
        order = self._order(stop - start, worker)
        given = {next(order) for _ in range(consumed[worker])}
        self._consumed = consumed
        for where, row in self._along(order, start, stop, given):
            self._consumed[worker] += 1
            yield self._decode(where, row)

    def chosen(self, epoch: int, places: Sequence[int]) -> Iterator[dict]:
        """The records at these places of an epoch's order, ascending, of this process's share; others stay unread."""
        self.epoch = epoch
        order = list(self._order(len(self), 0))
        start, stop = self._share(0, 1)
        wanted = [order[place] for place in places]
        for where, row in self._along(wanted, start, stop, {*order} - {*wanted}):
            yield self._decode(where, row)

    def _along(self, order: Iterable[int], start: int, stop: int, given: set[int]) -> Iterator[tuple[str, dict]]:
        """("shard record n", stored record) in this order, those given out before left out."""
        records = self._read(start, stop, given)
        held: dict[int, tuple[str, dict]] = {}
        for position in order:
            while position not in held:
                read, where, row = next(records)
                held[read] = where, row
            yield held.pop(position)

    def _decode(self, where: str, row: dict) -> dict:
        try:
            record = self.features.decode_example(row)
            return self.transform(record) if self.transform else record
        except Exception as error:
            message = f"{where} ({row.get('image_id')}): {error}"
            if self.on_bad_record == "skip":
                return {"image_id": row.get("image_id"), "error": message}
            raise ValueError(message) from error

    def columns(self, names: list[str]) -> Iterator[dict]:
        """These columns (none of pictures) of all records of the split, of every process, in the shards' order."""
        for shard in self.shards:
            path = f"{self.location}/{shard['file']}"
            if self.format == "parquet":
                with fsspec.open(path, "rb") as opened, pq.ParquetFile(opened) as file:
                    for batch in file.iter_batches(columns=names):
                        yield from batch.to_pylist()
            else:
                for name, content in _members(path):
                    if name.endswith(".json"):
                        record = json.loads(content())
                        yield {column: record[column] for column in names}

    def leave_pictures(self) -> None:
        """From now on `image` is given as it is stored, {"bytes", "path"}, not decoded; so are companions'."""
        self.features["image"] = Radiograph(decode=False)
        if "companions" in self.features:
            companion = self.features["companions"].feature
            self.features["companions"] = List(companion | {"image": Image(decode=False)})

    def _share(self, worker: int, workers: int) -> tuple[int, int]:
        """This worker's part of the epoch's records, as positions in the permuted shards."""
        first, count = self.rank * len(self), len(self)
        return first + count * worker // workers, first + count * (worker + 1) // workers

    def _order(self, count: int, worker: int) -> Iterator[int]:
        """Positions 0 ... count - 1 in the order of giving out, each drawn from the first `shuffle_buffer` left."""
        if self.shuffle_buffer < 2:
            yield from range(count)
            return
        rng = np.random.default_rng([self.seed, self.epoch, self.rank, worker])
        held = list(range(min(self.shuffle_buffer, count)))
        for position in range(len(held), count):
            drawn = int(rng.integers(len(held)))
            yield held[drawn]
            held[drawn] = position
        rng.shuffle(held)
        yield from held

    def _read(self, start: int, stop: int, given: set[int]) -> Iterator[tuple[int, str, dict]]:
        """(position from `start`, "shard record n", stored record) in the shards' order, those given out left out."""
        shards = list(self.shards)
        if self.shuffle_buffer > 1:
            np.random.default_rng([self.seed, self.epoch]).shuffle(shards)
        read = _read_parquet if self.format == "parquet" else _read_tar
        offset = 0
        for shard in shards:
            first, last = max(start - offset, 0), min(stop - offset, shard["records"])
            base = offset - start
            wanted = [row for row in range(first, last) if base + row not in given]
            if wanted:
                path = f"{self.location}/{shard['file']}"
                for row, record in _named(read, path, wanted):
                    yield base + row, f"{path} record {row}", record
            offset += shard["records"]


def _read_manifest(location: str) -> dict:
    """
    Raises:
        ValueError: there is none, it is malformed, or it names a file that does not lie in the folder.
    """
    where = f"{location}/{MANIFEST}"
    try:
        with fsspec.open(where, "rt") as file:
            manifest = yaml.safe_load(cast(TextIO, file))
    except FileNotFoundError as error:
        raise ValueError(f"location: {location} holds no {MANIFEST}; write it with `convert`.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"location: {where} cannot be read ({type(error).__name__}); write it anew.") from error
    try:
        if manifest["format"] not in ("parquet", "webdataset"):
            raise ValueError(f"format {manifest['format']!r}")
        Features.from_dict(manifest["features"])
        for split, shards in manifest["splits"].items():
            manifest["facts"][split].items()
            for shard in shards:
                if not (isinstance(shard["records"], int) and shard["records"] >= 0):
                    raise ValueError(f"{shard['records']!r} records in {shard['file']!r}")
                if not _FILE_NAME.fullmatch(shard["file"]) or ".." in shard["file"].split("/"):
                    raise ValueError(f"the file {shard['file']!r}, which does not lie in the folder")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed: {error}"
        raise ValueError(f"location: {where} {what}; write it anew with `convert`.") from error
    return manifest


def _named(read: Callable, path: str, wanted: list[int]) -> Iterator[tuple[int, dict]]:
    """What `read` gives of a shard; its errors name the file."""
    try:
        yield from read(path, wanted)
    except (OSError, EOFError, ValueError, KeyError, AttributeError, tarfile.TarError, pa.ArrowException) as error:
        raise ValueError(f"{path}: the shard is damaged or cut short ({error}); write it anew.") from error


def process_of(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process and how many there are: as given, or `torch.distributed`'s, or the launcher's."""
    if world_size is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        world_size = torch.distributed.get_world_size() if distributed else int(os.environ.get("WORLD_SIZE", 1))
        rank = torch.distributed.get_rank() if distributed else int(os.environ.get("RANK", 0))
    rank = rank or 0
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: {rank} is not below world_size {world_size}.")
    return rank, world_size


def _read_parquet(path: str, wanted: list[int]) -> Iterator[tuple[int, dict]]:
    """Only the row groups that hold a wanted record are read."""
    with fsspec.open(path, "rb") as opened, pq.ParquetFile(opened) as file:
        wanted_set, base = set(wanted), 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            rows = [row for row in range(base, base + count) if row in wanted_set]
            if rows:
                table = file.read_row_group(group)
                for row in rows:
                    yield row, table.slice(row - base, 1).to_pylist()[0]
            base += count


def _members(path: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The name of each member of a tar file, and what reads its content while it is the last one given."""
    with fsspec.open(path, "rb") as opened, tarfile.open(fileobj=cast(BinaryIO, opened)) as tar:
        for member in tar:
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue] (tarfile would keep all headers it has seen)
            content = tar.extractfile(member)
            if content is not None:
                yield member.name, content.read


def _read_tar(path: str, wanted: list[int]) -> Iterator[tuple[int, dict]]:
    """Members of records that are not wanted are passed over."""
    wanted_set, row, key = set(wanted), -1, None
    pictures: dict[str, bytes] = {}
    for name, content in _members(path):
        record, suffix = name.split(".", 1)
        if record != key:
            row, key, pictures = row + 1, record, {}
        if row not in wanted_set:
            continue
        if suffix == "json":
            yield row, _joined(json.loads(content()), pictures)
        else:
            pictures[suffix] = content()


def _joined(value, pictures: dict[str, bytes]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"member"}:
            return {"bytes": pictures[value["member"]], "path": None}
        return {key: _joined(child, pictures) for key, child in value.items()}
    return [_joined(child, pictures) for child in value] if isinstance(value, list) else value
