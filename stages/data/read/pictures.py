"""Single pictures of any size: decoded, cropped and resized, as uint8. All that is random comes in as numbers.

Decoders, in pictures per second on one core of a shared machine (300 ImageNet pictures of short side 256, best of
three): simplejpeg 3,007, OpenCV 2,748, torchvision.io 2,654, PIL 2,069. Decoded and a crop resized to 224: simplejpeg
and torch's resize 1,962, simplejpeg and PIL's 1,127, PIL with `draft` 1,008. At a short side of 1,200, decoding at
reduced scale where the crop allows it is 1.4 times as fast as decoding all. simplejpeg is a wheel of one megabyte
that needs NumPy alone, gives PIL's very pixels and, of the fast ones, alone decodes at reduced scale: so simplejpeg,
and PIL for what is no plain JPEG. Decoding a random crop alone, by nvImageCodec 0.9 on the processor, gives the same
pixels in 226 us where simplejpeg decodes all in 260 us (another machine, 500 pictures), for a wheel that takes 67 MB:
a twelfth off a picture's whole way is not worth that.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dualprune.stages.data.order import Indices, hashed, hashed_for
from dualprune.stages.data.read.decoding import BadPicture, Header, check, decode, look, short
from dualprune.stages.settings.data import Data, RandAugment

Picture = NDArray[np.uint8]
"""Pixels [3, h, w], most often a view of interleaved ones: decoders and networks want them so."""
Box = tuple[int, int, int, int]
"""Top, left, height, width."""

ATTEMPTS = 10
"""At a random crop that lies within the picture, before the largest central one is taken."""


QUALITY = 90
"""Of a JPEG that is encoded anew, where none is asked for."""


_resize = torch.ops.aten._upsample_bilinear2d_aa.out
"""F.interpolate's own operation: it alone puts what it makes into its place, and it looks at less before."""
DOWN, ACROSS, MIRROR, OTHER = range(2 * ATTEMPTS, 2 * ATTEMPTS + 4)


def uniforms(seed: int, epoch: int, indices: Indices) -> NDArray[np.float64]:
    """What is random about each sample: numbers in [0, 1), [samples, 2 * ATTEMPTS + 4].

    Two for each attempt at a crop, then the crop's place down and across, the mirror, and a seed for `augmented`.
    """
    bits = hashed_for(seed, epoch, indices, range(16, 16 + 2 * ATTEMPTS + 4))
    numbers: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def crop_box(height: int, width: int, scale: list[float], ratio: list[float], random: NDArray[np.float64]) -> Box:
    """A crop of a random share of the area and a random ratio, at a random place, as torchvision's RandomResizedCrop.

    Inception's way (Szegedy et al. 2015, section 6): `scale` bounds the share, `ratio` width : height.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    numbers = random.tolist()
    for attempt in range(ATTEMPTS):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * numbers[2 * attempt])
        shape = math.exp(low + (high - low) * numbers[2 * attempt + 1])
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(numbers[DOWN] * (height - h + 1)), int(numbers[ACROSS] * (width - w + 1)), h, w
    h = min(height, max(1, round(width / ratio[0])))
    w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def flipped(random: NDArray[np.float64]) -> bool:
    """Whether a sample is mirrored."""
    return bool(random[MIRROR] < 0.5)


def augmented(picture: Picture, settings: RandAugment, random: NDArray[np.float64]) -> Picture:
    """A picture after operations drawn at random."""
    from torchvision.transforms import v2  # takes a second, and most runs don't need it

    way = v2.RandAugment(settings.operations, settings.magnitude)
    # torchvision draws from torch's generator, which is the network's for dropout: lend it, and give it back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(random[OTHER] * 2.0**53))
        changed: Picture = way(torch.from_numpy(np.ascontiguousarray(picture))).numpy()
    return changed


class Planned(NamedTuple):
    """An encoded picture that was looked at, and what a network is to see of it."""

    data: bytes
    crop: tuple[Header, Box] | None
    """A random one; None for one from the centre."""
    random: NDArray[np.float64] | None


def plan(data: bytes, wanted: Data, random: NDArray[np.float64] | None) -> Planned:
    """What of an encoded picture is to be seen in training, or in evaluation (`random` None). Raises BadPicture."""
    crop = None
    if random is not None and not wanted.shift:
        crop = training_crop(data, wanted.scale, wanted.ratio, random, wanted.max_pixels)
    return Planned(data, crop, random)


def make(planned: Planned, wanted: Data, place: Tensor) -> None:
    """Make a picture in its place (see `room`). Raises BadPicture."""
    data, crop, random = planned
    pixels = place.numpy()[0]
    if random is None:
        pixels[:] = central_crop(data, wanted.resize, wanted.crop, wanted.max_pixels)
        return
    if crop is None:
        shape = (wanted.resize, wanted.crop, wanted.shift)
        pixels[:] = shifted_crop(data, *shape, wanted.flip, random, wanted.max_pixels)
    else:
        make_crop(data, *crop, wanted.flip and flipped(random), place)
    if wanted.randaugment is not None:
        pixels[:] = augmented(pixels, wanted.randaugment, random)


def room(pictures: int, size: int) -> Tensor:
    """Where pictures can be made, [pictures, 3, size, size]: their pixels are interleaved, and mean nothing yet."""
    return torch.empty(pictures, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)


def training_crop(
    data: bytes, scale: list[float], ratio: list[float], random: NDArray[np.float64], most: int
) -> tuple[Header, Box]:
    """An encoded picture's header, and its random crop. Raises BadPicture, also for more than `most` pixels."""
    header = look(data, most)
    return header, crop_box(header.height, header.width, scale, ratio, random)


def make_crop(data: bytes, header: Header, box: Box, mirrored: bool, place: Tensor) -> None:
    """Make a crop of an encoded picture in its place (see `room`), of whose size it will be. Raises BadPicture.

    Resized with antialiasing; a JPEG is decoded at half its scale or less where the crop keeps its pixels then.
    """
    (top, left, h, w), size = box, place.shape[-1]
    height, width = header.height, header.width
    least = (math.ceil(size * height / h), math.ceil(size * width / w)) if min(h, w) >= 2 * size else None
    whole = decode(data, header, least)
    down, across = whole.shape[0] / height, whole.shape[1] / width
    top, left, h, w = int(top * down), int(left * across), int(h * down), int(w * across)
    # torch's resize would copy a part of a picture itself, and not as fast.
    crop = np.ascontiguousarray(whole[None, top : top + h, left : left + w])
    _resize(torch.from_numpy(crop).permute(0, 3, 1, 2), (size, size), False, out=place)
    if mirrored:
        place.copy_(place.flip(-1))


def cut(picture: Tensor, box: Box) -> Tensor:
    """What lies in the box, a view."""
    top, left, height, width = box
    return picture[:, top : top + height, left : left + width]


def resized(picture: Tensor, size: int) -> Tensor:
    """A picture [3, h, w] as [3, size, size], with antialiasing."""
    # Interleaved pixels take half the time if torch sees that they are: by the stride of a batch of one.
    batch = picture.permute(1, 2, 0).unsqueeze(0).permute(0, 3, 1, 2)
    return F.interpolate(batch, (size, size), mode="bilinear", antialias=True)[0]


def shifted_crop(
    data: bytes, resize: int, crop: int, shift: int, flip: bool, random: NDArray[np.float64], most: int
) -> Picture:
    """The same as `central_crop`, from up to `shift` pixels beside the centre, and mirrored at random if `flip`.

    What lies beside the picture is black. Raises BadPicture.
    """
    down, across = (int(random[which] * (2 * shift + 1)) - shift for which in (DOWN, ACROSS))
    picture = central_crop(data, resize, crop, most, (down, across))
    return picture[..., ::-1] if flip and flipped(random) else picture


def central_crop(data: bytes, resize: int, crop: int, most: int, beside: tuple[int, int] = (0, 0)) -> Picture:
    """The centre [3, crop, crop] of an encoded picture whose short side was made `resize` long. Raises BadPicture.

    From `beside` it by so many pixels down and across. The very pixels of torchvision's Resize and CenterCrop on PIL
    pictures, which the published accuracies are of.
    """
    header = look(data, most)
    size = _with_short_side(header.height, header.width, resize, most)
    picture = Image.fromarray(decode(data, header))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - crop) / 2) if side > crop else -((crop - side) // 2) for side in size)
    left, top = left + beside[1], top + beside[0]
    centre: Picture = np.asarray(picture.crop((left, top, left + crop, top + crop))).transpose(2, 0, 1)
    return centre


def packed(data: bytes, resize: int | None, quality: int | None, most: int, checked: bool = True) -> tuple[str, bytes]:
    """An encoded picture as it goes into a shard: `jpg` or `png`, and its bytes.

    JPEGs and PNGs stay as they are, decoded to see that they are whole if `checked`; other formats and deep greys
    become PNGs of 8 bits. With a short side longer than `resize`, or a `quality`, it is a JPEG of that quality (or 90)
    in colour, upright and resized as torchvision's Resize does. Raises BadPicture.
    """
    header = look(data, most)
    shrinks = resize is not None and min(header.height, header.width) > resize
    if not shrinks and quality is None and header.kind:
        if checked:
            check(data, header)
        return header.kind, data
    pixels = decode(data, header)
    if resize is not None and shrinks:
        size = _with_short_side(header.height, header.width, resize, most)
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    if not shrinks and quality is None:
        return "png", _png(pixels)
    try:
        return "jpg", simplejpeg.encode_jpeg(pixels, quality or QUALITY, colorsubsampling="420")
    except ValueError as error:  # too long a side
        raise BadPicture(short(error)) from None


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Grey if its colours are all grey: of a third of the size."""
    grey = pixels[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(grey if np.all(pixels == grey[..., None]) else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _with_short_side(height: int, width: int, length: int, most: int) -> tuple[int, int]:
    """Width and height of a picture whose short side is made `length` long, rounded as torchvision rounds them.

    Raises BadPicture for more than `most` pixels, which narrow ones come to.
    """
    short = min(height, width)
    size = (length, int(length * height / short)) if width <= height else (int(length * width / short), length)
    if size[0] * size[1] > most:
        resized = f"{size[0]} x {size[1]} pixels with its short side made {length} long"
        raise BadPicture(f"{width} x {height} pixels are {resized}, more than max_pixels ({most}) allows")
    return size


def moved(pictures: NDArray[np.uint8], wanted: Data, seed: int, epoch: int, indices: Indices) -> NDArray[np.uint8]:
    """Pictures of one shape [n, c, h, w] shifted and mirrored at random, each by (seed, epoch, its number) alone."""
    if wanted.shift:
        pictures = shifted(pictures, wanted.shift, hashed(seed, epoch, indices, purpose=1))
    if wanted.flip:
        mirrored = hashed(seed, epoch, indices, purpose=3) % np.uint64(2) == 1
        pictures = np.where(mirrored[:, None, None, None], pictures[..., ::-1], pictures)
    return pictures


def shifted(pictures: NDArray[np.uint8], most: int, bits: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Pictures moved by up to `most` pixels down and right, or up and left; what comes in is black."""
    choices = np.uint64(2 * most + 1)
    n, _, height, width = pictures.shape
    padded = np.pad(pictures, ((0, 0), (0, 0), (most, most), (most, most)))
    rows = (bits % choices).astype(np.int64)[:, None] + np.arange(height)
    columns = (bits // choices % choices).astype(np.int64)[:, None] + np.arange(width)
    moved = padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(moved.transpose(0, 3, 1, 2))
