"""Which of many numbers are the k largest: exact counts, ties decided by position. Shared by the sets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 17
"""Entries looked at together: few enough that what is made of them stays in the cache."""
SMALL = 1 << 11
"""Entries up to which partitioning them all is no slower than finding a bracket first."""

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as numbers of so many bytes."""


def largest(values: Tensor, k: int) -> Tensor:
    """Boolean mask of the k largest magnitudes of `values`, 1-D, earlier ones first among equals. Refuses NaN."""
    if k <= 0:
        refuse_nan(values)
        return torch.zeros_like(values, dtype=torch.bool)
    limit, spare = threshold(values, k)
    kept = values.abs() >= limit
    if spare:
        kept[last_ties(values, limit, spare)] = False
    return kept


def threshold(values: Tensor, k: int) -> tuple[Tensor, int]:
    """The k-th largest magnitude of `values`, 1-D, exactly, and how many entries beyond k have it or more.

    It is 0 if there are at most k. Raises ValueError on NaN.
    """
    refuse_nan(values)
    size = values.numel()
    if k >= size:
        return torch.zeros((), dtype=values.dtype, device=values.device), 0
    if values.device.type != "cpu":
        magnitude = values.abs()
        limit = torch.kthvalue(magnitude, size - k + 1).values
        return limit, int((magnitude >= limit).sum()) - k
    array = (values if values.dtype == torch.float64 else values.float()).numpy()
    found = _bracketed(array, k) if size > SMALL else None
    number, spare = found or _partitioned(np.abs(array), k)
    return torch.tensor(number, dtype=values.dtype), spare


def last_ties(values: Tensor, limit: Tensor, count: int) -> Tensor:
    """Positions of the last `count` of the entries whose magnitude is `limit`."""
    found: list[Tensor] = []
    chunk = CHUNK if values.device.type == "cpu" else values.numel()
    end = values.numel()
    while count > 0:
        begin = max(0, end - chunk)
        ties = (values[begin:end].abs() == limit).nonzero().squeeze(1)[-count:]
        found.append(ties + begin)
        end, count = begin, count - len(ties)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long, device=values.device)


def _bracketed(values: np.ndarray, k: int) -> tuple[float, int] | None:
    """The threshold by a bracket around it, or None where the bracket misses it.

    A sorted sample gives the bracket. One pass, in chunks, counts what is above it and collects what is in it,
    and only that is partitioned; zeros, of which a pruned tensor is full, need no collecting. numpy compares
    several times as fast as torch does.
    """
    size = len(values)
    sample = np.abs(values[:: round(size ** (1 / 3)) | 1])
    sample.sort()
    # The place of the threshold in the sample varies by its deviation: beyond three of them once in 400 times.
    share = (size - k) / size
    place, margin = round(share * len(sample)), 3 + round(3 * (share * (1 - share) * len(sample)) ** 0.5)
    low = sample[place - margin] if place >= margin else 0.0
    high = sample[place + margin] if place + margin < len(sample) else np.inf
    magnitude, over, inside = np.empty(CHUNK, values.dtype), np.empty(CHUNK, bool), np.empty(CHUNK, bool)
    above, candidates = 0, []
    for begin in range(0, size, CHUNK):
        chunk = values[begin : begin + CHUNK]
        m, o, i = magnitude[: len(chunk)], over[: len(chunk)], inside[: len(chunk)]
        np.abs(chunk, out=m)
        np.greater(m, high, out=o)
        np.greater_equal(m, low, out=i) if low else np.greater(m, 0, out=i)
        above += int(np.count_nonzero(o))
        candidates.append(m[np.flatnonzero(np.not_equal(i, o, out=i))])
    found = np.concatenate(candidates)
    if k - above > len(found) and not low:
        return 0.0, size - k
    return _partitioned(found, k - above) if 0 < k - above <= len(found) else None


def _partitioned(magnitudes: np.ndarray, k: int) -> tuple[float, int]:
    """The k-th largest, and how many more there are of it. Reorders what it is given."""
    place = len(magnitudes) - k
    magnitudes.partition(place)
    limit = magnitudes[place]
    return float(limit), int(np.count_nonzero(magnitudes[:place] == limit))


def only(values: Tensor, kept: Tensor) -> Tensor:
    """`values` where the bools `kept`, of a shape that is spread over theirs, are true, and 0 elsewhere.

    By their bits, in which torch is two to four times as fast as in `where`.
    """
    bits = values.view(BITS[values.element_size()])
    return (bits & -kept.to(bits.dtype)).view(values.dtype)


def rising(values: Tensor) -> Tensor:
    """`values`, 1-D, sorted, the smallest first. numpy sorts several times as fast as torch, which finds places too."""
    if values.device.type != "cpu" or values.dtype is torch.bfloat16:  # numpy has none
        return values.sort().values
    return torch.from_numpy(np.sort(values.numpy()))


def pieces(values: Tensor) -> list[Tensor]:
    """`values`, 1-D, in parts to be worked on one after the other; on the CPU they fit its cache."""
    return list(values.split(CHUNK if values.device.type == "cpu" else max(1, len(values))))


def refuse_nan(values: Tensor) -> None:
    """Raise ValueError on NaN."""
    if bool(torch.isnan(values.sum())) and bool(torch.isnan(values).any()):
        raise ValueError("what is to be projected holds NaN")
