"""Batches of like length, in an order that a resumed run finds again."""

from collections.abc import Callable, Iterator, Sequence

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices


class LengthGroups(LengthGroupedSampler):
    """`LengthGroupedSampler` whose order follows from (seed, epoch), and not from what was drawn before.

    So a run that goes on in the middle of an epoch reads the batches that are left, and all processes the same order.

    Args:
        batch_size: records that are put together.
        lengths: of the records.
        epoch: tells the epoch that is about to begin.
    """

    def __init__(self, batch_size: int, lengths: Sequence[int], seed: int, epoch: Callable[[], int]):
        super().__init__(batch_size, lengths=list(lengths))
        self.seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        # No seed's epoch has the order of another seed's.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
