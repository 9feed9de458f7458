"""Records are checked before any training step: unusable ones are named, or left out and counted.

By default no picture is decoded: fields, texts, gaze, targets and the picture's header are checked, and a picture whose
pixels are damaged is met where batches are made, and raises or is left out and counted there, as in streams.
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import TrainingArguments

from processing.radiographs import picture_size

from .collation import Collator
from .loading import leave_pictures
from .streams import TrainingStream


def keep_good_records(
    dataset: Dataset | TrainingStream,
    collate: Collator,
    on_bad_record: str = "raise",
    num_proc: int | None = None,
    whole: Sequence[str] = ("findings", "labels"),
    check: Literal["header", "full"] = "full",
):
    """Try every record once, before any training step, and leave out the unusable ones.

    The result is cached by the data set's and the collator's fingerprint. A stream's records are met one by one in
    training: it is only told what to do then.

    Args:
        collate: what the records are for; without randomness.
        whole: columns that all records must fill where any does.
        check: "full" collates every record as it is; "header" without its pictures, of which the file's header alone is
            read: the data set then gives `image` as it is stored, {"bytes", "path"}, for the collator to decode.

    Returns:
        The data set without bad records, and a `Counter` of the reasons.
    Raises:
        ValueError: a record is unusable and `on_bad_record` is "raise"; names the image and the reason.
    """
    if on_bad_record not in ("raise", "skip"):
        raise ValueError(f"on_bad_record: {on_bad_record!r} is neither 'raise' nor 'skip'.")
    if check not in ("header", "full"):
        raise ValueError(f"check: {check!r} is neither 'header' nor 'full'.")
    streamed = isinstance(dataset, TrainingStream)
    if getattr(collate.processor, "scaled_decoding", False) or (check == "header" and not streamed):
        dataset = leave_pictures(dataset)
    if streamed:
        dataset.on_bad_record = on_bad_record
        return dataset, Counter()
    checked = dataset.map(
        _RecordCheck(collate, check == "header"),
        with_indices=True,
        remove_columns=dataset.column_names,
        # One worker is this process: a forked one pays off only beside others.
        num_proc=num_proc if num_proc and num_proc > 1 else None,
        desc="Checking records",
        new_fingerprint=Hasher.hash([dataset._fingerprint, collate.fingerprint, f"check-3-{check}"]),
    )
    errors = checked["error"]
    for column in [name for name in whole if name in dataset.column_names]:
        # Some records of a source lack what others have: alone each is fine, in one batch they are not.
        filled = [bool(value) for value in dataset[column]]
        if any(filled):
            errors = [
                error or ("" if present else f"record {index} (image {image}): {column} is empty")
                for index, (error, present, image) in enumerate(zip(errors, filled, dataset["image_id"], strict=True))
            ]
    bad = [index for index, error in enumerate(errors) if error]
    if bad and on_bad_record == "raise":
        raise ValueError(f"{errors[bad[0]]} ({len(bad)} of {len(errors)} records are unusable; --on_bad_record skip)")
    if len(bad) == len(errors):
        raise ValueError(f"All {len(errors)} records are unusable; the first: {errors[0] if errors else 'none given'}")
    reasons = Counter(errors[index].split(": ", 2)[-1][:60] for index in bad)
    return (dataset.select([i for i, error in enumerate(errors) if not error]) if bad else dataset), reasons


def keep_good_splits(
    splits: dict[str, Dataset | TrainingStream],
    collate: Collator,
    on_bad_record: str,
    training: TrainingArguments,
    check: Literal["header", "full"] = "full",
) -> tuple[dict, dict[str, int]]:
    """`keep_good_records` of each split, once for all processes; says what was left out.

    Returns:
        The splits, and how many records each has lost.
    """
    kept, lost = {}, {}
    workers = max(1, training.dataloader_num_workers)
    for split, dataset in splits.items():
        with training.main_process_first(desc="checking records"):
            kept[split], reasons = keep_good_records(dataset, collate, on_bad_record, workers, check=check)
        lost[split] = sum(reasons.values())
        if reasons:
            print(f"Skipped {lost[split]} unusable {split} records: {dict(reasons)}")
    return kept, lost


class _RecordCheck:
    def __init__(self, collate: Collator, header_alone: bool):
        self.collate = collate
        self.header_alone = header_alone
        self.process = os.getpid()

    def __call__(self, record: dict, index: int) -> dict:
        if os.getpid() != self.process:
            # A fork has none of the threads that torch has started before, and would wait for them forever.
            torch.set_num_threads(1)
        try:
            self.collate([_without_pixels(record) if self.header_alone else record])
        except (ValueError, OSError) as error:
            return {"error": f"record {index} (image {record['image_id']}): {error}"}
        return {"error": ""}


def _without_pixels(record: dict) -> dict:
    """The record as it comes from a feature cache, once the headers of its pictures are read."""
    if record.get("image") is not None:
        size = picture_size(record["image"], "its picture")
        record = {name: value for name, value in record.items() if name != "image"} | {"picture_size": size}
    if record.get("companions"):
        for number, companion in enumerate(record["companions"]):
            picture_size(companion["image"], f"companions[{number}]")
        stand_in = {"image": {"vision_features": torch.zeros(0)}}
        record = record | {"companions": [companion | stand_in for companion in record["companions"]]}
    return record
