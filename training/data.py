"""From a data set's name in a config to batches: loading, checking, augmenting, collating."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from PIL import Image, ImageOps

from processing.datasets import load
from processing.datasets.records import study_share
from processing.targets import mask_tensor

from .arguments import mapping
from .streams import TrainingStream


def load_data(spec: dict | str, argument: str) -> Dataset | TrainingStream:
    """The data set that `spec` describes: `{"name": ..., "split": ..., "root": ..., loader's own options ...}`.

    The name "shards" stands for a folder or URL that `python -m processing.datasets convert` wrote, read as a stream;
    its own option is `shuffle_buffer`, 1024 records for `train_data` unless given, else 0.

    Raises:
        ValueError: no name given, or the loader's own errors.
    """
    options = mapping(spec, argument)
    if "name" not in options:
        raise ValueError(f'{argument}: give the data set\'s name, such as {{"name": "phantom", "split": "train"}}.')
    if options["name"] == "shards":
        return _open_shards(options, argument)
    return load(options.pop("name"), **options)


def _open_shards(options: dict, argument: str) -> TrainingStream:
    unknown = sorted(options.keys() - {"name", "root", "split", "shuffle_buffer"})
    if unknown or "root" not in options:
        given = f"{unknown[0]!r} is no option" if unknown else "there is no root"
        raise ValueError(f"{argument}: {given}; shards take root, split and shuffle_buffer.")
    buffer = options.get("shuffle_buffer", 1024 if argument == "train_data" else 0)
    return TrainingStream(options["root"], options.get("split", "train"), shuffle_buffer=buffer)


def stored_columns(dataset: Dataset | TrainingStream, names: list[str]) -> Iterator[dict]:
    """These columns of all records, in one pass that decodes no picture."""
    if isinstance(dataset, TrainingStream):
        return dataset.columns(names)
    return iter(dataset.select_columns(names))


def keep_good_records(
    dataset: Dataset | TrainingStream,
    processor,
    on_bad_record: str = "raise",
    num_proc: int | None = None,
    prepare: Callable[[dict], dict] = dict,
    prepared: str = "",
    whole: Sequence[str] = ("findings", "labels"),
):
    """Process every record once, before any training step, and leave out the unusable ones.

    The result is cached by the data set's and the processor's fingerprint. A stream's records are met one by one in
    training: it is only told what to do then.

    Args:
        prepare: what is done to a record before the processor gets it. prepared: its fingerprint.
        whole: columns that all records must fill where any does.

    Returns:
        The data set without bad records, and a `Counter` of the reasons.
    Raises:
        ValueError: a record is unusable and `on_bad_record` is "raise"; names the image and the reason.
    """
    if on_bad_record not in ("raise", "skip"):
        raise ValueError(f"on_bad_record: {on_bad_record!r} is neither 'raise' nor 'skip'.")
    if isinstance(dataset, TrainingStream):
        dataset.on_bad_record = on_bad_record
        return dataset, Counter()
    checked = dataset.map(
        _RecordCheck(processor, prepare),
        with_indices=True,
        remove_columns=dataset.column_names,
        # One worker is this process: a forked one pays off only beside others.
        num_proc=num_proc if num_proc and num_proc > 1 else None,
        desc="Checking records",
        new_fingerprint=Hasher.hash([dataset._fingerprint, processor.to_json_string(), prepared, "check-1"]),
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


class _RecordCheck:
    def __init__(self, processor, prepare: Callable[[dict], dict]):
        self.processor = processor
        self.prepare = prepare
        self.process = os.getpid()

    def __call__(self, record: dict, index: int) -> dict:
        if os.getpid() != self.process:
            # A fork has none of the threads that torch has started before, and would wait for them forever.
            torch.set_num_threads(1)
        try:
            self.processor.collate([self.prepare(record)])
        except (ValueError, OSError) as error:
            return {"error": f"record {index} (image {record['image_id']}): {error}"}
        return {"error": ""}


@dataclass
class AlignedAugmentation:
    """Random crops and exposure; fixations move with the crop, since targets are computed from them afterwards.

    crop: the least share of each side that is kept. exposure: brightness and contrast vary by this share.
    autocontrast: the share of pictures whose grey levels are stretched to the full range. Never flips: laterality is
    part of the report. Randomness is torch's, so that resuming restores it.
    """

    crop: float = 0.85
    exposure: float = 0.2
    autocontrast: float = 0.0

    def record(self, record: dict) -> dict:
        """The record with its picture, gaze and `masks` (C, h, w) cropped; stored sizes stay."""
        keep = 1 - (1 - self.crop) * torch.rand(1).item()
        left, top = ((1 - keep) * torch.rand(2)).tolist()
        image: Image.Image = record["image"]
        width, height = record["image_width"], record["image_height"]
        stored = (left * image.width, top * image.height, (left + keep) * image.width, (top + keep) * image.height)
        x0, y0 = left * width, top * height
        gaze = [_cropped(reading, x0, y0, (left, top, left + keep, top + keep)) for reading in record["gaze"] or []]
        image = image.resize(image.size, Image.Resampling.BILINEAR, box=stored)
        if "masks" in record:
            record = record | {"masks": _cropped_masks(record["masks"], (left, top, left + keep, top + keep))}
        if torch.rand(1).item() < self.autocontrast:
            image = ImageOps.autocontrast(image.convert("L"))
        return record | {
            "image": image,
            "image_width": max(1, round(keep * width)),
            "image_height": max(1, round(keep * height)),
            "gaze": gaze,
        }

    def pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalised pictures (B, 3, H, W), each with its own contrast and brightness."""
        contrast, brightness = (2 * torch.rand(2, len(pixel_values), 1, 1, 1) - 1) * self.exposure
        return pixel_values * (1 + contrast) + brightness


def _cropped(reading: dict, x0: float, y0: float, shares: tuple[float, float, float, float]) -> dict:
    """A reading whose origin is (x0, y0), or a rendered one cut to the same `shares` of its sides."""
    if "heatmaps" in reading:
        pictures = reading["heatmaps"]
        boxes = [[share * side for share, side in zip(shares, 2 * picture.size, strict=True)] for picture in pictures]
        return reading | {"heatmaps": [p.resize(p.size, box=box) for p, box in zip(pictures, boxes, strict=True)]}
    fixations = []
    for fixation in reading["fixations"]:
        shown = fixation["shown"]
        if shown:
            shown = [shown[0] - x0, shown[1] - y0, shown[2] - x0, shown[3] - y0]
        fixations.append(fixation | {"x": fixation["x"] - x0, "y": fixation["y"] - y0, "shown": shown})
    return reading | {"fixations": fixations}


def _cropped_masks(masks: np.ndarray, shares: tuple[float, float, float, float]) -> np.ndarray:
    height, width = masks.shape[-2:]
    box = [share * side for share, side in zip(shares, 2 * (width, height), strict=True)]
    return mask_tensor([masks], [(width, height)], [box], height, width)[0].numpy().astype(np.uint8)


class PretrainingCollator:
    """Records -> model inputs, with what an ablation leaves out left out.

    gaze_fraction: the share of studies whose gaze is used. use_context: False drops indication and history from all
    records; context_dropout drops them from that share of the records at random, so that the encoder also learns to
    do without. augmentation: None in evaluation. feature_cache: a `FeatureCache` to read in place of pictures.
    on_bad_record: as in the processor's `collate`.

    Raises:
        ValueError: a share outside 0 and 1; pictures to be augmented that are not read.
    """

    def __init__(
        self,
        processor,
        gaze_fraction=1.0,
        use_context=True,
        context_dropout=0.0,
        augmentation=None,
        feature_cache=None,
        on_bad_record="raise",
    ):
        if not 0 <= gaze_fraction <= 1:
            raise ValueError(f"gaze_fraction: {gaze_fraction} is not within 0 and 1.")
        if augmentation and feature_cache:
            raise ValueError("feature_cache: pictures are not read, so crop and autocontrast cannot change them.")
        self.feature_cache = feature_cache
        self.on_bad_record = on_bad_record
        self.processor = processor
        self.gaze_fraction = gaze_fraction
        self.use_context = use_context
        self.context_dropout = context_dropout
        self.augmentation = augmentation

    def __call__(self, records: list[dict]) -> dict[str, torch.Tensor]:
        batch = self.processor.collate([self._prepared(record) for record in records], self.on_bad_record)
        if self.augmentation:
            batch["pixel_values"] = self.augmentation.pixels(batch["pixel_values"])
        return dict(batch)

    def _prepared(self, record: dict) -> dict:
        if record.get("error"):
            return record
        drop_context = not self.use_context or (self.context_dropout and torch.rand(1).item() < self.context_dropout)
        if drop_context:
            record = record | {"indication": "", "history": ""}
        if study_share(record["study_id"]) >= self.gaze_fraction:
            record = record | {"gaze": []}
        if self.feature_cache:
            return self.feature_cache.record(record)
        return self.augmentation.record(record) if self.augmentation else record


def positives_per_class(codes) -> list[int]:
    """How often each label is positive, uncertain included (CoGaze: uncertain counts as positive)."""
    codes = np.asarray(codes)
    return ((codes == 1) | (codes == 2)).sum(axis=0).tolist()
