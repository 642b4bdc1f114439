"""How well an epoch's order mixes ImageNet: ours with and without a window, and a shuffle buffer.

1,281,167 samples of 1,000 classes in shards of 1,000, which were written class by class or were mixed before.
*Apart*: how far two samples that lie side by side in a shard are from each other in the epoch, the median as a share
of it. *Classes*: different ones among 256 samples of a batch, the mean, and the least of a batch by class. *In memory*:
shards, or samples in a buffer, that a reader has to have at hand. The buffer is webdataset's own, after its shuffle of
the shards.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from webdataset import filters

from dualprune.stages.data.order import Indices, epoch_order, windowed_order
from tests.bench.common import Row, options, report

SAMPLES, CLASSES, SHARD, BATCH = 1_281_167, 1_000, 1_000, 256


def buffered(counts: Indices, size: int) -> Indices:
    """Shards in random order, and a shuffle buffer over what comes from them."""
    first = np.cumsum(counts) - counts
    shards = epoch_order(len(counts), 0, 0)
    samples = iter([sample for shard in shards for sample in range(first[shard], first[shard] + counts[shard])])
    return np.fromiter(filters._shuffle(samples, size, size, random.Random(0)), dtype=np.int64)


def measured(way: str, memory: str, order: Indices, samples: int) -> Row:
    """What an order does, once classes lie side by side and once they are mixed over the shards."""
    place = np.empty(samples, dtype=np.int64)
    place[order] = np.arange(samples)
    sides = np.arange(samples - 1)[np.arange(1, samples) % SHARD > 0]
    row: Row = {"way": way, "in memory": memory, "apart": float(np.median(np.abs(np.diff(place)[sides]))) / samples}
    by_class = np.arange(samples) * CLASSES // samples
    for name, classes in (("classes: by class", by_class), ("mixed", by_class[epoch_order(samples, 1, 0)])):
        batches = classes[order[: samples // BATCH * BATCH]].reshape(-1, BATCH)
        found = (np.diff(np.sort(batches, axis=1), axis=1) > 0).sum(axis=1) + 1
        row[name] = float(found.mean())
        row.setdefault("least", int(found.min()))
    return row


def main() -> None:
    """Measure all orders and report them."""
    asked = options(__doc__.splitlines()[0])
    samples = SAMPLES // 10 if asked.quick else SAMPLES
    counts = np.full(-(-samples // SHARD), SHARD)
    counts[-1] = samples - counts[:-1].sum()
    ways: list[tuple[str, str, Callable[[], Indices]]] = [("none", "1 shard", lambda: np.arange(samples))]
    for size in (1_000, 10_000):
        ways.append((f"webdataset, buffer {size}", f"{size} samples", lambda size=size: buffered(counts, size)))  # type: ignore[misc]
    for window in (1, 4, 16, 64):
        name, memory = f"ours, window {window}", f"{2 * window} shards"
        ways.append((name, memory, lambda window=window: windowed_order(counts, window, 0, 0)))  # type: ignore[misc]
    ways.append(("ours, no window: full", "all", lambda: epoch_order(samples, 0, 0)))
    rows = []
    for way, memory, order in ways:
        found = order()
        assert np.array_equal(np.sort(found), np.arange(samples)), way
        rows.append(measured(way, memory, found, samples))
    report(f"An epoch of {samples:,} samples of {CLASSES:,} classes, shards of {SHARD:,}", rows, asked)


if __name__ == "__main__":
    main()
