"""Records to batches of model inputs."""

import torch

from processing.datasets.records import study_share


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
