"""Randomness that follows from what it is drawn for, not from what was drawn before."""

import hashlib
from collections.abc import Callable

import torch
from transformers import TrainerCallback


class OwnRandomness(TrainerCallback):
    """Collates with randomness that follows from (seed, epoch, first record), so that a resumed run draws the same.

    Args:
        clock: has the `epoch`, where the Trainer does not call this back.
    """

    def __init__(self, collate: Callable, seed: int, clock=None):
        self.collate, self.seed, self.clock = collate, seed, clock
        self.epoch = 0

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch = int(state.epoch or 0)

    def __call__(self, records: list[dict | None]) -> dict:
        if records[0] is None:  # a stream's record that an interrupted run has used up
            return {}
        seed, epoch = (self.seed, self.epoch) if self.clock is None else (self.clock.seed, self.clock.epoch)
        name = f"{seed} {epoch} {records[0].get('image_id')}"
        if "draw" in records[0]:  # an epoch of a mixture may have a record several times
            name += f" {records[0]['draw']}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big"))
            return self.collate(records)
