"""Which samples make up global step n: a function of (seed, epoch, n) alone. Pure, NumPy only.

The number of ranks only says how a global batch is shared out, so a run can go on at another number
of ranks and see the same batches; and there is no generator whose state would have to be saved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def epoch_order(samples: int, seed: int, epoch: int) -> Indices:
    """A permutation of range(samples). RandomState, because its stream is frozen across NumPy versions."""
    bits = np.random.MT19937(np.random.SeedSequence([seed, epoch]))
    return np.random.RandomState(bits).permutation(samples).astype(np.int64)


def windowed_order(counts: Indices, window: int, seed: int, epoch: int) -> Indices:
    """A permutation of range(sum(counts)) that visits `window` shards at a time; shard s has `counts[s]` samples.

    Shards come in random order, and the samples of each window of them mixed. Samples are numbered shard by shard.
    """
    shards = epoch_order(len(counts), seed, epoch)
    mixed = hashed(seed, epoch, np.arange(counts.sum(), dtype=np.int64), purpose=2)
    place = np.empty(len(counts), dtype=np.int64)
    place[shards] = np.arange(len(shards)) // window
    # By window, and within it by random bits: equal ones, should there be any, stay in their samples' order.
    return np.lexsort((mixed, np.repeat(place, counts))).astype(np.int64)


def steps_per_epoch(samples: int, batch: int) -> int:
    """Full global batches in an epoch; the incomplete last one is left out."""
    return samples // batch


def global_batch(order: Indices, batch: int, step: int) -> Indices:
    """The samples of global step `step` of the epoch that `order` is of."""
    return order[step * batch : (step + 1) * batch]


def share(indices: Indices, rank: int, world: int) -> Indices:
    """A rank's part of a batch: every world-th sample from the rank-th on. Sizes differ by one at most."""
    return indices[rank::world]


def micro_batches(indices: Indices, parts: int) -> list[Indices]:
    """A rank's part of a batch in `parts` micro-batches of sizes that differ by one at most."""
    return [np.asarray(part) for part in np.array_split(indices, parts)]


def hashed(seed: int, epoch: int, indices: Indices, purpose: int) -> NDArray[np.uint64]:
    """Random 64 bits per sample from (seed, epoch, sample, purpose), by splitmix64's finalizer."""
    return hashed_for(seed, epoch, indices, [purpose])[:, 0]


def hashed_for(seed: int, epoch: int, indices: Indices, purposes: Sequence[int]) -> NDArray[np.uint64]:
    """The same for several purposes at once, [samples, purposes]."""
    with np.errstate(over="ignore"):
        x = indices.astype(np.uint64)[:, None]
        for words in ([seed], [epoch], purposes):
            x = x + np.array([(word * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64 for word in words], np.uint64)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return x
