"""Tables as text, and the values in them."""

import codecs
import csv
import gzip
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from ..records import CHEXBERT_OBSERVATIONS, NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN


def read_table(path, columns: Sequence[str] = (), rename: Mapping[str, str] | None = None) -> pd.DataFrame:
    """A CSV (also .gz or .zip) with every value as text, "" where empty; column names stripped of blanks.

    Args:
        columns: the ones that must be there (others stay); "a|b" takes whichever is there, under the name "a".
        rename: file's column name -> official name, for tables of another make.

    Raises:
        ValueError: unreadable or truncated file; a row that is longer or shorter than the header, which would shift
            its values; a missing column; names the file and row, and lists what is there.
    """
    path = Path(path)
    try:
        rows = _rows(_decompressed(path))
    except pa.ArrowInvalid as error:
        if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error)):
            row, expected, seen = found.groups()
            raise ValueError(
                f"{path}: row {row} has {seen} values and the header {expected} names (row 1 is the header); take the "
                "extra comma out, or add the missing one."
            ) from error
        raise ValueError(f"{path}: it cannot be read as a table ({error}); download it again.") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: it cannot be read as a table ({error}); download it again.") from error
    names, seen = [], Counter()
    for index, column in enumerate(rows.columns):
        name = column[0].as_py().strip()
        seen[name] += 1
        names.append(f"Unnamed: {index}" if not name else name if seen[name] == 1 else f"{name}.{seen[name] - 1}")
    table = rows.slice(1).rename_columns(names).to_pandas().astype(object)
    table = table.rename(columns=dict(rename or {}))
    for column in columns:
        options = column.split("|")
        there = next((name for name in options if name in table.columns), None)
        if there is None:
            raise ValueError(f"{path}: column {' or '.join(options)!r} is missing; it has {list(table.columns)}.")
        table = table.rename(columns={there: options[0]})
    return table


def header_of(path: Path) -> set[str]:
    """The names of a table's columns, from its first lines alone."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        start = _as_utf8(file.read(2**16)).decode("utf-8", "replace")
    return {name.strip() for name in next(csv.reader(start.splitlines()[:1]), [])}


def _decompressed(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return archive.read(archive.namelist()[0])
    return data


def _rows(data: bytes) -> pa.Table:
    """All rows, the header too, as text. Arrow's reader takes no column for an index and refuses uneven rows."""
    data = _as_utf8(data)
    if not data.strip():
        raise pa.ArrowInvalid("it is empty")
    try:
        return _even_rows(data)
    except pa.ArrowInvalid:
        header, end, rest = data.lstrip().partition(b"\n")
        named = header.rstrip(b", \r")
        if named == header.rstrip(b" \r"):
            raise
        return _even_rows(named + end + rest)  # blank names at the header's end, and no values for them


def _as_utf8(data: bytes) -> bytes:
    """UTF-16 where its mark says so, Latin-1 where it is no UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        data.decode()
    except UnicodeDecodeError:
        data = data.decode("latin-1").encode()
    return data


def _even_rows(data: bytes) -> pa.Table:
    width = len(next(csv.reader([data.lstrip().split(b"\n", 1)[0].decode()])))
    return pa_csv.read_csv(
        pa.BufferReader(data),
        # One thread: several would not know the number of a broken row.
        pa_csv.ReadOptions(autogenerate_column_names=True, use_threads=False),
        pa_csv.ParseOptions(newlines_in_values=True),
        pa_csv.ConvertOptions(column_types={f"f{index}": pa.string() for index in range(width)}),
    )


def without_duplicates(table: pd.DataFrame, column: str, dropped: Counter) -> pd.DataFrame:
    """The first row of each value of `column`; the others are counted."""
    repeated = table.duplicated(column)
    if repeated.any():
        dropped["duplicate id"] += int(repeated.sum())
    return pd.DataFrame(table[~repeated])


def box_corners(values: Sequence, dropped: Counter) -> list[float] | None:
    """[x0, y0, x1, y1] of a box (x, y, width, height); None, counted, for one that is blank, negative or empty."""
    given = [number(value) for value in values]
    x, y, width, height = (np.nan if value is None else value for value in given)
    if None in given:
        dropped["box without four numbers"] += 1
    elif x < 0 or y < 0 or width <= 0 or height <= 0:
        dropped["box negative or empty"] += 1
    else:
        return [x, y, x + width, y + height]
    return None


@overload
def number(text, default: None = None) -> float | None: ...
@overload
def number(text, default: float) -> float: ...
def number(text, default: float | None = None) -> float | None:
    """A finite number, or `default` for what is none."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return default
    return value if np.isfinite(value) else default


def numbers(values: Sequence) -> list[float] | None:
    """Finite numbers; None where one of the values is none."""
    found = [value for each in values if (value := number(each)) is not None]
    return found if len(found) == len(values) else None


_CHEXPERT_CODES = {"1": POSITIVE, "0": NEGATIVE, "-1": UNCERTAIN, "": NOT_MENTIONED}
_CHEXPERT_CODES |= {"1.0": POSITIVE, "0.0": NEGATIVE, "-1.0": UNCERTAIN, "nan": NOT_MENTIONED}


def chexpert_codes(
    row: Mapping[str, str], columns: Sequence[str] = CHEXBERT_OBSERVATIONS, where: str = ""
) -> list[int]:
    """A row of CheXpert or NegBio labels (1, 0, -1 or blank) as label codes.

    Args:
        where: what a message begins with: the file, and the row's id.

    Raises:
        ValueError: another value; names the file and the column.
    """
    codes = []
    for column in columns:
        code = _CHEXPERT_CODES.get(row.get(column, "").strip().lower())
        if code is None:
            raise ValueError(
                f"{where and f'{where}: '}column {column!r} is {row[column]!r}, none of 1, 0, -1 and blank; mend the "
                "table or download it again."
            )
        codes.append(code)
    return codes


def study_codes(file: Path, table: pd.DataFrame) -> dict[str, list[int]]:
    """study_id -> `chexpert_codes` of a table's rows; messages name file and study."""
    rows = table.to_dict("records")
    return {row["study_id"]: chexpert_codes(row, where=f"{file}, study {row['study_id']}") for row in rows}
