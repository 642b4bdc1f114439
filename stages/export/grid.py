"""Values that are whole numbers times an interval, found among a tensor's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TRIED = 16
"""Multiples of the interval that the least magnitude may be: of weights that were put on levels, the lowest levels may
be those of none."""


def grid(values: NDArray[Any], most: int = 128) -> tuple[float, NDArray[Any]] | None:
    """The interval q and the whole numbers c up to `most`, with values = fp32(q c) exactly; None where there is none.

    `values` are fp32. q is any fp64 number that gives them all: levels are computed so (stages.constraints.levels).
    """
    magnitudes = np.unique(np.abs(values[values != 0]).astype(np.float64))
    if not len(magnitudes) or not np.isfinite(magnitudes).all():
        return None
    for multiple in range(1, TRIED + 1):
        codes = np.rint(magnitudes / (magnitudes[0] / multiple))
        if codes[-1] > most:
            return None
        step = _between(magnitudes, codes)
        signed = np.sign(values) * np.rint(np.abs(values) / step) if step else values
        if step and np.array_equal((signed * step).astype(np.float32), values):
            return step, signed.astype(np.int64)
    return None


def _between(magnitudes: NDArray[Any], codes: NDArray[Any]) -> float | None:
    """A q for which all q c round to their magnitudes."""
    half = np.spacing(magnitudes.astype(np.float32)).astype(np.float64) / 2
    low, high = ((magnitudes - half) / codes).max(), ((magnitudes + half) / codes).min()
    return float((low + high) / 2) if low <= high else None
