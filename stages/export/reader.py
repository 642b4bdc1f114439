"""Reads files of the format `sparse`. NumPy is all that it needs: copy it to wherever such a file is used."""

import hashlib
import json
import lzma
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

LZMA = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a file by all their names. Raises ValueError for a file that is not what was written."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:4] != b"dps1" or hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise ValueError(f"{path} is no sparse file, or it has changed since it was written: its sha256 differs")
    end = 8 + int.from_bytes(data[4:8], "little")
    head, found = json.loads(zlib.decompress(data[8:end])), {}
    for entry in head["tensors"]:
        chunks = []
        for length in entry["chunks"]:
            start, end = end, end + abs(length)
            chunk = data[start:end]
            chunks.append(chunk if length >= 0 else lzma.decompress(chunk, lzma.FORMAT_RAW, filters=[LZMA]))
        found[entry["name"]] = tensor(entry, iter(chunks))
    return found | {name: found[first] for name, first in head.get("same", {}).items()}


def tensor(entry: dict[str, Any], chunks: Iterator[bytes]) -> np.ndarray:
    """A tensor of its entry in the head and its chunks."""
    size, kind = math.prod(entry["shape"]), np.dtype(entry.get("type", "<f4"))
    count, stored, places = entry.get("count", size), np.dtype(entry.get("as", kind)), np.arange(size)
    if "mask" in entry:
        places = np.flatnonzero(numbers(next(chunks), 1, size))
    elif "rice" in entry:
        ends = np.flatnonzero(np.unpackbits(np.frombuffer(next(chunks), np.uint8)) == 0)[:count]
        zeros = ((np.diff(ends, prepend=-1) - 1) << entry["rice"]) + numbers(next(chunks), entry["rice"], count)
        places = np.cumsum(zeros + 1) - 1
    if "bits" in entry:
        table = np.array(entry["codes"]) * entry["step"] if "step" in entry else np.frombuffer(next(chunks), "<f4")
        values = table.astype(np.float32)[numbers(next(chunks), entry["bits"], count)]
    else:
        planes = np.frombuffer(next(chunks) + next(chunks), np.uint8).reshape(stored.itemsize, count)
        values = np.ascontiguousarray(planes.T).view(stored).reshape(count)
    whole = np.zeros(size, kind)
    whole[places] = values
    return np.reshape(whole, entry["shape"])


def numbers(chunk: bytes, bits: int, count: int) -> np.ndarray:
    """So many numbers of so many bits each, the highest bit first."""
    found = np.zeros(count, np.int64)
    for column in np.unpackbits(np.frombuffer(chunk, np.uint8))[: count * bits].reshape(count, bits).T:
        found = 2 * found + column
    return found
