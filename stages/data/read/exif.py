"""Which way up a picture is: the EXIF orientation of JPEGs and PNGs, and its effect.

Decoders differ: simplejpeg and nvJPEG take no notice of it, others can be told to. So it is read from the bytes here,
and applied to pixels here, whoever decoded them.
"""

from __future__ import annotations

from torch import Tensor

PNG = b"\x89PNG"
"""What the bytes of a PNG begin with."""
UPRIGHT = 1
"""The orientation of pixels that are stored as they are seen."""
_NAME = b"Exif\0\0"
_TAG, _LONG = 0x0112, 4


def orientation(data: bytes) -> int:
    """What the EXIF block of a JPEG or PNG says: 1 to 8, and `UPRIGHT` where it says nothing that can be read."""
    return _said(_of_png(data) if data.startswith(PNG) else _of_jpeg(data))


def sideways(turn: int) -> bool:
    """Whether height and width change places."""
    return turn > 4


def turned(picture: Tensor, turn: int) -> Tensor:
    """A picture [..., h, w] as it is to be seen, of its stored pixels and its orientation."""
    if sideways(turn):
        picture = picture.transpose(-1, -2)
    flips = [dim for dim, turns in ((-1, (2, 3, 6, 7)), (-2, (3, 4, 7, 8))) if turn in turns]
    return picture.flip(flips) if flips else picture


def _of_jpeg(data: bytes) -> bytes:
    """The EXIF block among the segments before a JPEG's pixels; empty if there is none."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == 0xDA or size < 2:
            break
        if marker == 0xE1 and data[at + 4 : at + 10] == _NAME:
            return data[at + 10 : at + 2 + size]
        at += 2 + size
    return b""


def _of_png(data: bytes) -> bytes:
    """The EXIF chunk of a PNG, wherever it is; empty if there is none."""
    at = 8
    while len(kind := data[at + 4 : at + 8]) == 4:
        size = int.from_bytes(data[at : at + 4], "big")
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + size].removeprefix(_NAME)
        at += 12 + size
    return b""


def _said(block: bytes) -> int:
    """The orientation in an EXIF block, which is a TIFF file's beginning."""
    if block[:2] not in (b"II", b"MM"):
        return UPRIGHT
    little = block[:2] == b"II"

    def number(at: int, size: int) -> int:
        return int.from_bytes(block[at : at + size], "little" if little else "big")

    start = number(4, 4)
    for at in range(start + 2, min(start + 2 + 12 * number(start, 2), len(block)), 12):
        if number(at, 2) == _TAG:
            value = number(at + 8, 4 if number(at + 2, 2) == _LONG else 2)
            return value if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT
