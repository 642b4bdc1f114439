"""Sample order: every sample once an epoch, the same global batches on any number of ranks, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest

from dualprune.stages.data.order import epoch_order, global_batch, hashed, micro_batches, share, steps_per_epoch


def test_an_epoch_has_every_sample_once_but_for_its_incomplete_batch() -> None:
    order = epoch_order(103, seed=5, epoch=2)
    assert steps_per_epoch(103, 10) == 10
    seen = np.concatenate([global_batch(order, 10, n) for n in range(10)])
    assert sorted(np.concatenate([seen, order[100:]])) == list(range(103))
    assert len(seen) == len(set(seen)) == 100


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("parts", [1, 3])
def test_ranks_share_out_the_same_global_batches(world: int, parts: int) -> None:
    order = epoch_order(50, seed=1, epoch=0)
    for step in range(steps_per_epoch(50, 7)):
        shares = [share(global_batch(order, 7, step), rank, world) for rank in range(world)]
        sizes = [len(own) for own in shares]
        assert max(sizes) - min(sizes) <= 1
        micro = [part for own in shares for part in micro_batches(own, parts)]
        assert len(micro) == world * parts
        assert sorted(np.concatenate(micro)) == sorted(order[7 * step : 7 * step + 7])


def test_shares_are_interleaved_and_micro_batches_in_order() -> None:
    batch = np.array([9, 8, 7, 6, 5], dtype=np.int64)
    assert [share(batch, rank, 2).tolist() for rank in range(2)] == [[9, 7, 5], [8, 6]]
    assert [part.tolist() for part in micro_batches(batch, 2)] == [[9, 8, 7], [6, 5]]


def test_the_order_is_pinned() -> None:
    """These values must not change: keys of finished stages and interrupted ones rely on them."""
    assert epoch_order(10, seed=7, epoch=0).tolist() == [4, 5, 9, 8, 1, 7, 6, 0, 2, 3]
    assert epoch_order(10, seed=7, epoch=1).tolist() == [8, 6, 9, 5, 0, 7, 3, 4, 1, 2]
    assert epoch_order(10, seed=8, epoch=0).tolist() == [5, 8, 0, 6, 4, 3, 9, 2, 1, 7]
    assert epoch_order(10, seed=7, epoch=0).dtype == np.int64


def test_hashed_is_splitmix64_of_seed_epoch_and_purpose() -> None:
    """Against the same in Python's whole numbers, and pinned."""

    def reference(sample: int, words: tuple[int, ...]) -> int:
        x = sample
        for word in words:
            x = (x + word * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64
            x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
            x ^= x >> 31
        return x

    samples = np.array([0, 1, 2, 59_999, 2**40], dtype=np.int64)
    got = hashed(seed=7, epoch=3, indices=samples, purpose=1)
    assert got.tolist() == [reference(int(sample), (7, 3, 1)) for sample in samples]
    assert got[:2].tolist() == [8120394876895211058, 4700916965955740997]


def test_hashed_depends_on_each_of_its_words() -> None:
    samples = np.arange(100)
    base = hashed(1, 2, samples, 3)
    for other in (hashed(2, 2, samples, 3), hashed(1, 3, samples, 3), hashed(1, 2, samples, 4)):
        assert not np.isin(other, base).any()
    assert len(set(base.tolist())) == 100
