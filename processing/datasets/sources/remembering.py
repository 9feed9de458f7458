"""A set that was built before is found again by its files, without going through its tables."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LOST = (-1, -1)  # size and time of a file that is not there


def file_stamps(paths: Sequence[str]) -> np.ndarray:
    """Size and modification time (ns) of each file, (n, 2) int64; `LOST` where there is none."""
    stamps = np.full((len(paths), 2), LOST, np.int64)
    for row, path in enumerate(paths):
        try:
            status = os.stat(path)
        except OSError:
            continue
        stamps[row] = status.st_size, status.st_mtime_ns
    return stamps


def folder_stamps(folder, below: bool = False) -> list[list]:
    """[path, size, time] of a file, or of the files directly in a folder (with `below`, at any depth), in order.

    Empty for None and for a path that does not exist.
    """
    if folder is None:
        return []
    path = Path(folder).expanduser()
    if not path.is_dir():
        return [[str(path), *stamp] for stamp in file_stamps([str(path)]).tolist() if tuple(stamp) != LOST]
    found, waiting = [], [str(path)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting += [entry.path] if below else []
                elif entry.is_file():
                    status = entry.stat()
                    found.append([entry.path, status.st_size, status.st_mtime_ns])
    return sorted(found)


class Remembered:
    """Where the chunks of a set lie that was built from the same tables, options and files.

    Going through the tables of MIMIC-CXR and through what was made of them takes longer than to look whether one of its
    600,000 files has changed: that alone is done here. A file that changed, came or went makes `recall` say None, and
    the set is built again, of its chunks those that the file is in.

    Args:
        folder: the source's cache.
        digest: of everything that the items are made from, but the files that they name.
    """

    def __init__(self, folder: Path, digest: str):
        self.file = folder / f"set-{digest[:32]}.parquet"

    def recall(self) -> tuple[list[str], str] | None:
        """(chunk files, the set's facts as JSON), or None where there is no such set or one of its files changed."""
        if not self.file.is_file():
            return None
        table = pq.read_table(self.file)
        known = json.loads(table.schema.metadata[b"set"])
        chunks = [str(self.file.parent / name) for name in known["chunks"]]
        if not all(map(os.path.isfile, chunks)):
            return None
        kept = np.column_stack([table["size"].to_numpy(), table["time"].to_numpy()])
        if not np.array_equal(file_stamps(table["path"].to_pylist()), kept):
            return None
        return chunks, known["facts"]

    def keep(self, chunks: Iterable[str], facts: str, paths: Sequence[str], stamps: np.ndarray) -> None:
        """Remember a set.

        Args:
            chunks: its Arrow files, in the cache. facts: what `describe` attached.
            paths, stamps: every file that its items name, and `file_stamps` from before it was read.
        """
        named, first = np.unique(np.array(paths, object), return_index=True)  # images of a study share its report
        stamps = stamps[first]
        known: Mapping = {"chunks": [os.path.basename(chunk) for chunk in chunks], "facts": facts}
        columns = {"path": pa.array(named, pa.string()), "size": stamps[:, 0], "time": stamps[:, 1]}
        table = pa.table(columns).replace_schema_metadata({"set": json.dumps(known)})
        temporary = self.file.with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, self.file)
