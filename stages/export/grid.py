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
        for step in _intervals(magnitudes, codes):
            signed = np.rint(values.astype(np.float64) / step)
            if np.array_equal((signed * step).astype(np.float32), values):
                return step, signed.astype(np.int64)
    return None


def _intervals(magnitudes: NDArray[Any], codes: NDArray[Any]) -> list[float]:
    """Some q, of few digits first, with which all q c may round to their magnitudes; none where that can't be."""
    half = np.spacing(magnitudes.astype(np.float32)).astype(np.float64) / 2
    low, high = ((magnitudes - half) / codes).max(), ((magnitudes + half) / codes).min()
    middle = float((low + high) / 2)
    if low > high * (1 + 1e-12):
        return []
    short = (float(f"{middle:.{digits}g}") for digits in range(6, 18))
    # Where the interval was in fp32 itself, products lie halfway between numbers, and no other will do.
    return [*(q for q in short if low < q < high), float(np.float32(middle)), middle]
