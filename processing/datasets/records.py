"""The record schema that every data set is loaded to, and what its label codes mean."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, Features, Image, List, Value

# CheXbert's observations, in its order (Smit et al., EMNLP 2020).
CHEXBERT_OBSERVATIONS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)

NEGATIVE, POSITIVE, UNCERTAIN, NOT_MENTIONED = 0, 1, 2, -1
LABEL_CODES = (NEGATIVE, POSITIVE, UNCERTAIN, NOT_MENTIONED)
# Where sources are joined, of one that does not know the label; in no source's own records.
NOT_ANNOTATED = -2


def record_features() -> Features:
    """The `datasets.Features` of one record.

    `image_width` and `image_height` are those of the original radiograph: gaze, boxes and masks are in its pixels,
    whatever size `image` is stored at (a mask covers the whole original, at any size). Times are seconds, ages years.
    Labels hold `LABEL_CODES`, one per name in `label_names(dataset)`. `study_date` is an ISO date (year-month-day), as
    the source gives it: shifted, where it de-identifies by a shift. Where a source tells the order of a patient's
    studies, by date or by number, a patient's records stand in it, oldest first, and `facts_of` has a true
    "studies_ordered". Data stored before a column was added lack it.

    `companions` are the study's other images (role "view", days 0) and one of the patient's study before (role "prior",
    days before this one, null where unknown), whose report `prior_findings` is; `changes` are findings with what has
    become of them since ("better", "same", "worse", "new" or "resolved"), where the source tells.
    """
    fixation = {
        "x": Value("float32"),
        "y": Value("float32"),
        "begin": Value("float32"),
        "end": Value("float32"),
        "sigma_x": Value("float32"),
        "sigma_y": Value("float32"),
        "shown": List(Value("float32")),
    }
    companion = {
        "role": Value("string"),
        "image_id": Value("string"),
        "image": Image(),
        "view_position": Value("string"),
        "days": Value("float32"),
    }
    sentence = {"text": Value("string"), "begin": Value("float32"), "end": Value("float32")}
    return Features(
        {
            "image": Image(),
            "image_width": Value("int32"),
            "image_height": Value("int32"),
            "image_id": Value("string"),
            "study_id": Value("string"),
            "patient_id": Value("string"),
            "view_position": Value("string"),
            "patient_age": Value("float32"),
            "patient_sex": Value("string"),
            "study_date": Value("string"),
            "indication": Value("string"),
            "history": Value("string"),
            "findings": Value("string"),
            "impression": Value("string"),
            "labels": List(Value("int8")),
            "gaze": List({"reader": Value("string"), "sentences": List(sentence), "fixations": List(fixation)}),
            "regions": List(
                {
                    "label": Value("string"),
                    "box": List(Value("float32")),
                    "mask": Image(),
                    "sentence": Value("int32"),
                }
            ),
            "companions": List(companion),
            "prior_findings": Value("string"),
            "changes": List({"label": Value("string"), "change": Value("string")}),
        }
    )


def describe(dataset: Dataset, **facts) -> Dataset:
    """Attach facts about a whole data set (`label_names`, `source`, counts of dropped records ...) to its `info`.

    They are JSON in `dataset.info.description`, which `map`, `select`, `filter` and `save_to_disk` keep.
    """
    dataset.info.description = json.dumps(facts_of(dataset) | facts)
    return dataset


def facts_of(dataset: Dataset) -> dict:
    """What `describe` attached; empty if nothing was."""
    try:
        facts = json.loads(dataset.info.description or "{}")
    except json.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) else {}


def label_names(dataset) -> list[str]:
    """The names of the entries of `labels` of a `Dataset`, or of a `RecordStream`.

    Raises:
        ValueError: the data set carries no label names.
    """
    facts = facts_of(dataset) if isinstance(dataset, Dataset) else dataset.facts
    names = facts.get("label_names")
    if names is None:
        raise ValueError(
            "dataset: it carries no label names; attach them with processing.datasets.records.describe(dataset, "
            "label_names=[...])."
        )
    return names


def label_targets(codes: Sequence[Sequence[int]] | np.ndarray, uncertain: float = 1.0, not_mentioned: float = 0.0):
    """Training targets for label codes, of the same shape, float32.

    The CoGaze paper counts uncertain as positive and not mentioned as negative; pass `nan` to leave entries out. What
    is not annotated (`NOT_ANNOTATED`) is nan.

    Raises:
        ValueError: a code outside `LABEL_CODES`; names the row.
    """
    codes = np.asarray(codes)
    known = np.isin(codes, (*LABEL_CODES, NOT_ANNOTATED))
    if not known.all():
        row = int(np.argwhere(~known)[0, 0])
        raise ValueError(
            f"labels[{row}]: {codes[row].tolist()} holds a code outside {LABEL_CODES} "
            "(1 positive, 0 negative, 2 uncertain, -1 not mentioned)."
        )
    targets = np.where(codes == POSITIVE, 1.0, 0.0)
    targets = np.where(codes == UNCERTAIN, uncertain, targets)
    targets = np.where(codes == NOT_ANNOTATED, np.nan, targets)
    return np.where(codes == NOT_MENTIONED, not_mentioned, targets).astype(np.float32)


def study_share(study_id: str) -> float:
    """A number in [0, 1) that depends on the study's id alone, so that shares of studies are nested."""
    return int.from_bytes(hashlib.blake2b(study_id.encode(), digest_size=7).digest(), "big") / 2**56
