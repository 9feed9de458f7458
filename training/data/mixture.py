"""Several sources in one stream of records: interleaved by seed, the same on any number of processes, resumable."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from datasets import Dataset

from processing.datasets.storage.streaming import process_of

from .loading import stored_columns
from .sources import MixedSource, annotated_of_each, positives_of_each
from .streams import StreamLoader


class Mixture(torch.utils.data.IterableDataset):
    """The draws of an epoch, of several sources.

    An epoch draws each source in proportion to its weight, and interleaves the draws at random. A source's draws run on
    through whole passes over it, each in an order of its own, over the epochs: no record comes a second time before
    each has come once. All of it follows from (seed, epoch) alone. A batch of the joined processes takes the next
    draws, and each process its part of them, so that two processes with batch b read what one with 2b reads (what the
    processes cannot share evenly at an epoch's end, fewer draws than there are processes, is left out).

    A composed text follows from (seed, how often its image was drawn before, image), so that with weights by size it is
    another in each epoch.

    Args:
        records_per_epoch: draws; by default as many as there are records.
        shuffle: False gives each source's records in their order, one source after the other (evaluation).
        rank, world_size: as for `RecordStream`.
    Raises:
        ValueError: fewer draws than processes, or a source whose share is less than one draw; names it.
    """

    def __init__(
        self,
        sources: Sequence[MixedSource],
        records_per_epoch: int | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ):
        self.sources, self.seed, self.shuffle = list(sources), seed, shuffle
        self.total = records_per_epoch or sum(len(source) for source in sources)
        self.draws = share_out([source.weight for source in sources], self.total)
        for source, count in zip(sources, self.draws, strict=True):
            if count < 1:
                raise ValueError(f"{source.entry}: its weight gives it less than one of {self.total} draws; raise one.")
        self.rank, self.world_size = process_of(rank, world_size)
        if self.total < self.world_size:
            raise ValueError(f"records_per_epoch: {self.world_size} processes cannot share {self.total} records.")
        self.epoch, self.batch_size, self._used = 0, 1, 0
        self.shuffle_buffer = [getattr(source.dataset, "shuffle_buffer", None) for source in sources]

    @property
    def facts(self) -> dict:
        """As a data set's."""
        names = list(self.sources[0].columns.names)
        return {"source": " + ".join(source.name for source in self.sources), "split": None, "label_names": names}

    def summary(self) -> dict:
        """How often each label is positive and annotated, and what each source brings."""
        names = self.sources[0].columns.names
        return {
            "positives": dict(zip(names, positives_of_each(self.sources), strict=True)),
            "annotated": dict(zip(names, annotated_of_each(self.sources), strict=True)),
            "sources": {s.name: s.facts(n) for s, n in zip(self.sources, self.draws, strict=True)},
        }

    def __len__(self) -> int:
        return self.total // self.world_size

    def change(self, change: Callable[[MixedSource], MixedSource]) -> "Mixture":
        """Replace each source by what `change` makes of it; the draws stay."""
        self.sources = [change(source) for source in self.sources]
        return self

    def columns(self, names: list[str]) -> Iterator[dict]:
        """These columns (none of pictures) of all records of all sources; labels are the run's."""
        for source in self.sources:
            for row in stored_columns(source.dataset, names):
                yield row | {"labels": source.columns.codes(row["labels"] or []).tolist()} if "labels" in row else row

    def texts(self) -> Iterator[str]:
        """What a tokenizer is built from: reports, contexts, and what may be composed of labels."""
        for source in self.sources:
            yield from (text for row in self._words_of(source) for text in row.values() if text)
            if source.text in ("labels", "report_or_labels"):
                yield from source.texts.all_sentences(source.columns.annotated)

    def _words_of(self, source: MixedSource) -> Iterator[dict]:
        names = ["indication", "history"]
        return stored_columns(source.dataset, [*names, "findings"] if source.text.startswith("report") else names)

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self._used = epoch, 0

    def state_after(self, batches: int, batch_size: int, num_workers: int = 0, drop_last: bool = False) -> dict:
        """Where reading stands once a loader has given that many batches of the epoch."""
        return {"epoch": self.epoch, "seed": self.seed, "batches": batches}

    def load_state_dict(self, state: dict) -> None:
        """The next iteration gives None for every record that was used up."""
        self.epoch, self._used = state["epoch"], state["batches"]

    def num_batches(self, batch_size: int, num_workers: int = 0, drop_last: bool = False) -> int:
        full, rest = divmod(self.total, batch_size * self.world_size)
        return full + (rest >= self.world_size and not drop_last)

    def __iter__(self) -> Iterator[dict | None]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        used, self._used = self._used, 0
        batches = range(worker, self.num_batches(self.batch_size), workers)
        own = [self._batch(number) for number in batches]
        passed = sum(len(positions) for number, positions in zip(batches, own, strict=True) if number < used)
        positions = np.concatenate([*own, np.zeros(0, np.int64)])
        yield from [None] * passed
        yield from self._records(positions[passed:])

    def _batch(self, number: int) -> np.ndarray:
        """Places in the epoch's order of this process's part of a joined batch."""
        joined = self.batch_size * self.world_size
        size = min(joined, self.total - number * joined) // self.world_size
        start = number * joined + self.rank * size
        return np.arange(start, start + size)

    def _records(self, positions: np.ndarray) -> Iterator[dict]:
        """The records at these places of the epoch's order, ascending."""
        source_of, draw_of = self.order()
        readers = [
            self._read(place, draw_of[positions[source_of[positions] == place]]) for place in range(len(self.sources))
        ]
        for position in positions:
            yield next(readers[source_of[position]])

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """(draws,) the source of each draw of the epoch, and its number among the source's draws of all epochs."""
        source_of = np.repeat(np.arange(len(self.sources)), self.draws)
        if self.shuffle:
            source_of = np.random.default_rng([self.seed, self.epoch]).permutation(source_of)
        draw_of = np.zeros(self.total, np.int64)
        for place, count in enumerate(self.draws):
            draw_of[source_of == place] = self.epoch * count + np.arange(count)
        return source_of, draw_of

    def _read(self, place: int, draws: np.ndarray) -> Iterator[dict]:
        """The records of these draws, ascending, of one source."""
        source = self.sources[place]
        passes, places = np.divmod(draws, len(source))
        for number in np.unique(passes):
            own = places[passes == number]
            if isinstance(source.dataset, Dataset):
                generator = np.random.default_rng([self.seed, place, number])
                order = generator.permutation(len(source)) if self.shuffle else np.arange(len(source))
                records = (source.dataset[int(order[each])] for each in own)
            else:
                source.dataset.seed = self.seed
                records = source.dataset.chosen(int(number), own.tolist())
            for record in records:
                yield source.record(record, (self.seed, int(number))) | {"draw": int(number)}


class MixtureLoader(StreamLoader):
    """Batches of one process, which a mixture must know to share out."""

    def __init__(self, mixture: Mixture, batch_size: int, *args, **options):
        mixture.batch_size = batch_size
        super().__init__(mixture, batch_size, *args, **options)


def share_out(weights: Sequence[float], total: int) -> list[int]:
    """`total` draws in proportion to the weights, rounded by largest remainder."""
    exact = np.array(weights, float) / sum(weights) * total
    counts = np.floor(exact + 1e-9).astype(int)
    for place in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[place] += 1
    return counts.tolist()
