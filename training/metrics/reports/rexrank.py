"""ReXrank's form of predictions: one JSON object, study -> its data and `model_prediction`.

As in the board's `example_files/prediction.json` and its evaluation script, which reads `section_findings`,
`section_impression` and `model_prediction` of each study; https://rexrank.ai
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def rexrank_form(rows: Sequence[Mapping]) -> dict[str, dict]:
    """Rows of generated reports, one per study, as ReXrank reads them.

    Args:
        rows: with `study_id`, `dicom_id`, `generated_report` and `reference_report`; those of a generator of both
            sections also `generated_impression` and `reference_impression`. `patient_id` where it is known.

    Raises:
        ValueError: two rows of one study, or a row without a study; names it.
    """
    form: dict[str, dict] = {}
    for row in rows:
        study = str(row.get("study_id") or "")
        if not study or study in form:
            reason = f"study {study!r} has two rows" if study else f"{row.get('dicom_id')!r} has no study_id"
            raise ValueError(f"rexrank: {reason}; give one report per study (--one_per_study of generate_reports).")
        impression = row.get("generated_impression") or ""
        form[study] = {
            "dicom_id": [row.get("dicom_id")],
            "section_findings": row["reference_report"],
            "section_impression": row.get("reference_impression") or None,
            "subject_id": row.get("patient_id"),
            "model_prediction": f"Findings: {row['generated_report']} Impression: {impression}".strip(),
        }
    return form


def read_rows(path: str | Path) -> list[dict]:
    """Rows of a JSONL file as `cogaze generate_reports` writes it."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


__all__ = ["read_rows", "rexrank_form"]
