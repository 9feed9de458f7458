"""Files of reference and generated reports."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from processing.datasets.records import LABEL_CODES

ID_COLUMNS = ("dicom_id", "image_id", "study_id", "id")
REFERENCE_COLUMNS = ("reference_report", "reference")
PREDICTION_COLUMNS = ("generated_report", "prediction")
IMPRESSION_COLUMNS = (("reference_impression",), ("generated_impression",))
GROUP_COLUMNS = ("patient_id", "subject_id", "study_id")
LABELS_COLUMN = "labels"


@dataclass
class ReportPairs:
    """References and predictions, one pair per id.

    `groups` are what the bootstrap draws (patients, else studies, else single reports; `grouped_by` says which), and
    `labels` the known label codes (N, C) int, or None.
    """

    ids: list[str]
    references: list[str]
    predictions: list[str]
    groups: list[str]
    grouped_by: str = "report"
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_lists(cls, references: list[str], predictions: list[str]) -> "ReportPairs":
        """Raises ValueError: none at all, unequal numbers, or an entry that is no text; names its index."""
        if len(references) != len(predictions) or not references:
            raise ValueError(
                f"predictions: {len(predictions)} for {len(references)} references; give one for each, at least one."
            )
        for argument, texts in (("references", references), ("predictions", predictions)):
            for index, text in enumerate(texts):
                if not isinstance(text, str):
                    raise ValueError(f"{argument}[{index}]: {text!r} is no text.")
        ids = [str(index) for index in range(len(references))]
        return cls(ids, list(references), list(predictions), ids)

    def with_references(self, references: list[str]) -> "ReportPairs":
        return replace(self, references=references)

    def with_predictions(self, predictions: list[str]) -> "ReportPairs":
        return replace(self, predictions=predictions)


def read_predictions(path: str | Path, allow_empty: bool = False, section: str = "findings") -> ReportPairs:
    """Read a CSV or JSONL file with an id, a reference and a prediction in each row.

    Columns, the first that is there counts: the id `dicom_id`, `image_id`, `study_id` or `id`; the reference
    `reference_report` or `reference`; the prediction `generated_report` or `prediction`. Optional: `patient_id`,
    `subject_id` or `study_id` to resample by; `labels`, a JSON list of label codes per row.

    Args:
        allow_empty: score an empty prediction as an empty report; a CSV file cannot tell it from a missing one.
        section: "impression" reads `reference_impression` and `generated_impression`, leaving out rows whose
            reference is empty.

    Raises:
        ValueError: no such file, a missing column, a missing or duplicate id, a missing or NaN text, or labels that
            are no list of codes; names file, row (1 is the first below the header) and column.
    """
    path = Path(path)
    table = _read_table(path)
    id_column = _column(table, path, ID_COLUMNS, "id")
    sides = IMPRESSION_COLUMNS if section == "impression" else (REFERENCE_COLUMNS, PREDICTION_COLUMNS)
    reference_column = _column(table, path, sides[0], "reference")
    prediction_column = _column(table, path, sides[1], "prediction")
    if section == "impression":
        table = table[[bool(_text(value)) for value in table[reference_column]]].reset_index(drop=True)
    if table.empty:
        raise ValueError(f"predictions: {path} has no rows.")

    ids = [_text(value) for value in table[id_column]]
    _refuse(path, id_column, [not value for value in ids], "the id is missing")
    first = {value: row for row, value in reversed(list(enumerate(ids)))}
    repeated = [row != first[value] for row, value in enumerate(ids)]
    if any(repeated):
        row = repeated.index(True)
        _refuse(path, id_column, repeated, f"the id {ids[row]!r} is also that of row {first[ids[row]] + 1}")

    references = [_text(value) for value in table[reference_column]]
    _refuse(path, reference_column, [not value for value in references], "the reference is empty or NaN")
    predictions = [_text(value) for value in table[prediction_column]]
    if not allow_empty:
        _refuse(
            path,
            prediction_column,
            [not value for value in predictions],
            "the prediction is empty or NaN; if the model did write an empty report, pass --allow_empty",
        )

    grouped_by = next((name for name in GROUP_COLUMNS if name in table and name != id_column), None)
    groups = ids
    if grouped_by:
        groups = [_text(value) for value in table[grouped_by]]
        _refuse(path, grouped_by, [not value for value in groups], "the id to resample by is missing")
    labels = _labels(table[LABELS_COLUMN], path) if LABELS_COLUMN in table else None
    return ReportPairs(ids, references, predictions, groups, grouped_by or "report", labels)


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"predictions: no file {path}.")
    try:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            return pd.DataFrame(rows, dtype=object)
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"predictions: {path} is no readable {path.suffix or 'CSV'} file ({error}).") from error


def _column(table: pd.DataFrame, path: Path, names: tuple[str, ...], what: str) -> str:
    for name in names:
        if name in table:
            return name
    raise ValueError(
        f"predictions: {path} has no {what} column; it needs one of {', '.join(names)}, and has "
        f"{', '.join(map(str, table.columns)) or 'none'}."
    )


def _text(value) -> str:
    """The cell as text; "" if it is missing or a written-out NaN."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    text = str(value).strip()
    return "" if text.lower() == "nan" else text


def _refuse(path: Path, column: str, wrong: list[bool], reason: str) -> None:
    if any(wrong):
        others = sum(wrong) - 1
        more = f" ({others} more row{'s' * (others > 1)} like it)" if others else ""
        raise ValueError(f"predictions: {path}, row {wrong.index(True) + 1}, column {column}: {reason}{more}.")


def _labels(cells: pd.Series, path: Path) -> np.ndarray:
    rows = []
    for cell in cells:
        try:
            codes = json.loads(cell) if isinstance(cell, str) else cell
        except json.JSONDecodeError:
            codes = None
        rows.append(codes if isinstance(codes, list) else [])
    width = len(rows[0])
    wrong = [len(codes) != width or not width or any(code not in LABEL_CODES for code in codes) for codes in rows]
    _refuse(path, LABELS_COLUMN, wrong, f"it holds no JSON list of label codes {LABEL_CODES}, as many in each row")
    return np.asarray(rows, dtype=np.int64)
