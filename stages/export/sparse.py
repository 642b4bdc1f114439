"""The file format `sparse`: tensors of many zeros or few values, packed to their bits. `reader.py` reads it.

    4 bytes   b"dps1"
    4 bytes   length of the head, little-endian
    head      zlib-compressed JSON: {"tensors": [entry, ...], "same": {NAME: NAME OF THE SAME TENSOR}, "about": {...}}
    chunks    of each tensor in turn
    32 bytes  sha256 of all before

An entry has a tensor's `name` and `shape`, its NumPy `type` where that is not fp32, how many values are stored
(`count`) where these are not all, and the lengths of its `chunks`: negative for one that is LZMA-compressed (raw,
with the filter `reader.LZMA`, an adaptive arithmetic coder). The rest says how to read the chunks, in this order:

    mask: 1    a chunk with a bit an entry, 1 where a value is stored; 0 elsewhere
    rice: r    run lengths (Rice 1971): q 2^r + s zeros before each stored value, in row-major order; a chunk of q ones
               and a zero for each, and one of r bits s for each. With neither, all entries are stored
    bits: b    values by their places in a table, b bits each. The table is fp32(`step` times `codes`) or, without
               these, a chunk of fp32 numbers; then comes the chunk of places
    as: type   otherwise the values themselves, in this type if not the tensor's: the first bytes of all, the second
               ones, ..., and in a chunk of their own the last ones, in which sign and exponent are

Bits are packed as np.packbits does, numbers with their highest bit first. Each tensor has its smallest codings.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualprune.stages.export.grid import grid
from dualprune.stages.export.reader import LZMA

MOST = 4096
"""Different values of a tensor up to which they are numbered."""
TRIED = 1 << 18
"""Bytes of a chunk that are compressed to see whether the rest is worth it."""

Array = NDArray[Any]


class Coded(NamedTuple):
    """A part of a tensor: what its entry says of it, its chunks and the lengths that stand for them."""

    entry: dict[str, Any]
    chunks: tuple[bytes, ...]
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes: of the chunks, and about what the entry takes."""
        return sum(map(len, self.chunks)) + 3 * len(self.chunks) + len(json.dumps(self.entry)) // 2


def pack(
    tensors: Mapping[str, Array], same: Mapping[str, str] | None = None, about: Any = None, half: bool = False
) -> bytes:
    """Tensors as the bytes of a file, to the bit but for the sign of zeros.

    `same` are further names of some; with `half`, numbers that are in no table are rounded to fp16.

    Raises ValueError for types that the format does not have, and for numbers that fp16 can't hold.
    """
    entries: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    for name, tensor in tensors.items():
        entry, own = _coded(name, np.asarray(tensor), half)
        entries.append(entry)
        chunks += own
    more = {key: value for key, value in {"same": same, "about": about}.items() if value}
    head = zlib.compress(json.dumps({"tensors": entries, **more}, separators=(",", ":")).encode(), 9)
    body = b"".join([b"dps1", len(head).to_bytes(4, "little"), head, *chunks])
    return body + hashlib.sha256(body).digest()


def _coded(name: str, tensor: Array, half: bool) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """A tensor's entry and chunks."""
    if tensor.dtype.kind not in "fiub":
        raise ValueError(f"{name} is of type {tensor.dtype}, which the format sparse does not have")
    flat = np.ascontiguousarray(tensor).reshape(-1).astype(tensor.dtype.newbyteorder("<"), copy=False)
    flat = flat + flat.dtype.type(0) if flat.dtype.kind == "f" else flat  # no -0, which masks make of negative numbers
    whole: dict[str, Any] = {"name": name, "shape": list(tensor.shape)}
    if flat.dtype != np.float32:
        whole["type"] = flat.dtype.str
    ways = [[_smallest(_values(name, flat, half))]]
    there = np.flatnonzero(flat)
    if len(there) < flat.size:
        whole_places = _smallest(_places(flat, there))
        ways.append([whole_places, _smallest(_values(name, flat[there], half))])
    parts = min(ways, key=lambda parts: sum(part.size for part in parts))
    if len(parts) > 1:
        whole["count"] = len(there)
    for part in parts:
        whole |= part.entry
    whole["chunks"] = [length for part in parts for length in part.lengths]
    return whole, tuple(chunk for part in parts for chunk in part.chunks)


def _places(flat: Array, there: Array) -> Iterator[Coded]:
    """Where values are stored."""
    yield _part({"mask": 1}, np.packbits(flat != 0).tobytes())
    gaps = np.diff(there, prepend=-1) - 1
    likely = int(math.log2(gaps.mean() + 1)) if len(gaps) else 0
    for width in range(max(0, likely - 1), likely + 2):
        ends = np.cumsum((gaps >> width) + 1) - 1
        ones = np.ones(ends[-1] + 1 if len(ends) else 0, dtype=bool)
        ones[ends] = False
        yield _part({"rice": width}, np.packbits(ones).tobytes(), _narrow(gaps & ((1 << width) - 1), width))


def _values(name: str, stored: Array, half: bool) -> Iterator[Coded]:
    """What is stored: the values or, where there are few, their numbers."""
    kept = stored
    if stored.dtype == np.float32:
        yield from _numbered(stored)
    if half and stored.dtype.kind == "f" and stored.dtype.itemsize > 2:
        with np.errstate(over="ignore"):
            kept = stored.astype("<f2")
        if np.isinf(kept).any() and not np.isinf(stored).any():
            text = f"{name} has numbers up to {np.abs(stored).max():.4g}, which fp16 can't hold; leave out --half"
            raise ValueError(text)
    planes = np.ascontiguousarray(kept.view(np.uint8).reshape(len(kept), kept.dtype.itemsize).T)
    entry = {} if kept is stored else {"as": kept.dtype.str}
    yield _part(entry, planes[:-1].tobytes(), planes[-1:].tobytes())


def _numbered(stored: Array) -> Iterator[Coded]:
    """Values by their places in a table, where there are few."""
    values = np.unique(stored)
    if not 0 < len(values) <= MOST or np.isnan(values).any():
        return
    steps = grid(values)
    entry = {} if steps is None else {"step": steps[0], "codes": steps[1].tolist()}
    chunks = [values.astype("<f4").tobytes()] if steps is None else []
    places = np.searchsorted(values, stored).astype(np.uint16)
    least = max(1, (len(values) - 1).bit_length())
    for bits in sorted({least, 8 if least <= 8 else 16}):
        yield _part({"bits": bits, **entry}, *chunks, _narrow(places, bits))


def _part(entry: dict[str, Any], *chunks: bytes) -> Coded:
    """A part, each of its chunks compressed where that is smaller."""
    squeezed = [_squeezed(chunk) for chunk in chunks]
    lengths = (len(chunk) if one is None else -len(one) for one, chunk in zip(squeezed, chunks, strict=True))
    kept = (chunk if one is None else one for one, chunk in zip(squeezed, chunks, strict=True))
    return Coded(entry, tuple(kept), tuple(lengths))


def _squeezed(chunk: bytes) -> bytes | None:
    """A chunk compressed; None where that is no smaller, as a long one's beginning tells."""
    if len(chunk) > TRIED and _squeezed(chunk[:TRIED]) is None:
        return None
    found = lzma.compress(chunk, lzma.FORMAT_RAW, filters=[LZMA])
    return found if len(found) < len(chunk) else None


def _smallest(parts: Iterable[Coded]) -> Coded:
    return min(parts, key=lambda part: part.size)


def _narrow(numbers: Array, bits: int) -> bytes:
    """Numbers as so many bits each, the highest first."""
    columns = np.empty((len(numbers), bits), dtype=bool)
    for place in range(bits):
        columns[:, place] = numbers >> (bits - 1 - place) & 1
    return np.packbits(columns).tobytes()
