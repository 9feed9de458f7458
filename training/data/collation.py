"""Records to batches of model inputs: one preparation of a record, and one collator."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets.fingerprint import Hasher
from PIL import Image

from modeling_cogaze.calls import inputs_of
from processing.comparisons import without_comparisons
from processing.datasets.records import study_share

from .changes import change_codes

NO_CONTEXT = {"indication": "", "history": ""}


def without_companions(record: dict, views: bool, priors: bool) -> dict:
    """The record without its other views or its prior, or both.

    Without the prior nothing is left that only it lets one say: its report, changes, and comparisons in the findings
    and in what was said aloud.
    """
    gone = {role for role, drop in (("view", views), ("prior", priors)) if drop}
    roles = {each["role"] for each in record.get("companions") or []}
    if not gone & roles:
        return record
    kept = [each for each in record["companions"] if each["role"] not in gone]
    if "prior" not in gone & roles:
        return record | {"companions": kept}
    texts = {name: without_comparisons(record[name]) for name in ("findings", "impression") if record.get(name)}
    gaze = [
        reading | {"sentences": [each | {"text": _present(each["text"])} for each in reading["sentences"]]}
        for reading in record.get("gaze") or []
    ]
    return record | texts | {"companions": kept, "prior_findings": "", "changes": [], "gaze": gaze}


def _present(sentence: str) -> str:
    # A sentence of nothing else keeps its place among the gaze's rows.
    return without_comparisons(sentence) or sentence


@dataclass
class Preparation:
    """A record as a training reads it, without what an ablation or a task leaves out.

    use_context: False drops indication and history. gaze_fraction: the share of studies whose gaze is used.
    use_views, use_priors: False drops the companions of that role, and with the prior what is said of it.

    Raises:
        ValueError: a share outside 0 and 1.
    """

    use_context: bool = True
    gaze_fraction: float = 1.0
    use_views: bool = True
    use_priors: bool = True

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
        return without_companions(record, views=not self.use_views, priors=not self.use_priors)


class Collator:
    """Records -> model inputs.

    Args:
        prepare: what is done to a record first; by default nothing is left out.
        model: keep only what its `forward` takes; by default all.
        on_bad_record: as in the processor's `collate`.
        augmentation: None in evaluation.
        context_dropout: the share of the records that lose indication and history at random, so that the encoder also
            learns to do without.
        companion_dropout: the share of the records that lose their other views at random, of those that lose the prior,
            and of those that lose its report alone, so that the encoder learns to do with what is there.
        change_labels: label codes go on with those of changes (`changes.CHANGE_LABELS`).
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
        companion_dropout: float = 0.0,
        change_labels: bool = False,
        feature_cache=None,
        report_labels: bool = False,
        reports_optional: bool = False,
    ):
        if augmentation and feature_cache:
            raise ValueError("feature_cache: pictures are not read, so crop and autocontrast cannot change them.")
        self.processor = processor
        self.prepare = prepare or Preparation()
        self.inputs = None if model is None else inputs_of(model.forward)
        self.on_bad_record = on_bad_record
        self.augmentation = augmentation
        self.context_dropout = context_dropout
        self.companion_dropout = companion_dropout
        self.change_labels = change_labels
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
            for name in ("pixel_values", "companion_pixel_values"):
                if name in batch:
                    batch[name] = self.augmentation.pixels(batch[name])
        return {name: value for name, value in batch.items() if self.inputs is None or name in self.inputs}

    def _prepared(self, record: dict) -> dict:
        if record.get("error"):
            return record
        record = self.prepare(record)
        if "positives_of" in record:  # of a mixture, whose studies are told apart by source
            record = record | {"study_id": record["positives_of"]}
        if self.context_dropout and torch.rand(1).item() < self.context_dropout:
            record = record | NO_CONTEXT
        if self.companion_dropout and record.get("companions"):
            views, priors, report = (torch.rand(3) < self.companion_dropout).tolist()
            record = without_companions(record, views, priors)
            record = record | {"prior_findings": ""} if report else record
        if self.change_labels:
            record = record | {"labels": [*record["labels"], *change_codes(record)]}
        if self.feature_cache:
            return self.feature_cache.record(record)
        if not self.augmentation:
            return record
        try:
            return self.augmentation.record(self._opened(record))
        except ValueError as error:
            return record | {"error": str(error)}

    def _opened(self, record: dict) -> dict:
        """The record with its pictures decoded, as large as a crop of them will be needed."""

        def opened(image, name: str) -> Image.Image:
            decoded = isinstance(image, Image.Image)
            return image if decoded else self.processor.read_picture(image, name, 1 / self.augmentation.crop)

        record = record | {"image": opened(record["image"], "its picture")}
        if record.get("companions"):
            companions = enumerate(record["companions"])
            companions = [each | {"image": opened(each["image"], f"companions[{i}]")} for i, each in companions]
            record = record | {"companions": companions}
        return record
