"""Samples in a tar file, WebDataset's way: which picture goes with which label, and what is none. Made from headers."""

from __future__ import annotations

import re
import sys
import tarfile
from contextlib import suppress
from typing import IO

import numpy as np

from dualprune.stages.data.make.labels import MOST, Labels, NoLabel, clue
from dualprune.stages.data.order import Indices
from dualprune.stages.data.read.decoding import BadPicture, look

_PICTURES = ("jpg", "jpeg", "png")
_UNREAD = ("avif", "bmp", "gif", "heic", "jp2", "pgm", "ppm", "tif", "tiff", "webp")
"""Ends of other pictures' names."""
BY_CLS = Labels()
LOOKED_AT = 32
"""Pictures of a shard whose size is looked at."""


def scan(file: IO[bytes], number: int, labels: Labels = BY_CLS) -> tuple[Indices, dict[str, str]]:
    """The index rows of tar file `number`, and why which keys are no samples. Raises tarfile.TarError if it is damaged.

    Nothing is ever unpacked; names that climb out of a folder are refused all the same.
    """
    found = _Found(labels)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            found.take(member, file)
        check_end(file, tar.offset)
    bad = found.all_bad()
    rows = [(number, *place, found.labels[key]) for key, place in found.places.items() if key not in bad]
    return np.array(rows, dtype=np.int64).reshape(-1, 4), bad


def short_sides(file: IO[bytes], rows: Indices) -> list[int]:
    """Of some of the pictures at these places in a tar file, the shorter side in pixels, as far as they can be read."""
    found = []
    for place in np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT), dtype=int):
        file.seek(int(rows[place, 1]))
        with suppress(BadPicture):
            header = look(file.read(int(rows[place, 2])), sys.maxsize)
            found.append(min(header.height, header.width))
    return found


def spread(sides: list[int]) -> list[int] | None:
    """The least, the median and the largest of them, for a manifest."""
    ordered = sorted(sides)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]] if ordered else None


def check_end(file: IO[bytes], offset: int) -> None:
    """Raise tarfile.TarError unless there is an end mark, and nothing after it."""
    file.seek(offset)
    if file.read(512) != bytes(512):
        # Python's tarfile takes what follows a damaged header, or nothing at all, for the end.
        raise tarfile.ReadError(f"it has no end mark after {offset} bytes")
    while rest := file.read(1 << 16):
        if rest.strip(b"\0"):
            more = "more follows; of files that were put together, write each as one of its own"
            raise tarfile.ReadError(f"it has an end mark after {offset} bytes, and {more}")


class _Found:
    """What a tar file has of samples, as it is gone through."""

    def __init__(self, where: Labels) -> None:
        self.where = where
        self.places: dict[str, tuple[int, int]] = {}
        self.labels: dict[str, int] = {}
        self.bad: dict[str, str] = {}
        self.no_label: dict[str, str] = {}
        """Why what stands where a label should is none."""
        self.others: dict[str, list[str]] = {}
        self.beside: dict[str, bytes] = {}
        """The beginning of the first file of each kind that is no picture and no label."""
        self.clues: dict[tuple[str, ...], str] = {}

    def take(self, member: tarfile.TarInfo, file: IO[bytes]) -> None:
        """Note a member of the tar file."""
        # WebDataset's rule: what follows the first dot of the file's name says what it is.
        found = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", member.name)
        key, kind = (found[1], found[2].lower()) if found else (member.name, "")
        is_label = kind == self.where.kind
        if member.name.startswith("/") or ".." in member.name.split("/"):
            self.bad[key] = "its path leads out of the folder"
        elif not is_label and kind not in _PICTURES:
            self.others.setdefault(key, []).append(kind)
            if member.isreg() and "." not in kind and kind not in self.beside and kind not in _UNREAD:
                self.beside[kind] = _read(file, member, MOST)
        elif not member.isreg():
            self.bad[key] = f"{member.name} is no plain file"
        elif key in (self.labels if is_label else self.places):
            self.bad[key] = "it is there more than once"
        elif is_label:
            try:
                self.labels[key] = self.where.read(_read(file, member, self.where.most))
            except NoLabel as error:
                self.labels[key], self.no_label[key] = -1, str(error)
        else:
            self.places[key] = (member.offset_data, member.size)

    def all_bad(self) -> dict[str, str]:
        """Why which keys are no samples."""
        places, labels, bad = self.places, self.labels, self.bad
        lacking = f"it has no label (.{self.where.kind})"
        bad |= {key: lacking + self._clue(key) for key in places if key not in labels and key not in bad}
        bad |= {key: "it has no picture" for key in labels if key not in places and key not in bad}
        bad |= {key: why + self._clue(key) for key, why in self.no_label.items() if key not in bad}
        for key, kinds in self.others.items():
            if key in places or key in labels or key in bad:
                continue
            pictures = [kind for kind in kinds if kind.rpartition(".")[2] in (*_PICTURES, *_UNREAD)]
            why = f"no picture or label of a kind that is read: {', '.join(kinds[:8])}{', ...' if kinds[8:] else ''}"
            # Where names have dots in them, one key stands for many samples.
            bad |= {key if len(pictures) == 1 else f"{key}.{kind}": why for kind in pictures}
        return bad

    def _clue(self, key: str) -> str:
        """Where the label of a sample may be, after what it lacks."""
        kinds = tuple(kind for kind in self.others.get(key, ()) if kind in self.beside)
        if kinds not in self.clues:
            found = clue([(kind, self.beside[kind]) for kind in kinds])
            self.clues[kinds] = f"; {found}" if found else ""
        return self.clues[kinds]


def _read(file: IO[bytes], member: tarfile.TarInfo, most: int) -> bytes:
    file.seek(member.offset_data)
    return file.read(min(member.size, most))
