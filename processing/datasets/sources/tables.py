"""Tables as text, and the values in them."""

import gzip
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..records import CHEXBERT_OBSERVATIONS, NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN


def read_table(path, columns: Sequence[str] = (), rename: Mapping[str, str] | None = None) -> pd.DataFrame:
    """A CSV (also .gz or .zip) with every value as text, "" where empty; column names stripped of blanks.

    Args:
        columns: the ones that must be there (others stay); "a|b" takes whichever is there, under the name "a".
        rename: file's column name -> official name, for tables of another make.

    Raises:
        ValueError: unreadable or truncated file; a missing column; names the file, and lists what is there.
    """
    path = Path(path)
    try:
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except UnicodeDecodeError:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="latin-1")
    except (OSError, EOFError, gzip.BadGzipFile, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path}: it cannot be read as a table ({error}); download it again.") from error
    table.columns = [column.strip() for column in table.columns]
    table = table.rename(columns=dict(rename or {}))
    for column in columns:
        names = column.split("|")
        there = next((name for name in names if name in table.columns), None)
        if there is None:
            raise ValueError(f"{path}: column {' or '.join(names)!r} is missing; it has {list(table.columns)}.")
        table = table.rename(columns={there: names[0]})
    return table


def without_duplicates(table: pd.DataFrame, column: str, dropped: Counter) -> pd.DataFrame:
    """The first row of each value of `column`; the others are counted."""
    repeated = table.duplicated(column)
    if repeated.any():
        dropped["duplicate id"] += int(repeated.sum())
    return table[~repeated]


def number(text, default: float | None = None) -> float | None:
    """A finite number, or `default` for what is none."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return default
    return value if np.isfinite(value) else default


_CHEXPERT_CODES = {"1": POSITIVE, "0": NEGATIVE, "-1": UNCERTAIN, "": NOT_MENTIONED}
_CHEXPERT_CODES |= {"1.0": POSITIVE, "0.0": NEGATIVE, "-1.0": UNCERTAIN, "nan": NOT_MENTIONED}


def chexpert_codes(row: Mapping[str, str], columns: Sequence[str] = CHEXBERT_OBSERVATIONS) -> list[int]:
    """A row of CheXpert or NegBio labels (1, 0, -1 or blank) as label codes.

    Raises:
        ValueError: another value; names the column.
    """
    codes = []
    for column in columns:
        code = _CHEXPERT_CODES.get(row.get(column, "").strip())
        if code is None:
            raise ValueError(f"column {column!r}: {row[column]!r} is none of 1, 0, -1 and blank.")
        codes.append(code)
    return codes
