"""Files in safetensors' form, tensor by tensor: the library has all of one in memory, when it writes twice or more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from dualprune.stages.files.folder import Folder

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""safetensors' names of types."""
KNOWN = {name: kind for kind, name in TYPES.items()}
PIECE = 32 << 20
"""Bytes that are read at a time, unless one tensor is longer: few answers of a bucket, and little memory."""


class Packed:
    """A file's bytes, in which each tensor has its place before it is there."""

    def __init__(self, entries: Iterable[tuple[str, Iterable[int], torch.dtype]]) -> None:
        """Of tensors by name, shape and type."""
        header, end = {}, 0
        for name, shape, kind in sorted(entries, key=lambda entry: (-entry[2].itemsize, entry[0])):
            sizes = list(shape)
            place = [end, end := end + torch.Size(sizes).numel() * kind.itemsize]
            header[name] = {"dtype": TYPES[kind], "shape": sizes, "data_offsets": place}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.data = bytearray(8 + len(text) + end)
        self.data[:8], self.data[8 : 8 + len(text)] = len(text).to_bytes(8, "little"), text
        self._places = {name: entry["data_offsets"] for name, entry in header.items()}
        self._view = torch.frombuffer(self.data, dtype=torch.uint8)[8 + len(text) :]

    def put(self, name: str, tensor: Tensor) -> None:
        """Copy a tensor, of any device, to its place."""
        first, last = self._places[name]
        self._view[first:last] = tensor.detach().contiguous().flatten().view(torch.uint8)


def unpacked(folder: Folder, path: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file whose names are `wanted`, in its order; so many at a time are in memory as make a piece.

    Raises FileNotFoundError.
    """
    length = int.from_bytes(folder.read(path, 0, 8), "little")
    header = json.loads(folder.read(path, 8, 8 + length))
    header.pop("__metadata__", None)
    entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    for piece in _pieces([entry for entry in entries if wanted(entry[0])]):
        begin = piece[0][1]["data_offsets"][0]
        data = bytearray(folder.read(path, 8 + length + begin, 8 + length + piece[-1][1]["data_offsets"][1]))
        for name, entry in piece:
            first, last = entry["data_offsets"]
            kind, shape = KNOWN[entry["dtype"]], entry["shape"]
            if first == last:
                yield name, torch.zeros(shape, dtype=kind)
            else:
                count = (last - first) // kind.itemsize
                yield name, torch.frombuffer(data, dtype=kind, count=count, offset=first - begin).view(shape)


def _pieces(entries: list[tuple[str, dict]]) -> Iterator[list[tuple[str, dict]]]:
    """Entries beside each other, together as long as a piece at most."""
    piece: list[tuple[str, dict]] = []
    for entry in entries:
        first, last = entry[1]["data_offsets"]
        if piece:
            begin, end = piece[0][1]["data_offsets"][0], piece[-1][1]["data_offsets"][1]
            if first != end or last - begin > PIECE:
                yield piece
                piece = []
        piece.append(entry)
    if piece:
        yield piece
