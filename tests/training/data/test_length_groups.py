"""The order of batches of like length."""

import numpy as np

from training.data.length_groups import LengthGroups


def order(seed: int, epoch: int, lengths) -> list[int]:
    return list(LengthGroups(4, lengths, seed, lambda: epoch))


def test_the_order_follows_from_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 100, 400).tolist()
    first = order(0, 0, lengths)
    assert sorted(first) == list(range(400)) and order(0, 0, lengths) == first
    assert len({tuple(order(seed, epoch, lengths)) for seed in range(3) for epoch in range(3)}) == 9


def test_records_of_like_length_are_together():
    lengths = np.random.default_rng(0).integers(1, 100, 400)
    batches = lengths[order(0, 1, lengths.tolist())].reshape(-1, 4)
    assert np.ptp(batches, axis=1).mean() < np.ptp(lengths.reshape(-1, 4), axis=1).mean() / 5
