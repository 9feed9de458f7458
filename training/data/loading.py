"""From a data set's name in a config to its records."""

from collections.abc import Iterator

import numpy as np
from datasets import Dataset, Image

from processing.datasets import load

from ..runs.command_line import mapping
from .feature_cache import undecoded_companions
from .streams import TrainingStream


def load_data(spec: dict | str, argument: str, alone: bool = False) -> Dataset | TrainingStream:
    """The data set that `spec` describes: `{"name": ..., "split": ..., "root": ..., loader's own options ...}`.

    The name "shards" stands for a folder or URL that `python -m processing.datasets convert` wrote, read as a stream;
    its own option is `shuffle_buffer`, 1024 records for `train_data` unless given, else 0. `alone`: each process reads
    all of it, not its share.

    Raises:
        ValueError: no name given, or the loader's own errors.
    """
    options = mapping(spec, argument)
    if "name" not in options:
        raise ValueError(f'{argument}: give the data set\'s name, such as {{"name": "phantom", "split": "train"}}.')
    if options["name"] == "shards":
        return _open_shards(options, argument, alone)
    return load(options.pop("name"), **options)


def _open_shards(options: dict, argument: str, alone: bool) -> TrainingStream:
    unknown = sorted(options.keys() - {"name", "root", "split", "shuffle_buffer"})
    if unknown or "root" not in options:
        given = f"{unknown[0]!r} is no option" if unknown else "there is no root"
        raise ValueError(f"{argument}: {given}; shards take root, split and shuffle_buffer.")
    buffer = options.get("shuffle_buffer", 1024 if argument == "train_data" else 0)
    of_all = {"rank": 0, "world_size": 1} if alone else {}
    return TrainingStream(options["root"], options.get("split", "train"), shuffle_buffer=buffer, **of_all)


def stored_columns(dataset: Dataset | TrainingStream, names: list[str]) -> Iterator[dict]:
    """These columns of all records, in one pass that decodes no picture."""
    return iter(dataset.select_columns(names)) if isinstance(dataset, Dataset) else dataset.columns(names)


def leave_pictures(dataset: Dataset | TrainingStream) -> Dataset | TrainingStream:
    """The records with their pictures as they are stored, {"bytes", "path"}, for a collator to decode."""
    if isinstance(dataset, TrainingStream):
        dataset.leave_pictures()
        return dataset
    image = dataset.features.get("image")
    if isinstance(image, Image):
        dataset = dataset.cast_column("image", type(image)(decode=False))
    return undecoded_companions(dataset)


def positives_per_class(codes) -> list[int]:
    """How often each label is positive, uncertain included (CoGaze: uncertain counts as positive)."""
    codes = np.asarray(codes)
    return ((codes == 1) | (codes == 2)).sum(axis=0).tolist()
