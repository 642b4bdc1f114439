"""Masks as `holds.safetensors` has them, eight entries to a byte: read and compared without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

FILE = "holds.safetensors"


@dataclass(frozen=True)
class Packed:
    """One tensor's mask."""

    shape: tuple[int, ...]
    bits: NDArray[np.uint8]
    """Row-major, the first entry in a byte's highest bit; what is left of the last byte is 0."""

    def unpacked(self) -> NDArray[np.uint8]:
        """0 or 1 for each entry, [shape]."""
        return np.unpackbits(self.bits)[: int(np.prod(self.shape))].reshape(self.shape)


def packed(data: bytes) -> dict[str, Packed]:
    """The masks of a file's bytes, by tensor. Raises what safetensors and json do for bytes that are none."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    shapes = json.loads(header["__metadata__"]["shapes"])
    return {name: Packed(tuple(shapes[name]), bits) for name, bits in safetensors.numpy.load(data).items()}


def both(one: Mapping[str, Packed], other: Mapping[str, Packed]) -> tuple[int, int]:
    """Of the entries that `one` keeps in the tensors that both have in the same shape: how many, and how many of them
    `other` keeps too."""
    names = [name for name, mask in one.items() if name in other and other[name].shape == mask.shape]
    kept = sum(int(np.bitwise_count(one[name].bits).sum(dtype=np.int64)) for name in names)
    shared = sum(int(np.bitwise_count(one[name].bits & other[name].bits).sum(dtype=np.int64)) for name in names)
    return kept, shared
