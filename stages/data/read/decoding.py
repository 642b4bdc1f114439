"""Encoded pictures as 8-bit colour, whatever they are: the one place where bytes become pixels on a processor.

Plain JPEGs are decoded by simplejpeg, all others by PIL (see `pictures.py` for why). What counts as a picture, which
way up it is and how deep pixels become 8 bits is decided here, for shards that are made as for training.
"""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dualprune.stages.data.read.exif import UPRIGHT, orientation, sideways, turned

PLAIN = ("Gray", "YCbCr", "RGB")
"""Colours of JPEGs that simplejpeg makes RGB of."""
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
"""PIL's names of what is read, as far as it was built for them; of several pictures in a file, the first."""
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""PIL's names of greys of more than 8 bits, which its own conversion clips at 255."""


class BadPicture(ValueError):
    """Bytes that can't be made a picture of, and why."""


class Header(NamedTuple):
    """What an encoded picture says of itself before it is decoded."""

    height: int
    width: int
    """Both as it is to be seen, which is upright."""
    colours: str
    """Of a JPEG, by simplejpeg's names; empty for what simplejpeg can't read."""
    turn: int = UPRIGHT
    """Its EXIF orientation."""
    kind: str = ""
    """`jpg` or `png`, if other programs read its bytes right; empty for other formats, and for deep greys."""


def look(data: bytes, most: int) -> Header:
    """The header, before anything is decoded. Raises BadPicture, also for more than `most` pixels."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        colours = ""
    if colours in PLAIN:
        turn, kind = orientation(data), "jpg"
    else:
        with _opened(data) as picture:
            width, height = picture.size
            turn, kind = _turn(picture, data), _kind(picture)
    if height * width > most:
        raise BadPicture(f"{width} x {height} pixels are more than max_pixels ({most}) allows")
    if not height * width:
        raise BadPicture("it has no pixels")
    return Header(*((width, height) if sideways(turn) else (height, width)), colours, turn, kind)


def decode(data: bytes, header: Header, least: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """All pixels, upright, [h, w, 3]; of a plain JPEG, at the smallest scale that has `least` (height, width) of them.

    Raises BadPicture.
    """
    pixels = _stored(data, header, least)
    if header.turn == UPRIGHT:
        return pixels
    upright = turned(torch.from_numpy(pixels).permute(2, 0, 1), header.turn)
    seen: NDArray[np.uint8] = upright.permute(1, 2, 0).contiguous().numpy()
    return seen


def check(data: bytes, header: Header) -> None:
    """Raise BadPicture for what `decode` can't decode, in less time than that takes."""
    _stored(data, header, (1, 1))


def _stored(data: bytes, header: Header, least: tuple[int, int] | None) -> NDArray[np.uint8]:
    """All pixels as they are stored."""
    if header.colours in PLAIN:
        height, width = (least[::-1] if sideways(header.turn) else least) if least else (0, 0)
        # What libjpeg only warns of is an error here: PIL, after it, forgives some of that.
        with suppress(ValueError):
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                data, min_height=height, min_width=width, min_factor=2 if least else 1
            )
            return pixels
    with _opened(data) as picture, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is transparent, which no network sees
        try:
            return _scaled(picture) if picture.mode in DEEP else np.array(picture.convert("RGB"))
        except BadPicture:
            raise
        except Exception as error:  # noqa: BLE001 - PIL's plugins raise errors of every kind
            raise BadPicture(short(error)) from None


def _scaled(picture: Image.Image) -> NDArray[np.uint8]:
    """Deep greys as 8 bits of each colour: the upper 8 of 16, as PIL has 16-bit colours; 255 for a float's 1."""
    values = np.array(picture)
    bits = 16
    if picture.mode == "F":
        _within(values, 0, 1, "floating-point values", "from 0 to 1 are read, as black to white")
        grey = np.rint(values * 255)
    else:
        if picture.format == "TIFF":
            bits = _depth(picture, values)
        grey = values >> (bits - 8)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _depth(picture: Image.Image, values: NDArray) -> int:
    """The bits that a TIFF's greys are of. Raises BadPicture for what 32 bits can hold else."""
    if picture.mode != "I":
        said: tuple[int, ...] = getattr(picture, "tag_v2", {}).get(258, (16,))  # BitsPerSample: 12 or 16
        return said[0]
    read = "up to 65535 are read, as 16 bits, where some are above 255"
    _within(values, 0, 65535 if values.max() > 255 else 0, "whole numbers", read)
    return 16


def _within(values: NDArray, low: int, high: int, what: str, read: str) -> None:
    """Raise BadPicture for values beyond these bounds."""
    if not np.all((values >= low) & (values <= high)):  # NaN is not
        found = f"{what} from {np.nanmin(values):.6g} to {np.nanmax(values):.6g}"
        if np.isnan(values).any():
            found = f"{what}, and some of them are no numbers (NaN)"
        raise BadPicture(f"its pixels are {found}; {read}: save it as 8 or 16 bits")


def _turn(picture: Image.Image, data: bytes) -> int:
    if picture.format in ("JPEG", "MPO", "PNG"):
        return orientation(data)
    if picture.format == "TIFF":
        return UPRIGHT  # PIL turns it as it loads it
    with suppress(Exception):  # what it says can't be read, and so says nothing
        said = picture.getexif().get(0x0112, UPRIGHT)
        return said if said in range(1, 9) else UPRIGHT
    return UPRIGHT


def _kind(picture: Image.Image) -> str:
    if picture.format in ("JPEG", "MPO"):
        return "jpg"
    return "png" if picture.format == "PNG" and picture.mode not in DEEP else ""


def _opened(data: bytes) -> Image.Image:
    """By PIL, nothing decoded yet. Raises BadPicture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # whoever asks has a bound of their own
            return Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        raise BadPicture(_no_picture(data)) from None
    except Image.DecompressionBombError as error:
        raise BadPicture(f"it has more pixels than PIL opens: {error}") from None
    except Exception as error:  # noqa: BLE001 - PIL's plugins raise errors of every kind
        raise BadPicture(short(error)) from None


def _no_picture(data: bytes) -> str:
    """What there is instead of a picture, as far as the first bytes tell."""
    start = data[:512].lstrip().lower()
    if not data:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, and no picture; `git lfs pull` brings that"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page, and no picture"
    if not data.strip(b"\0"):
        return "it is zeros alone"
    others = ", ".join(_formats()[2:])
    return f"it is neither a JPEG nor a PNG that can be read, nor of another format that is ({others})"


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this PIL has: it takes no others."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def short(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {error}"
