"""The file format `sparse`: tensors of few values or many zeros, packed to their bits. NumPy alone.

    4 bytes   b"dps1"
    4 bytes   length of the head, little-endian
    head      zlib-compressed JSON: {"tensors": [...], "same": {NAME: NAME OF ANOTHER}, "about": {...}}
    chunks    of each tensor in turn, those that its entry names, in this order: gaps or mask, values, table
    32 bytes  sha256 of all before

A tensor's entry has `name`, `shape`, `type` (NumPy's, little-endian), `count` (how many of its values are stored) and
the lengths of its chunks. A chunk whose length is negative is LZMA-compressed (raw, with the filter `FILTERS`).

    places    `all`: every entry is stored. `mask`: a bit an entry, 1 where one is stored. `rice`: the number of zeros
              before each stored entry, in row-major order, is q 2^r + s (Rice 1971): a chunk has q ones and a zero for
              each, the next one s in `rice` = r bits each
    values    `bits` = b: numbers of b bits, the values' places in the table; else the values themselves in type `as`,
              the first bytes of all, then the second ones, ...
    table     `step` and `codes`: values are fp32(step * code); else a chunk of fp32 values, sorted

Bits are in the order of np.packbits. Each tensor has those codings that are the smallest for it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualprune.stages.export.grid import grid

MAGIC = b"dps1"
FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 24, "lc": 0, "lp": 0, "pb": 0}]
MOST = 4096
"""Different values of a tensor up to which they are numbered."""
WIDEST = 24
"""Bits of a gap's remainder, at most."""

Array = NDArray[Any]


class Unreadable(ValueError):
    """A file that is no `sparse` file, or not what was written."""


class Coded(NamedTuple):
    """A part of a tensor: what its entry says of it, and its chunks."""

    entry: dict[str, Any]
    chunks: list[bytes]
    lengths: list[int]

    @property
    def size(self) -> int:
        """Bytes, about: of the chunks, and a few for each."""
        return sum(map(len, self.chunks)) + 4 * len(self.chunks) + 2 * len(self.entry)


def pack(
    tensors: Mapping[str, Array], same: Mapping[str, str] | None = None, about: Any = None, half: bool = False
) -> bytes:
    """Tensors as the bytes of a file. `same` are further names of some; `half` stores what is not shared as fp16.

    Raises ValueError for types that NumPy does not write and numbers that fp16 can't hold.
    """
    entries, chunks = [], []
    for name, tensor in tensors.items():
        entry, own = _coded(name, np.asarray(tensor), half)
        entries.append(entry)
        chunks += own
    head = zlib.compress(_json({"tensors": entries, "same": dict(same or {}), "about": about or {}}), 9)
    body = b"".join([MAGIC, len(head).to_bytes(4, "little"), head, *chunks])
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes) -> dict[str, Array]:
    """The tensors of a file, all their names among them. Raises Unreadable for one that is not what was written."""
    head, rest = opened(data)
    at = 0

    def chunk(length: int) -> bytes:
        nonlocal at
        at += abs(length)
        piece = rest[at - abs(length) : at]
        return piece if length >= 0 else lzma.decompress(piece, lzma.FORMAT_RAW, filters=FILTERS)

    found = {}
    for entry in head["tensors"]:
        found[entry["name"]] = _decoded(entry, [chunk(length) for length in entry["chunks"]])
    return found | {name: found[first] for name, first in head["same"].items()}


def opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The head and the chunks of a file. Raises Unreadable."""
    if data[:4] != MAGIC:
        raise Unreadable(f"this is no sparse file of dualprune's: it begins with {data[:4]!r}, not {MAGIC!r}")
    body, digest = data[:-32], data[-32:]
    if hashlib.sha256(body).digest() != digest:
        raise Unreadable("this sparse file has changed since it was written, or is cut short: its sha256 differs")
    end = 8 + int.from_bytes(body[4:8], "little")
    head: dict[str, Any] = json.loads(zlib.decompress(body[8:end]))
    return head, body[end:]


def _coded(name: str, tensor: Array, half: bool) -> tuple[dict[str, Any], list[bytes]]:
    """A tensor's entry and chunks: the smallest of what there is."""
    tensor = np.ascontiguousarray(tensor)
    if tensor.dtype.kind not in "fiub":
        raise ValueError(f"{name} is of type {tensor.dtype}, which the format sparse does not have")
    flat = tensor.reshape(-1).astype(tensor.dtype.newbyteorder("<"), copy=False)
    there = np.flatnonzero(flat)
    ways = [(Coded({"places": "all"}, [], []), _smallest(_values(name, flat, half)))]
    if len(there) < flat.size and not np.signbit(flat[flat == 0]).any():
        ways.append((_smallest(_places(flat, there)), _smallest(_values(name, flat[there], half))))
    places, values = min(ways, key=lambda way: way[0].size + way[1].size)
    count = flat.size if places.entry["places"] == "all" else len(there)
    entry = {"name": name, "shape": list(tensor.shape), "type": flat.dtype.str, "count": count}
    lengths = [*places.lengths, *values.lengths]
    return {**entry, **places.entry, **values.entry, "chunks": lengths}, [*places.chunks, *values.chunks]


def _places(flat: Array, there: Array) -> Iterable[Coded]:
    """Where the stored entries are."""
    yield _part({"places": "mask"}, np.packbits(flat != 0).tobytes())
    gaps = np.diff(there, prepend=-1) - 1
    likely = int(math.log2(gaps.mean() + 1)) if len(gaps) else 0
    for width in range(max(0, likely - 1), min(WIDEST, likely + 2)):
        quotients, rest = gaps >> width, gaps & ((1 << width) - 1)
        unary = np.ones(int(quotients.sum()) + len(gaps), dtype=bool)
        unary[np.cumsum(quotients + 1) - 1] = False
        yield _part({"places": "rice", "rice": width}, np.packbits(unary).tobytes(), _narrow(rest, width))


def _values(name: str, stored: Array, half: bool) -> Iterable[Coded]:
    """What is stored there: themselves or, where they are few, numbered."""
    floating = stored.dtype.kind == "f"
    values = np.unique(stored) if floating and not np.isnan(stored).any() else stored
    if floating and len(values) <= MOST and stored.dtype.itemsize == 4 and not np.signbit(values[values == 0]).any():
        yield from _numbered(stored, values)
    kept = stored
    if half and floating and stored.dtype.itemsize > 2:
        kept = stored.astype("<f2")
        if np.isinf(kept).any() and not np.isinf(stored).any():
            raise ValueError(f"{name} has numbers that fp16 can't hold (up to {np.abs(stored).max():.4g}): leave out half")
    planes = kept.view(np.uint8).reshape(-1, kept.dtype.itemsize).T.tobytes()
    yield _part({"as": kept.dtype.str}, planes)


def _numbered(stored: Array, values: Array) -> Iterable[Coded]:
    """Values by their places in a table of them."""
    least = max(1, (len(values) - 1).bit_length())
    steps = grid(values)
    table = {"step": steps[0], "codes": [int(code) for code in steps[1]]} if steps is not None else {}
    chunks = [] if steps is not None else [values.astype("<f4").tobytes()]
    places = np.searchsorted(values, stored)
    for bits in sorted({least, 8 if least <= 8 else 16}):
        yield _part({"bits": bits, **table}, _narrow(places, bits), *chunks)


def _decoded(entry: Mapping[str, Any], chunks: list[bytes]) -> Array:
    """A tensor of its entry and chunks."""
    size, count, kind = math.prod(entry["shape"]), entry["count"], np.dtype(entry["type"])
    left = iter(chunks)
    there: Any = slice(None)
    if entry["places"] == "mask":
        there = np.flatnonzero(_bits(next(left))[:size])
    elif entry["places"] == "rice":
        quotients = np.diff(np.flatnonzero(_bits(next(left)) == 0)[:count], prepend=-1) - 1
        there = np.cumsum((quotients << entry["rice"]) + _wide(next(left), entry["rice"], count) + 1) - 1
    if "bits" in entry:
        places = _wide(next(left), entry["bits"], count)
        table = np.array(entry["codes"]) * entry["step"] if "step" in entry else np.frombuffer(next(left), "<f4")
        values = table.astype(np.float32)[places]
    else:
        planes = np.frombuffer(next(left), np.uint8).reshape(-1, count)
        values = np.ascontiguousarray(planes.T).view(entry["as"]).reshape(-1)
    tensor = np.zeros(size, kind)
    tensor[there] = values
    return tensor.reshape(entry["shape"])


def _part(entry: dict[str, Any], *chunks: bytes) -> Coded:
    """A part with each of its chunks as it is or compressed, whatever is smaller."""
    squeezed = [lzma.compress(chunk, lzma.FORMAT_RAW, filters=FILTERS) for chunk in chunks]
    smaller = [len(one) < len(chunk) for one, chunk in zip(squeezed, chunks, strict=True)]
    kept = [one if less else chunk for one, chunk, less in zip(squeezed, chunks, smaller, strict=True)]
    return Coded(entry, kept, [-len(one) if less else len(one) for one, less in zip(kept, smaller, strict=True)])


def _smallest(parts: Iterable[Coded]) -> Coded:
    return min(parts, key=lambda part: part.size)


def _narrow(numbers: Array, bits: int) -> bytes:
    """Numbers as so many bits each, the highest first."""
    if bits in (8, 16):
        return numbers.astype(f">u{bits // 8}").tobytes()
    wide = (numbers[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(wide.astype(bool)).tobytes()


def _wide(data: bytes, bits: int, count: int) -> Array:
    """The numbers that `_narrow` has packed."""
    powers = 1 << np.arange(bits - 1, -1, -1)
    numbers: Array = _bits(data)[: count * bits].reshape(count, bits) @ powers.astype(np.int64)
    return numbers


def _bits(data: bytes) -> Array:
    return np.unpackbits(np.frombuffer(data, np.uint8))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
