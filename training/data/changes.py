"""Changes since an earlier study as labels: what `changes` of a record say, beside its findings."""

from processing.comparisons import CHANGE_FINDINGS, COMPARED
from processing.datasets.records import NEGATIVE, NOT_MENTIONED, POSITIVE

CHANGE_LABELS = [f"{finding} {change}" for finding in CHANGE_FINDINGS for change in COMPARED]


def change_codes(record: dict) -> list[int]:
    """One code per `CHANGE_LABELS`: positive or negative for findings that were there before and are now."""
    said = {each["label"]: each["change"] for each in record.get("changes") or []}
    said = {label: change for label, change in said.items() if change in COMPARED}
    return [
        (POSITIVE if said[finding] == change else NEGATIVE) if finding in said else NOT_MENTIONED
        for finding in CHANGE_FINDINGS
        for change in COMPARED
    ]
