"""Records to batches of model inputs: one preparation of a record, and one collator."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets.fingerprint import Hasher

from processing.datasets.records import study_share

NO_CONTEXT = {"indication": "", "history": ""}


@dataclass
class Preparation:
    """A record as a training reads it, without what an ablation or a task leaves out.

    use_context: False drops indication and history. gaze_fraction: the share of studies whose gaze is used.

    Raises:
        ValueError: a share outside 0 and 1.
    """

    use_context: bool = True
    gaze_fraction: float = 1.0

    def __post_init__(self):
        if not 0 <= self.gaze_fraction <= 1:
            raise ValueError(f"gaze_fraction: {self.gaze_fraction} is not within 0 and 1.")

    @property
    def fingerprint(self) -> str:
        """What the result hangs on, for caches."""
        return repr(self)

    def __call__(self, record: dict) -> dict:
        if not self.use_context:
            record = record | NO_CONTEXT
        if self.gaze_fraction == 0 or (
            self.gaze_fraction < 1 and study_share(record["study_id"]) >= self.gaze_fraction
        ):
            record = record | {"gaze": []}
        return record


class Collator:
    """Records -> model inputs.

    Args:
        prepare: what is done to a record first; by default nothing is left out.
        model: keep only what its `forward` takes; by default all.
        on_bad_record: as in the processor's `collate`.
        augmentation: None in evaluation.
        context_dropout: the share of the records that lose indication and history at random, so that the encoder also
            learns to do without.
        feature_cache: a `FeatureCache` to read in place of pictures.
        report_labels: reports are labels.
        reports_optional: records may lack reports that others have (`processor.collate`).
    Raises:
        ValueError: pictures to be augmented that are not read.
    """

    def __init__(
        self,
        processor,
        prepare: Callable[[dict], dict] | None = None,
        *,
        model=None,
        on_bad_record: str = "raise",
        augmentation=None,
        context_dropout: float = 0.0,
        feature_cache=None,
        report_labels: bool = False,
        reports_optional: bool = False,
    ):
        if augmentation and feature_cache:
            raise ValueError("feature_cache: pictures are not read, so crop and autocontrast cannot change them.")
        self.processor = processor
        self.prepare = prepare or Preparation()
        self.inputs = None if model is None else set(inspect.signature(model.forward).parameters)
        self.on_bad_record = on_bad_record
        self.augmentation = augmentation
        self.context_dropout = context_dropout
        self.feature_cache = feature_cache
        asked = {"report_labels": report_labels, "reports_optional": reports_optional}
        self.options = {name: True for name, value in asked.items() if value}

    @property
    def fingerprint(self) -> str:
        """What becomes of a record hangs on, for caches."""
        own = getattr(self.prepare, "fingerprint", repr(self.prepare))
        return Hasher.hash([self.processor.to_json_string(), own, self.options])

    def __call__(self, records: list[dict]) -> dict[str, torch.Tensor]:
        prepared = [self._prepared(record) for record in records]
        batch = self.processor.collate(prepared, self.on_bad_record, **self.options)
        if self.augmentation:
            batch["pixel_values"] = self.augmentation.pixels(batch["pixel_values"])
        return {name: value for name, value in batch.items() if self.inputs is None or name in self.inputs}

    def _prepared(self, record: dict) -> dict:
        if record.get("error"):
            return record
        record = self.prepare(record)
        if "positives_of" in record:  # of a mixture, whose studies are told apart by source
            record = record | {"study_id": record["positives_of"]}
        if self.context_dropout and torch.rand(1).item() < self.context_dropout:
            record = record | NO_CONTEXT
        if self.feature_cache:
            return self.feature_cache.record(record)
        return self.augmentation.record(record) if self.augmentation else record
