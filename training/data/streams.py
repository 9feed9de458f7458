"""Pretraining from shards: a stream that goes on in the middle of an epoch, its loader and its saved state."""

import math
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import torch
from transformers import TrainerCallback

from processing.datasets.storage.streaming import RecordStream

from ..runs.files import read_json, write_json
from ..runs.randomness import OwnRandomness

STATE = "stream.json"


class TrainingStream(RecordStream):
    """A stream that gives None for every record that an interrupted run has used up.

    The Trainer passes over the batches of the epoch that it has seen: so that it passes over nothing that is read.
    """

    _used: list[int] | None = None

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self._used = None

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._used = list(state["consumed"])

    def __iter__(self) -> Iterator[dict | None]:
        info = torch.utils.data.get_worker_info()
        used, self._used = self._used, None
        if used:
            yield from repeat(None, used[info.id if info else 0])
        yield from super().__iter__()


class StreamLoader(torch.utils.data.DataLoader):
    """Batches of one process. Not to be prepared by accelerate, which would share the records out a second time."""

    def __init__(self, stream: RecordStream, batch_size: int, collate: Callable, num_workers: int = 0, drop_last=False):
        super().__init__(
            stream,
            batch_size=batch_size,
            collate_fn=OwnRandomness(collate, stream.seed, stream),
            num_workers=num_workers,
            drop_last=drop_last,
            generator=torch.Generator(),  # or the loader would draw from the model's
        )

    def __len__(self) -> int:
        return self.dataset.num_batches(self.batch_size, self.num_workers, self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)


class StreamState(TrainerCallback):
    """Keeps in every checkpoint where reading stood, and goes on from there.

    Raises:
        ValueError: the checkpoint resumed from has no such state, or one of other shards, batches or processes.
    """

    def __init__(self, stream: TrainingStream, resume_from: str | Path | None = None):
        self.stream, self.resume_from = stream, resume_from

    def _settings(self, args) -> dict:
        return {
            "records": self.stream.total,
            "processes": self.stream.world_size,
            "batch_size": args.train_batch_size,
            "workers": args.dataloader_num_workers,
            "shuffle_buffer": self.stream.shuffle_buffer,
            "seed": self.stream.seed,
        }

    def on_train_begin(self, args, state, control, **kwargs):
        if self.resume_from is None:
            return
        path = Path(self.resume_from) / STATE
        if not path.is_file():
            raise ValueError(
                f"resume_from_checkpoint: there is no {path}; it is not the checkpoint of a run from shards."
            )
        saved = read_json(path)
        for name, value in self._settings(args).items():
            if saved["settings"][name] != value:
                raise ValueError(f"{name}: {path} was saved with {saved['settings'][name]}, now it is {value}.")
        self.stream.load_state_dict(saved["state"])

    def on_checkpoint(self, folder: Path, args, state) -> None:
        batch_size, workers, accumulated = (
            args.train_batch_size,
            args.dataloader_num_workers,
            args.gradient_accumulation_steps,
        )
        batches = self.stream.num_batches(batch_size, workers, args.dataloader_drop_last)
        epoch, steps = divmod(state.global_step, math.ceil(batches / accumulated))
        reading = self.stream.state_after(steps * accumulated, batch_size, workers, args.dataloader_drop_last)
        write_json(folder / STATE, {"state": reading | {"epoch": epoch}, "settings": self._settings(args)})
