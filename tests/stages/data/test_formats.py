"""What people call a picture: formats, deep greys, EXIF orientation, and files that are none. One rule in all paths."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn import functional as F

from dualprune.stages.data.read.decoding import BadPicture, check, decode, look
from dualprune.stages.data.read.device import Decoder, Jpeg
from dualprune.stages.data.read.device import packed as together
from dualprune.stages.data.read.exif import orientation
from dualprune.stages.data.read.pictures import central_crop, crop_box, flipped, packed, training_crop, uniforms
from dualprune.stages.data.read.reading import Job
from tests.stages.conftest import jpeg, jpegs, pairs
from tests.stages.data.test_pictures import MOST, RATIO, SCALE, random_crop
from tests.stages.data.test_stream import CPU, opened, written

WHOLE = [1.0, 1.0]
RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
"""All of 16 bits: its upper 8 bits are what a picture of it looks like."""
SEEN = (RAMP >> 8).astype(np.uint8)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def tagged(turn: int, kind: str = "JPEG", height: int = 60, width: int = 84) -> bytes:
    """A picture with strokes that say which way up it is, and an EXIF orientation."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 4] = (250, 20, 20)
    pixels[: height // 5] = (20, 20, 250)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", turn
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return saved(Image.fromarray(pixels), kind, exif=exif, **options)


def upright(data: bytes) -> np.ndarray:
    """What PIL shows a user."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def plainly(data: bytes, size: int, random: NDArray[np.float64]) -> torch.Tensor:
    """A picture as it is seen in training, [size, size, 3], each step by itself and with memory of its own."""
    picture = Image.open(io.BytesIO(data))
    turn = picture.getexif().get(0x0112, 1)
    pixels = upright(data)
    height, width = pixels.shape[:2]
    top, left, h, w = crop_box(height, width, SCALE, RATIO, random)
    if picture.format == "JPEG" and picture.mode != "CMYK" and min(h, w) >= 2 * size:
        least = math.ceil(size * height / h), math.ceil(size * width / w)
        high, wide = least[::-1] if turn > 4 else least
        stored = Image.fromarray(simplejpeg.decode_jpeg(data, min_height=high, min_width=wide, min_factor=2))
        stored.getexif()[0x0112] = turn
        pixels = np.asarray(ImageOps.exif_transpose(stored))
    down, across = pixels.shape[0] / height, pixels.shape[1] / width
    part = pixels[int(top * down) :, int(left * across) :][: int(h * down), : int(w * across)]
    batch = torch.from_numpy(part.copy()).permute(2, 0, 1)[None].contiguous()
    made = F.interpolate(batch, (size, size), mode="bilinear", antialias=True)[0]
    return (made.flip(-1) if flipped(random) else made).permute(1, 2, 0)


def far(one: np.ndarray, other: np.ndarray) -> float:
    """The mean difference of pictures of one shape."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_seen_upright(turn: int, kind: str) -> None:
    """Whoever decodes it, at whatever scale; for evaluation, training and a shard of smaller or other pictures."""
    data = tagged(turn, kind)
    seen = upright(data)
    assert seen.shape[:2] == ((84, 60) if turn > 4 else (60, 84))
    header = look(data, MOST)
    assert (header.height, header.width) == seen.shape[:2]
    assert far(decode(data, header), seen) < 1
    for size in (20, 60):
        centre = central_crop(data, size, size, MOST).transpose(1, 2, 0)
        expected = central_crop(saved(Image.fromarray(seen), "PNG"), size, size, MOST).transpose(1, 2, 0)
        assert far(centre, expected) < 2
    for options in ((30, None), (None, 95)):
        kept, made = packed(data, *options, MOST)
        assert kept == "jpg"
        assert orientation(made) == 1
        expected = Image.fromarray(seen)
        if options[0]:
            expected = expected.resize((30, 42) if turn > 4 else (42, 30), Image.Resampling.BILINEAR)
        assert far(np.asarray(Image.open(io.BytesIO(made))), np.asarray(expected)) < 6
    kept, made = packed(data, None, None, MOST)
    assert (made == data) == (kind in ("JPEG", "PNG"))
    assert far(decode(made, look(made, MOST)), seen) < 1


def test_training_has_the_pixels_of_each_step_done_by_itself(tmp_path: Path) -> None:
    """Of all kinds together, with bad ones among them: to the bit, wherever in a micro-batch a picture is."""
    samples = [*jpegs(20), *((tagged(turn, height=300, width=420), 0) for turn in range(1, 9))]
    samples += [(jpeg(90, 70, 5, "L"), 0), (jpeg(90, 70, 6, "CMYK"), 1), (jpeg(90, 71, 7, "RGBA", "PNG"), 2)]
    samples += [(tagged(6, "PNG"), 0), (jpeg(300, 300, 8)[:-100], 0), (b"bad", 0)]
    data = opened(written(tmp_path, samples), crop=40, resize=40, bad=0.1, mean=[0.5, 0.4, 0.3], std=[0.5, 0.25, 1.0])
    for part in np.split(data.order(1), [20, 25]):
        loaded, random = data.pictures.load(Job(part, 1)), uniforms(3, 1, part)
        good = [n for n, sample in enumerate(part) if sample < len(samples) - 2]
        assert len(loaded.bad) == len(part) - len(good)
        for n, picture in enumerate(loaded.pictures):
            seen = n if n in good else good[0]  # the first good one stands in for a bad one
            assert torch.equal(picture, plainly(samples[part[seen]][0], 40, random[seen])), part[n]
        ((x, _),) = pairs(data.epoch([part], 1))
        expected = (loaded.pictures / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.5, 0.25, 1.0])
        torch.testing.assert_close(x, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("turn", [3, 5, 6, 8])
def test_a_training_crop_is_of_the_upright_picture_on_any_decoder(turn: int) -> None:
    """The same box, on a processor at full and at reduced scale, and where a device decodes."""
    data = tagged(turn, height=600, width=840)
    plain = saved(Image.fromarray(upright(data)), "PNG")
    for random in uniforms(3, 1, np.arange(4)):
        for scale in ([0.2, 0.4], WHOLE):
            header, box = training_crop(data, scale, RATIO, random, MOST)
            assert box == training_crop(plain, scale, RATIO, random, MOST)[1]
            expected = random_crop(plain, 50, scale, RATIO, False, random, MOST)
            assert far(random_crop(data, 50, scale, RATIO, False, random, MOST), expected) < 5  # edges are sharp
            crops, good = Decoder(CPU).crops(together([Jpeg(0, data, header, box, False)]), 50)
            assert good.all()
            assert far(crops[0].permute(2, 0, 1).numpy(), expected) < 5


def test_a_stream_has_one_rule_for_both_decoders(tmp_path: Path) -> None:
    samples = [(tagged(turn), turn % 3) for turn in range(1, 9)]
    url = written(tmp_path, samples)
    plain, data = (opened(url, crop=40, resize=60, decode=decode) for decode in ("cpu", "device"))
    ((x, _),), ((y, _),) = (pairs(stream.epoch([np.arange(8)], 1)) for stream in (plain, data))
    assert float((x - y).abs().max()) <= 1.5 / 255
    ((x, _),) = pairs(plain.evaluation([np.arange(8)]))
    sideways = central_crop(samples[5][0], 60, 40, MOST)
    assert torch.equal((x[5] * 255).round().to(torch.uint8), torch.from_numpy(sideways.copy()))


@pytest.mark.parametrize("first", [b"http://ns.adobe.com/xap/1.0/\0<x/>", b"Photoshop 3.0\0" + bytes(99)])
def test_what_stands_before_the_exif_block_is_passed(first: bytes) -> None:
    """XMP is a segment of the same kind."""
    data = tagged(6)
    segment = b"\xff\xe1" + (len(first) + 2).to_bytes(2, "big") + first
    assert orientation(data[:2] + segment + data[2:]) == 6
    assert orientation(data[:2] + b"\xff\xff" + segment[1:] + data[2:]) == 6


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",
        b"no TIFF at all",
    ],
)
def test_an_exif_block_that_is_broken_says_nothing(block: bytes) -> None:
    plain = jpeg(30, 40, 0)
    segment = b"Exif\0\0" + block
    data = plain[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + plain[2:]
    assert orientation(data) == 1
    assert np.array_equal(central_crop(data, 30, 30, MOST), central_crop(plain, 30, 30, MOST))
    for cut in range(0, 60, 7):
        assert orientation(tagged(6)[:cut]) == 1
        assert orientation(tagged(6, "PNG")[:cut]) in (1, 6)


def deep(kind: str) -> bytes:
    """The ramp in a format that holds more than 8 bits."""
    big = RAMP.astype(">u2").tobytes()
    if kind == "PGM":
        return b"P5 64 64 65535\n" + big
    if kind == "TIFF, big-endian":
        return saved(Image.frombytes("I;16B", (64, 64), big), "TIFF")
    if kind == "TIFF, 32 bits":
        return saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF")
    if kind == "TIFF, float":
        return saved(Image.fromarray(SEEN.astype(np.float32) / 255), "TIFF")
    return saved(Image.fromarray(RAMP), kind)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, big-endian", "TIFF, 32 bits", "TIFF, float", "PGM", "JPEG2000"])
def test_deep_greys_are_scaled_and_not_clipped(kind: str) -> None:
    """In shards of 8 bits, and where they are read as they are."""
    data = deep(kind)
    expected = np.repeat(SEEN[..., None], 3, axis=2)
    header = look(data, MOST)
    assert header.kind == ""
    np.testing.assert_array_equal(decode(data, header), expected)
    np.testing.assert_array_equal(central_crop(data, 64, 64, MOST).transpose(1, 2, 0), expected)
    kept, made = packed(data, None, None, MOST)
    assert kept == "png"
    with Image.open(io.BytesIO(made)) as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), SEEN)
    kept, made = packed(data, 32, None, MOST)
    assert kept == "jpg"
    assert far(np.asarray(Image.open(io.BytesIO(made)).convert("L").resize((64, 64))), SEEN) < 6


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.full((4, 4), 200.0, np.float32), "floating-point values from 200 to 200; from 0 to 1 are read"),
        (np.full((4, 4), -0.5, np.float32), "floating-point values from -0.5 to -0.5"),
        (np.full((4, 4), np.nan, np.float32), r"floating-point values, and some of them are no numbers \(NaN\)"),
        (np.full((4, 4), 200, np.int32), "whole numbers from 200 to 200; up to 65535 are read"),
        (np.full((4, 4), 70_000, np.int32), "whole numbers from 70000 to 70000"),
        (np.array([[-1, 400]], np.int32), "whole numbers from -1 to 400"),
    ],
)
def test_deep_greys_of_no_known_white_are_refused(pixels: np.ndarray, said: str) -> None:
    """Rather than be black or white all over."""
    data = saved(Image.fromarray(pixels), "TIFF")
    with pytest.raises(BadPicture, match=said):
        packed(data, None, None, MOST)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_other_formats_become_png(kind: str) -> None:
    """Of the very pixels that PIL has, or JPEG if that is asked for."""
    picture = Image.open(io.BytesIO(jpeg(40, 50, 1)))
    data = saved(picture, kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    kept, made = packed(data, None, None, MOST)
    assert kept == "png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(made))), expected)
    assert packed(data, None, 80, MOST)[0] == "jpg"
    np.testing.assert_array_equal(central_crop(data, 40, 40, MOST), central_crop(made, 40, 40, MOST))


def moving(kind: str) -> bytes:
    """A red frame and a blue one."""
    first, second = (Image.new("RGB", (9, 9), colour) for colour in ("red", "blue"))
    return saved(first, kind, save_all=True, append_images=[second])


def odd() -> dict[str, tuple[bytes, bool]]:
    """Pictures that are read as PIL reads them, and whether their bytes stay."""
    colours = Image.open(io.BytesIO(jpeg(40, 50, 1)))
    see_through = colours.quantize(16)
    see_through.info["transparency"] = bytes(range(16))
    return {
        "one pixel": (saved(Image.new("RGB", (1, 1), "red"), "PNG"), True),
        "one pixel, GIF": (saved(Image.new("L", (1, 1), 7), "GIF"), False),
        "two colours": (saved(colours.convert("1"), "PNG"), True),
        "grey with alpha": (saved(colours.convert("LA"), "PNG"), True),
        "alpha": (saved(colours.convert("RGBA"), "PNG"), True),
        "a palette with alpha": (saved(see_through, "PNG", transparency=bytes(range(16))), True),
        "CMYK": (saved(colours.convert("CMYK"), "JPEG"), True),
        "CMYK, TIFF": (saved(colours.convert("CMYK"), "TIFF"), False),
        "an animated GIF": (moving("GIF"), False),
        "an animated PNG": (moving("PNG"), True),
        "several JPEGs": (moving("MPO"), True),
        "several TIFFs": (moving("TIFF"), False),
    }


@pytest.mark.filterwarnings("ignore:Palette images:UserWarning")
@pytest.mark.parametrize("name", odd())
def test_odd_pictures_are_read(name: str) -> None:
    data, stays = odd()[name]
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.array(picture.convert("RGB"))
    _, made = packed(data, None, None, MOST)
    assert (made == data) == stays
    np.testing.assert_array_equal(decode(made, look(made, MOST)), expected)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (bytes(900), "it is zeros alone"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "neither a JPEG nor a PNG that can be read, nor of another format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "neither a JPEG nor a PNG"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, said: str) -> None:
    with pytest.raises(BadPicture, match=said):
        packed(data, None, None, MOST)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "progressive JPEG", "grey JPEG"])
def test_a_cut_picture_is_found_though_it_needs_no_change(kind: str) -> None:
    """Unless that is not asked for; a whole one stays as it is in any case."""
    picture = Image.open(io.BytesIO(jpeg(200, 240, 1, "L" if "grey" in kind else "RGB", "PNG")))
    data = saved(picture, kind.split()[-1], **({"progressive": True} if "progressive" in kind else {}))
    assert (
        packed(data, 256, None, MOST) == packed(data, None, None, MOST, checked=False) == (look(data, MOST).kind, data)
    )
    for part in (0.3, 0.6, 0.95):
        cut = data[: int(part * len(data))]
        assert packed(cut, None, None, MOST, checked=False)[1] == cut
        with pytest.raises(BadPicture, match=r"truncated|broken|unrecognized"):
            packed(cut, None, None, MOST)
        with pytest.raises(BadPicture):
            check(cut, look(cut, MOST))
