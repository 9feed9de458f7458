"""Pretraining on several sources: from lists in `train_data` and `validation_data` to mixtures."""

from collections.abc import Callable
from functools import partial

from datasets import Dataset
from transformers import TrainingArguments

from processing.datasets.label_texts import TEMPLATES, read_label_texts
from processing.datasets.overlaps import warn_of_overlaps

from ..data.checking import keep_good_records
from ..data.collation import Collator
from ..data.feature_cache import FeatureCache
from ..data.mixture import Mixture
from ..data.sources import MixedSource, read_sources, with_data


class Evaluated(dict):
    """Name of a source -> its mixture, to be evaluated by itself.

    weights: of each in the joined loss; they sum to 1.
    """

    weights: dict[str, float]


def load_mixed(arguments, training: TrainingArguments) -> dict[str, Mixture | Evaluated]:
    """The splits of a run one of whose data sets is a list."""
    texts = read_label_texts(arguments.label_texts or TEMPLATES)
    options = {"pair_equal_labels": not arguments.label_texts_apart, "on_shared_images": arguments.on_shared_images}
    train, lost = read_sources(arguments.train_data, "train_data", texts, **options)
    names = train[0].columns.names
    validation, lost_too = read_sources(
        arguments.validation_data, "validation_data", texts, label_names=names, **options
    )
    warn_of_overlaps({source.entry: source.dataset for source in [*train, *validation]})
    evaluated = Evaluated((source.name, Mixture([source], shuffle=False)) for source in validation)
    total = sum(source.weight for source in validation)
    evaluated.weights = {source.name: source.weight / total for source in validation}
    mixture = Mixture(train, arguments.records_per_epoch, seed=training.seed)
    for split, found in (("train", lost), ("validation", lost_too)):
        for name, count in found.items():
            if count:
                print(f"{split}: {count} records of {name} are left out, whose images another source has.")
    return {"train": mixture, "validation": evaluated}


def cached(splits: dict, cache: FeatureCache) -> dict:
    """The splits without their pictures, which the cache has."""
    return _changed(splits, lambda source, split: with_data(source, cache.attach(source.dataset, source.entry)))


def keep_good_sources(
    splits: dict, collate: Collator, on_bad_record: str, training: TrainingArguments, check: str = "full"
):
    """As `checking.keep_good_splits`, source by source; a record may lack what another source's have."""
    lost = dict.fromkeys(splits, 0)
    workers = max(1, training.dataloader_num_workers)

    def keep_good(source: MixedSource, split: str) -> MixedSource:
        with training.main_process_first(desc="checking records"):
            try:
                kept, reasons = keep_good_records(source.dataset, collate, on_bad_record, workers, (), check)
            except ValueError as error:
                raise ValueError(f"{source.entry}: {error}") from error
        lost[split] += sum(reasons.values())
        if reasons:
            print(f"Skipped {sum(reasons.values())} unusable records of {source.entry}: {dict(reasons)}")
        return with_data(source, kept)

    return _changed(splits, keep_good), lost


def _changed(splits: dict, change: Callable[[MixedSource, str], MixedSource]) -> dict:
    for split, found in splits.items():
        for mixture in found.values() if isinstance(found, Evaluated) else [found]:
            mixture.change(partial(change, split=split))
    return splits


def is_mixed(data: Dataset | Mixture | Evaluated) -> bool:
    return isinstance(data, Mixture | Evaluated)
