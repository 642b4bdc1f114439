"""JPEGs decoded on the device, which is a CPU here: the CPU path's crops, and its bad samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as F

from dualprune.stages.data.format import DataError, check_settings, digest, read_manifest
from dualprune.stages.data.make.index import index
from dualprune.stages.data.read import device
from dualprune.stages.data.read.decoding import Header
from dualprune.stages.data.read.device import Decoder, Jpeg, packed
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.data.read.pictures import crop_box, flipped, training_crop, uniforms
from dualprune.stages.data.read.stream import IGNORED, Stream
from dualprune.stages.kinds.job import key_material
from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.settings.data import Data
from tests.stages.conftest import jpeg, jpegs, pairs
from tests.stages.data.test_pictures import MOST, RATIO, SCALE, huge_jpeg, pil
from tests.stages.data.test_stream import CPU, SPLITS, opened, written

SHAPES = [(150, 190, "RGB"), (90, 70, "L"), (40, 61, "RGB"), (300, 200, "RGB"), (20, 20, "RGB"), (64, 65, "L")]


def drawn() -> list[Jpeg]:
    """A picture of each shape, and a crop of it."""
    found = []
    for n, (random, (height, width, mode)) in enumerate(zip(uniforms(3, 1, np.arange(6)), SHAPES, strict=True)):
        data = jpeg(height, width, n, mode)
        found.append(Jpeg(n, data, *training_crop(data, SCALE, RATIO, random, MOST), flipped(random)))
    return found


def test_crops_are_the_boxes_resized_and_mirrored() -> None:
    """In colour, also where the JPEG is grey."""
    found = drawn()
    crops, good = Decoder(CPU).crops(packed(found), 50)
    assert (crops.shape, crops.dtype, good.all()) == ((6, 50, 50, 3), torch.float32, True)
    assert len({one.mirrored for one in found}) == 2
    for crop, one, random in zip(crops, found, uniforms(3, 1, np.arange(6)), strict=True):
        box = crop_box(one.header.height, one.header.width, SCALE, RATIO, random)
        assert box == one.box
        expected = F.pil_to_tensor(F.resized_crop(pil(one.data), *box, [50, 50]))
        assert float((crop.permute(2, 0, 1) - (expected.flip(2) if one.mirrored else expected)).abs().max()) <= 1.5


def test_a_stream_has_the_crops_of_the_cpu(tmp_path: Path) -> None:
    """To a rounding, but where the CPU decodes at reduced scale. PNG and CMYK are decoded as without the device."""
    samples = [*jpegs(20), (jpeg(90, 70, 6, "CMYK"), 0), (jpeg(90, 71, 7, "RGBA", "PNG"), 1), (jpeg(80, 90, 8, "L"), 2)]
    url = written(tmp_path, [*samples, (jpeg(900, 1000, 9), 0)])
    sizes = {"crop": 100, "resize": 120, "max_pixels": 1 << 20}
    plain, data = opened(url, **sizes), opened(url, **sizes, decode="device")
    ((x, labels),), ((y, same),) = (pairs(stream.epoch([np.arange(24)], 1)) for stream in (plain, data))
    assert torch.equal(labels, same)
    assert float((x[:23] - y[:23]).abs().max()) <= 1.5 / 255
    assert float((x[23] - y[23]).abs().mean()) <= 8 / 255
    assert [place for place in range(24) if torch.equal(x[place], y[place])] == [20, 21]
    ((x, _),), ((y, _),) = (pairs(stream.evaluation([np.arange(24)])) for stream in (plain, data))
    assert torch.equal(x, y)


def test_what_shrinks_too_far_for_a_gpu_is_not_for_it() -> None:
    header = Header(1000, 1000, "YCbCr")
    assert device.suits(header, (0, 0, 512, 100), 16)
    assert not device.suits(header, (0, 0, 513, 100), 16)
    assert not device.suits(Header(90, 70, "CMYK"), (0, 0, 16, 16), 16)


def counted(monkeypatch: pytest.MonkeyPatch, refused: bytes = b"no such") -> list[int]:
    """Sizes of the batches that go to the decoder from now on; it refuses those that hold `refused`."""
    sizes: list[int] = []
    plain = Decoder._decode

    def noted(self: Decoder, encoded: list[Tensor]) -> list[Tensor]:
        sizes.append(len(encoded))
        if any(refused in one.numpy().tobytes() for one in encoded):
            raise RuntimeError("no")
        return plain(self, encoded)

    monkeypatch.setattr(Decoder, "_decode", noted)
    return sizes


def test_a_batch_goes_to_the_decoder_at_once_if_it_is_not_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    found = drawn()
    decoder, sizes = Decoder(CPU), counted(monkeypatch)
    whole, _ = decoder.crops(packed(found), 20)
    assert sizes == [6]
    monkeypatch.setattr(device, "AT_ONCE", 30_000)
    parts, _ = decoder.crops(packed(found), 20)
    assert sizes[1:] == [1, 2, 3]
    assert torch.equal(whole, parts)


def test_what_the_decoder_refuses_is_found_and_decoded_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = jpegs(16)
    url = written(tmp_path, samples)
    plain, data = opened(url, crop=100, resize=120), opened(url, crop=100, resize=120, decode="device")
    sizes = counted(monkeypatch, samples[5][0])
    ((x, labels),), ((y, same),) = (pairs(stream.epoch([np.arange(16)], 1)) for stream in (plain, data))
    assert sizes == [1, 16, 8, 4, 4, 2, 1, 1, 2, 8]
    assert torch.equal(labels, same)
    assert IGNORED not in same
    assert torch.equal(x[5], y[5])
    assert not data.bad


def test_too_large_a_jpeg_is_bad_and_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = jpegs(8)
    samples[3] = (huge_jpeg(20_000), 0)
    data = opened(written(tmp_path, samples), decode="device")
    sizes = counted(monkeypatch)
    ((_, labels),) = pairs(data.epoch([np.arange(8)], 0))
    assert sizes == [1, 7]
    assert labels.tolist() == [0, 1, 2, IGNORED, 1, 2, 0, 1]
    assert "20000 x 20000 pixels are more than max_pixels" in data.bad[3]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_cut_is_an_error(tmp_path: Path, workers: int) -> None:
    data = opened(written(tmp_path, jpegs(40), 4_000), decode="device", workers=workers)
    file = tmp_path / "train-000002.tar"
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(DataError, match=r"train-000002\.tar ends before"):
        list(pairs(data.epoch([data.order(0)], 0)))


def test_a_decoder_that_is_not_there_or_has_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, said = Decoder(CPU), "CUDA out of memory"

    def broken(self: Decoder, encoded: list[Tensor]) -> list[Tensor]:
        raise RuntimeError(said)

    monkeypatch.setattr(Decoder, "_decode", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        decoder.crops(packed(drawn()), 20)
    said = "not compiled with nvJPEG support"
    with pytest.raises(ValueError, match=r"can't decode JPEGs on cpu \(not compiled.*set data.decode to cpu"):
        Decoder(CPU)


def test_where_pictures_are_decoded_is_part_of_a_key_and_goes_without_randaugment(url: str, shards: str) -> None:
    def material(**data: Any) -> dict[str, Any]:
        spec = {"kind": "train", "train": {"epochs": 1, "lr": 0.1}, "model": {"name": "x"}}
        return key_material(TrainSpec.model_validate(spec | {"data": {"shards": "."} | data}), "digest", [])

    assert material(decode="cpu") == material()
    assert material(decode="device") != material()
    with pytest.raises(ValueError, match=r"`randaugment` changes pictures on the CPU"):
        Data(shards=".", decode="device", randaugment={})  # type: ignore[arg-type]
    check_settings(url, read_manifest(url), Data(shards=url, decode="device"))
    with pytest.raises(DataError, match=r"data\.decode is for pictures encoded"):
        check_settings(shards, read_manifest(shards), Data(source="digits", decode="device"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A few encoded pictures."""
    return written(tmp_path_factory.mktemp("jpegs"), jpegs(9))


@pytest.mark.slow
def test_imagenet_pictures_are_those_of_the_cpu(tmp_path: Path) -> None:
    """Needs DUALPRUNE_DATA, which holds imagenet_sample/*.tar: 1,000 pictures with a short side of 256 or less."""
    root = os.environ.get("DUALPRUNE_DATA")
    if root is None:
        pytest.skip("DUALPRUNE_DATA is not set: it names a folder that holds imagenet_sample/")
    index(str(tmp_path), "sample", dict.fromkeys(SPLITS, f"{root}/imagenet_sample/imagenet-sample-*.tar"))
    found = digest(read_manifest(str(tmp_path)))
    everything = np.array_split(np.arange(1000), 20)
    streams = []
    for decode in ("cpu", "device"):
        settings = Data.model_validate({"shards": str(tmp_path), "flip": True, "workers": 2, "decode": decode})
        streams.append(open_split(str(tmp_path), "train", found, settings, 0, CPU, 1000))
    for (x, labels), (y, same) in zip(*(pairs(stream.epoch(everything, 3)) for stream in streams), strict=True):
        assert torch.equal(labels, same)
        assert float((x - y).abs().max()) <= 1.5 / 255
        assert IGNORED not in labels
    assert isinstance(streams[1], Stream)
    assert not streams[1].bad
