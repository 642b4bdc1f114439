"""Values that are whole numbers times an interval, found among a tensor's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TRIED = 128
"""Multiples of the interval that the least magnitude may be: the lowest levels may be those of no weight."""


def grid(values: NDArray[Any], most: int = 128) -> tuple[float, NDArray[Any]] | None:
    """The interval q, and whole numbers c of magnitude up to `most`, with values = fp32(q c) to the bit; None where
    there are none.

    `values` are fp32 numbers, [n], c int64, [n]. q is in fp64, as levels are fitted (stages.constraints.levels).
    """
    magnitudes = np.unique(np.abs(values[values != 0]).astype(np.float64))
    if not len(magnitudes) or not np.isfinite(magnitudes).all():
        return None
    for multiple in range(1, TRIED + 1):
        codes = np.rint(magnitudes / (magnitudes[0] / multiple))
        if codes[-1] > most:
            return None
        step = _interval(magnitudes, codes)
        signed = np.rint(values.astype(np.float64) / step) if step else values
        if step and np.array_equal((signed * step).astype(np.float32), values):
            return step, signed.astype(np.int64)
    return None


def _interval(magnitudes: NDArray[Any], codes: NDArray[Any]) -> float | None:
    """A q, of few digits, with which all q c round to their magnitudes."""
    half = np.spacing(magnitudes.astype(np.float32)).astype(np.float64) / 2
    low, high = ((magnitudes - half) / codes).max(), ((magnitudes + half) / codes).min()
    found = (float(f"{(low + high) / 2:.{digits}g}") for digits in range(6, 18))
    return next((q for q in found if low < q < high), None)
