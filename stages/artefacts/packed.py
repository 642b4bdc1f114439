"""Files in safetensors' form, tensor by tensor: the library has all of one in memory, when it writes twice or more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from queue import Queue

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
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.complex64: "C64",
}
"""safetensors' names of types."""
KNOWN = {name: kind for kind, name in TYPES.items()}
PIECE = 32 << 20
"""Bytes that are read at a time, unless one tensor is longer: few answers of a bucket, and little memory."""
WRITTEN = 8 << 20
"""Bytes that are written at a time."""

Entry = tuple[str, Iterable[int], torch.dtype]
"""A tensor's name, shape and type."""


def place(name: str, kind: torch.dtype) -> tuple[int, str]:
    """Where a tensor of a file comes among the others: safetensors has wide types first, for their alignment."""
    return -kind.itemsize, name


def header(entries: Iterable[Entry]) -> tuple[bytes, int]:
    """A file's first bytes, before those of its tensors in the order of `place`, and how long it is in all."""
    told, end = {}, 0
    for name, shape, kind in sorted(entries, key=lambda entry: place(entry[0], entry[2])):
        sizes = list(shape)
        offsets = [end, end := end + torch.Size(sizes).numel() * kind.itemsize]
        told[name] = {"dtype": TYPES[kind], "shape": sizes, "data_offsets": offsets}
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + end


class Broken(RuntimeError):
    """Whoever brought a file's bytes did not bring all."""


class Pieces:
    """A file's bytes on their way from the thread that brings them to the one that writes them, in pieces.

    `length` of them in all. At most `most` are copied and not yet written, or two pieces; who brings more waits.
    """

    def __init__(self, length: int, most: int) -> None:
        self._length, self._left = length, length
        self._queue: Queue[tuple[Tensor, int] | None] = Queue()
        self._arriving = iter(self._queue.get, None)
        self._idle: Queue[Tensor] = Queue()
        self._more = max(2, most // WRITTEN)
        """Pieces that may still be made."""
        self._filled = 0

    def put(self, values: Tensor) -> None:
        """Copy what follows: a tensor of any type and device."""
        flat, begin = values.detach().resolve_conj().contiguous().flatten().view(torch.uint8), 0
        while begin < len(flat):
            if not self._filled:
                self._piece = self._empty()
            count = min(len(flat) - begin, len(self._piece) - self._filled)
            self._piece[self._filled : self._filled + count] = flat[begin : begin + count]
            self._filled, begin = self._filled + count, begin + count
            if self._filled == min(len(self._piece), self._left):
                self._queue.put((self._piece, self._filled))
                self._left, self._filled = self._left - self._filled, 0

    def _empty(self) -> Tensor:
        if self._more and self._idle.empty():
            self._more -= 1
            # Of the system's own, which has it back at once: freed memory is kept (engine.allocator).
            return torch.frombuffer(mmap(-1, WRITTEN, MAP_PRIVATE | MAP_ANONYMOUS), dtype=torch.uint8)
        return self._idle.get()

    def end(self) -> None:
        """No more comes."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[memoryview]:
        """Each piece in turn, till the next is asked for. Raises Broken if the end comes too early."""
        left = self._length
        for piece, count in self._arriving:
            left -= count
            yield piece[:count].numpy().data
            self._idle.put(piece)
        if left:
            raise Broken(f"{left} bytes of {self._length} were not brought")

    def drop(self) -> None:
        """Take what is still to come, so that who brings it does not wait for ever."""
        for piece, _ in self._arriving:
            self._idle.put(piece)


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
