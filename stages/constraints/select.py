"""Which of many numbers are the k largest: exact counts, ties decided by position. Shared by the sets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def largest(values: Tensor, k: int) -> Tensor:
    """Boolean mask of the k largest of `values` (1-D, none negative), earlier ones first among equals.

    Raises ValueError on NaN. On the CPU the threshold is NumPy's partition, several times faster than torch's topk.
    """
    if bool(torch.isnan(values.sum())):
        raise ValueError("what is to be projected holds NaN")
    size = values.numel()
    if k >= size:
        return torch.ones_like(values, dtype=torch.bool)
    if k <= 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = _threshold(values, size - k)
    kept = values >= threshold
    spare = int(kept.sum()) - k
    if spare:
        ties = (values == threshold).nonzero().squeeze(1)
        kept[ties[len(ties) - spare :]] = False
    return kept


def _threshold(values: Tensor, place: int) -> Tensor:
    """The value at `place` if they were sorted upwards."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.partition(values.numpy(), place)[place : place + 1])[0]
    return torch.kthvalue(values, place + 1).values
