"""Single pictures: evaluation has torchvision's very pixels; crops are as they are drawn; what is bad is refused."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional as F
from torchvision.transforms import v2

from dualprune.stages.data.read import decoding
from dualprune.stages.data.read.decoding import BadPicture
from dualprune.stages.data.read.pictures import (
    OTHER,
    Picture,
    augmented,
    central_crop,
    crop_box,
    flipped,
    make_crop,
    packed,
    room,
    training_crop,
    uniforms,
)
from dualprune.stages.settings.data import RandAugment
from tests.stages.conftest import jpeg

SCALE, RATIO = [0.08, 1.0], [3 / 4, 4 / 3]
MOST = 1 << 20


def pil(data: bytes) -> Image.Image:
    """A picture as PIL reads it."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def random_crop(
    data: bytes, size: int, scale: list[float], ratio: list[float], flip: bool, random: NDArray[np.float64], most: int
) -> Picture:
    """A random crop as training has it, [3, size, size]."""
    place = room(1, size)
    make_crop(data, *training_crop(data, scale, ratio, random, most), flip and flipped(random), place)
    return place.numpy()[0]


def huge_png(side: int) -> bytes:
    """A PNG of side x side pixels, of which nothing is stored but that it is so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def huge_jpeg(side: int) -> bytes:
    """A JPEG whose header says side x side pixels."""
    data = jpeg(16, 16, 0)
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]


@pytest.mark.parametrize(
    "data",
    [
        jpeg(300, 400, 1),
        jpeg(401, 299, 2),
        jpeg(40, 61, 3),
        jpeg(64, 64, 4),
        jpeg(90, 70, 5, "L"),
        jpeg(90, 70, 6, "CMYK"),
        jpeg(90, 71, 7, "RGBA", "PNG"),
        jpeg(90, 71, 8, "L", "PNG"),
    ],
    ids=["wide", "tall", "small", "as it is", "grey", "CMYK", "PNG", "grey PNG"],
)
def test_evaluation_has_the_pixels_of_torchvision(data: bytes) -> None:
    for resize, crop in ((64, 56), (64, 64), (33, 20), (33, 40), (33, 44), (20, 47)):
        expected = np.asarray(F.center_crop(F.resize(pil(data), resize), crop))
        got = central_crop(data, resize, crop, MOST)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got.transpose(1, 2, 0), expected)


def test_a_random_crop_is_the_box_resized() -> None:
    data = jpeg(150, 190, 1)
    for number, random in enumerate(uniforms(3, 1, np.arange(20))):
        top, left, height, width = crop_box(150, 190, SCALE, RATIO, random)
        expected = np.asarray(F.resized_crop(pil(data), top, left, height, width, [80, 80]))
        got = random_crop(data, 80, SCALE, RATIO, False, random, MOST)
        # torch's and PIL's resize round at another place.
        assert np.abs(got.transpose(1, 2, 0).astype(int) - expected).max() <= 1, number


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**32), st.sampled_from([SCALE, [0.5, 0.5], [1.0, 1.0]])
)
def test_a_crop_lies_within_its_picture(height: int, width: int, sample: int, scale: list[float]) -> None:
    top, left, h, w = crop_box(height, width, scale, RATIO, uniforms(0, 0, np.array([sample]))[0])
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0 < w


def test_crops_are_spread_as_asked() -> None:
    boxes = np.array([crop_box(400, 400, SCALE, RATIO, random) for random in uniforms(1, 2, np.arange(4000))])
    tops, lefts, heights, widths = boxes.T
    area, ratio = heights * widths / 160_000, np.log(widths / heights)
    assert 0.07 < area.min() < 0.09
    assert 0.98 < area.max() <= 1
    assert area.mean() == pytest.approx(0.5, abs=0.04)  # a little less than 0.54: long ones of the largest don't fit
    assert np.abs(ratio).max() < np.log(4 / 3) + 0.05
    assert ratio.mean() == pytest.approx(0, abs=0.01)
    for start, size in ((tops, heights), (lefts, widths)):
        assert ((start + 0.5) / (401 - size)).mean() == pytest.approx(0.5, abs=0.02)
    assert np.mean([flipped(random) for random in uniforms(1, 2, np.arange(4000))]) == pytest.approx(0.5, abs=0.03)


def test_a_large_crop_is_decoded_at_reduced_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(1200, 1600, 1)
    whole, decoded = [1.0, 1.0], []
    plain = simplejpeg.decode_jpeg

    def noted(data: bytes, **options: Any) -> np.ndarray:
        decoded.append(plain(data, **options))
        return decoded[-1]

    random = uniforms(0, 0, np.arange(1))[0]
    exact = np.asarray(F.resized_crop(pil(data), *crop_box(1200, 1600, whole, RATIO, random), [100, 100]))
    monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg", noted)
    got = random_crop(data, 100, whole, RATIO, False, random, 1 << 22)
    assert 100 <= decoded[0].shape[0] <= 300
    assert np.abs(got.transpose(1, 2, 0).astype(int) - exact).mean() < 2
    random_crop(data, 700, whole, RATIO, False, random, 1 << 22)
    assert decoded[1].shape == (1200, 1600, 3)


def test_operations_are_drawn_for_each_sample_and_leave_torchs_generator_alone() -> None:
    """The same numbers give the same picture, other ones another, and they are torchvision's."""
    picture = random_crop(jpeg(60, 80, 1), 32, SCALE, RATIO, False, uniforms(0, 0, np.arange(1))[0], MOST)
    before = torch.get_rng_state()
    found = [augmented(picture, RandAugment(), random) for random in uniforms(3, 1, np.arange(30))]
    assert torch.equal(torch.get_rng_state(), before)
    again = [augmented(picture, RandAugment(), random) for random in uniforms(3, 1, np.arange(30))]
    assert all(np.array_equal(one, same) for one, same in zip(found, again, strict=True))
    assert all(one.shape == picture.shape and one.dtype == np.uint8 for one in found)
    assert len({one.tobytes() for one in found}) > 20
    torch.manual_seed(int(uniforms(3, 1, np.arange(1))[0, OTHER] * 2.0**53))
    assert np.array_equal(found[0], v2.RandAugment(2, 9)(torch.from_numpy(picture)).numpy())


@pytest.mark.parametrize("bomb", [huge_png(20_000), huge_jpeg(20_000)], ids=["PNG", "JPEG"])
def test_a_bomb_is_refused_before_it_is_decoded(bomb: bytes) -> None:
    random = uniforms(0, 0, np.arange(1))[0]
    tracemalloc.start()
    for call in (
        lambda: central_crop(bomb, 256, 224, 1 << 26),
        lambda: random_crop(bomb, 224, SCALE, RATIO, False, random, 1 << 26),
    ):
        with pytest.raises(BadPicture, match=r"pixels"):
            call()
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_the_bound_on_pixels_is_the_one_given() -> None:
    data = jpeg(50, 40, 0)
    assert central_crop(data, 16, 16, 2000).shape == (3, 16, 16)
    with pytest.raises(BadPicture, match="40 x 50 pixels"):
        central_crop(data, 16, 16, 1999)


@pytest.mark.parametrize(("height", "width"), [(60_000, 1), (1, 60_000)], ids=["tall", "wide"])
def test_a_narrow_picture_is_refused_before_it_is_made_huge(height: int, width: int) -> None:
    """One pixel across, 60,000 along: 4 billion at a short side of 256."""
    data = jpeg(height, width, 0, kind="PNG")
    with pytest.raises(BadPicture, match=r"pixels with its short side made 256 long, more than max_pixels"):
        central_crop(data, 256, 224, 1 << 26)
    assert central_crop(data, 2, 2, 1 << 26).shape == (3, 2, 2)


def test_a_picture_too_long_for_a_jpeg_is_bad() -> None:
    with pytest.raises(BadPicture, match="65500"):
        packed(jpeg(1, 70_000, 0, kind="PNG"), None, 90, 1 << 26)


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture at all", jpeg(40, 40, 0)[:200], jpeg(40, 40, 0)[:-200], jpeg(40, 40, 0, "RGB", "PNG")[:-60]],
    ids=["empty", "text", "header", "cut JPEG", "cut PNG"],
)
def test_what_is_no_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadPicture):
        central_crop(data, 32, 32, MOST)
    with pytest.raises(BadPicture):
        random_crop(data, 16, SCALE, RATIO, False, uniforms(0, 0, np.arange(1))[0], MOST)
