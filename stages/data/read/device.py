"""Training crops of JPEGs that are decoded where the network is: many at a time, by nvJPEG where that is a GPU.

The loader's processes read the bytes, look at the headers and draw the crops. torchvision decodes, with libjpeg where
the device is a processor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualprune.stages.data.order import Indices
from dualprune.stages.data.read.decoding import Header
from dualprune.stages.data.read.exif import turned
from dualprune.stages.data.read.pictures import Box, cut, resized

COLOURS = ("Gray", "YCbCr")
"""Of JPEGs that are decoded on a device; nvJPEG takes no CMYK, and what is stored as RGB for YCbCr."""
SHRINKING = 32
"""Times that a crop is made smaller there, at most: a GPU's resize has only so much memory for each pixel's sources."""
AT_ONCE = 1 << 27
"""Pixels that are decoded together, about: three bytes each."""


class Jpeg(NamedTuple):
    """An encoded picture, and the crop that is to be made of it."""

    place: int
    """In its micro-batch."""
    data: bytes
    header: Header
    box: Box
    mirrored: bool


class Jpegs(NamedTuple):
    """Encoded pictures in few pieces, as they go from process to process."""

    places: Indices
    data: Tensor
    """The bytes of all, one after the other."""
    sizes: list[int]
    pixels: Indices
    turns: list[int]
    """Their EXIF orientations, which are applied before their boxes are cut out."""
    boxes: Indices
    mirrored: NDArray[np.bool_]


def suits(header: Header, box: Box, size: int) -> bool:
    """Whether a crop of `size` can be made on a device."""
    return header.colours in COLOURS and max(box[2:]) <= SHRINKING * size


def packed(jpegs: Sequence[Jpeg]) -> Jpegs:
    """All of them together."""
    return Jpegs(
        np.array([jpeg.place for jpeg in jpegs], dtype=np.int64),
        _bytes(b"".join(jpeg.data for jpeg in jpegs)),
        [len(jpeg.data) for jpeg in jpegs],
        np.array([jpeg.header.height * jpeg.header.width for jpeg in jpegs], dtype=np.int64),
        [jpeg.header.turn for jpeg in jpegs],
        np.array([jpeg.box for jpeg in jpegs], dtype=np.int64).reshape(-1, 4),
        np.array([jpeg.mirrored for jpeg in jpegs], dtype=bool),
    )


class Decoder:
    """torchvision's decoder on a device. Raises ValueError if there is none."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # Beside the training's: the next batch is decoded while the network is at work on this one.
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        try:
            self._decode([_bytes(simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)))])
        except (ImportError, RuntimeError) as error:
            raise ValueError(f"torchvision can't decode JPEGs on {device} ({error}); set data.decode to cpu") from None

    def crops(self, jpegs: Jpegs, size: int) -> tuple[Tensor, NDArray[np.bool_]]:
        """Crops, fp32 [n, size, size, 3] of 0 to 255, on the device; and which could be decoded, the others being 0."""
        with torch.cuda.stream(self.stream):
            pictures = torch.zeros(len(jpegs.sizes), size, size, 3, device=self.device)
            good = np.zeros(len(jpegs.sizes), dtype=bool)
            encoded = jpegs.data.split(jpegs.sizes)
            for group in _groups(jpegs.pixels):
                decoded = self._those_that_can([encoded[number] for number in group])
                for number, picture in zip(group, decoded, strict=True):
                    if picture is not None:
                        top, left, height, width = jpegs.boxes[number].tolist()
                        upright = turned(picture, jpegs.turns[number])
                        crop = resized(cut(upright, (top, left, height, width)).float(), size)
                        pictures[number] = (crop.flip(-1) if jpegs.mirrored[number] else crop).permute(1, 2, 0)
                        good[number] = True
        if self.stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            pictures.record_stream(current)
        return pictures, good

    def _those_that_can(self, encoded: list[Tensor]) -> list[Tensor | None]:
        """Pictures, decoded together or, if that fails, by halves; None for each that fails alone."""
        try:
            return list(self._decode(encoded))
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            if len(encoded) == 1:
                return [None]
        half = len(encoded) // 2
        return self._those_that_can(encoded[:half]) + self._those_that_can(encoded[half:])

    def _decode(self, encoded: list[Tensor]) -> list[Tensor]:
        """Pictures, uint8 [3, h, w]."""
        from torchvision.io import ImageReadMode, decode_jpeg  # takes a second, and most runs don't need it

        if self.device.type == "cuda":
            # nvJPEG writes on a stream of its own that waits for no other, into memory that was this one's.
            torch.cuda.current_stream(self.device).synchronize()
        pictures: list[Tensor] = decode_jpeg(encoded, ImageReadMode.RGB, self.device)
        return pictures


def _bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))


def _groups(pixels: Indices) -> Iterator[list[int]]:
    """Numbers of pictures in groups of about `AT_ONCE` pixels."""
    of = np.cumsum(pixels) // AT_ONCE
    return (np.flatnonzero(of == group).tolist() for group in np.unique(of))
