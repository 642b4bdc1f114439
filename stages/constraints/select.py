"""Which of many numbers are the k largest: exact counts, ties decided by position. Shared by the sets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 20
"""Entries looked at together: few enough that what is made of them stays in the cache."""
SAMPLE = 1 << 16
"""Entries whose order brackets the threshold."""


def largest(values: Tensor, k: int) -> Tensor:
    """Boolean mask of the k largest magnitudes of `values`, 1-D, earlier ones first among equals. Refuses NaN."""
    if k <= 0:
        _refuse_nan(values)
        return torch.zeros_like(values, dtype=torch.bool)
    limit = threshold(values, k)
    magnitude = values.abs()
    kept = magnitude >= limit
    spare = int(torch.count_nonzero(kept)) - k
    if spare > 0:
        ties = (magnitude == limit).nonzero().squeeze(1)
        kept[ties[len(ties) - spare :]] = False
    return kept


def threshold(values: Tensor, k: int) -> Tensor:
    """The k-th largest magnitude of `values`, 1-D, exactly; 0 if there are at most k. Raises ValueError on NaN.

    A large tensor on the CPU is looked at in chunks: a sorted sample brackets the threshold, one pass counts
    what is above the bracket and collects what is in it, and only that is partitioned.
    """
    _refuse_nan(values)
    size = values.numel()
    if k >= size:
        return torch.zeros((), dtype=values.dtype, device=values.device)
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return torch.kthvalue(values.abs(), size - k + 1).values
    if size > 4 * CHUNK:
        found = _bracketed(values, k)
        if found is not None:
            return found
    return _partitioned(values.abs().numpy(), k)


def _bracketed(values: Tensor, k: int) -> Tensor | None:
    """The threshold by the sample's bracket, or None where the bracket misses it."""
    size = values.numel()
    sample = values[:: size // SAMPLE].abs().sort(descending=True).values
    place, margin = k * len(sample) // size, 4 * int(len(sample) ** 0.5)
    high = sample[place - margin] if place >= margin else torch.tensor(float("inf"))
    low = sample[place + margin] if place + margin < len(sample) else torch.tensor(-1.0)
    above, inside = 0, []
    for chunk in values.split(CHUNK):
        magnitude = chunk.abs()
        over = magnitude > high
        above += int(torch.count_nonzero(over))
        inside.append(magnitude[(magnitude >= low).logical_and_(over.logical_not_())])
    candidates = torch.cat(inside)
    if not 0 < k - above <= len(candidates):
        return None
    return _partitioned(candidates.numpy(), k - above)


def _partitioned(magnitudes: np.ndarray, k: int) -> Tensor:
    place = len(magnitudes) - k
    return torch.from_numpy(np.partition(magnitudes, place)[place : place + 1])[0]


def _refuse_nan(values: Tensor) -> None:
    if bool(torch.isnan(values.sum())) and bool(torch.isnan(values).any()):
        raise ValueError("what is to be projected holds NaN")
