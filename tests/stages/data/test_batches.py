"""Batches: augmentation depends on (seed, epoch, sample) alone, brings in black, and pixels are normalised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dualprune.stages.data.format import DataError, digest, read_manifest
from dualprune.stages.data.read.memory import Batches, load_split, open_split
from dualprune.stages.data.shards import Split, write
from dualprune.stages.settings.data import Data
from tests.stages.conftest import random_pictures

CPU = torch.device("cpu")


@pytest.fixture
def rgb(tmp_path: Path) -> Split:
    """Sixty random RGB pictures of 5 x 7 pixels, none of them black anywhere."""
    pictures = [(np.maximum(p, 1), label) for p, label in random_pictures(60, (5, 7, 3), seed=0)]
    manifest = write(str(tmp_path), "random", dict.fromkeys(("train", "val", "test"), pictures))
    return Split(str(tmp_path), manifest["splits"]["train"])


def settings(**values: object) -> Data:
    """Data settings; where the shards lie is of no matter here."""
    return Data.model_validate({"source": "digits"} | values)


def moved(picture: np.ndarray, down: int, right: int) -> np.ndarray:
    """A picture [c, h, w] moved by whole pixels, black coming in: one pixel at a time."""
    result = np.zeros_like(picture)
    _, height, width = picture.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[:, y, x] = picture[:, y - down, x - right]
    return result


def offset(before: np.ndarray, after: np.ndarray, most: int) -> tuple[int, int]:
    """By how much a picture was moved; fails unless exactly one shift within `most` explains it."""
    ways = range(-most, most + 1)
    found = [(d, r) for d in ways for r in ways if np.array_equal(moved(before, d, r), after)]
    assert len(found) == 1
    return found[0]


def bytes_of(batch: torch.Tensor) -> np.ndarray:
    """Pixels 0 to 255 of a batch with mean 0 and deviation 1."""
    return (batch * 255).round().to(torch.uint8).numpy()


def test_shifts_are_all_of_the_allowed_ones_and_black_comes_in(rgb: Split) -> None:
    batches = Batches(rgb, settings(shift=1), seed=3, device=CPU)
    indices = np.arange(60)
    seen = set()
    for epoch in range(3):
        pictures, labels = batches.train(indices, epoch)
        assert pictures.shape == (60, 3, 5, 7)
        assert labels.tolist() == [i % 3 for i in range(60)]
        seen |= {offset(a, b, 1) for a, b in zip(rgb.pictures, bytes_of(pictures), strict=True)}
    assert seen == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


def test_a_picture_is_shifted_alike_whatever_batch_it_is_in(rgb: Split) -> None:
    batches = Batches(rgb, settings(shift=2), seed=3, device=CPU)
    whole, _ = batches.train(np.arange(60), epoch=4)
    backwards, _ = batches.train(np.arange(60)[::-1].copy(), epoch=4)
    assert torch.equal(backwards.flip(0), whole)
    for i in (0, 17, 59):
        alone, label = batches.train(np.array([i]), epoch=4)
        assert torch.equal(alone[0], whole[i])
        assert label.tolist() == [i % 3]
    twice, _ = batches.train(np.array([8, 8]), epoch=4)
    assert torch.equal(twice[0], twice[1])


def test_shifts_change_with_seed_and_epoch(rgb: Split) -> None:
    indices = np.arange(60)
    base, _ = Batches(rgb, settings(shift=2), seed=3, device=CPU).train(indices, 0)
    other_seed, _ = Batches(rgb, settings(shift=2), seed=4, device=CPU).train(indices, 0)
    other_epoch, _ = Batches(rgb, settings(shift=2), seed=3, device=CPU).train(indices, 1)
    for other in (other_seed, other_epoch):
        same = (other == base).flatten(1).all(1).float().mean()
        assert same < 0.25  # 1 in 25 by chance


def test_half_of_the_pictures_are_mirrored(rgb: Split) -> None:
    """Alike in every batch, others in each epoch, and apart from the shifts."""
    indices = np.arange(60)
    batches = Batches(rgb, settings(flip=True), seed=3, device=CPU)
    mirrored = []
    for epoch in range(20):
        got = bytes_of(batches.train(indices, epoch)[0])
        ways = [np.array_equal(a, b[..., ::-1]) for a, b in zip(rgb.pictures, got, strict=True)]
        assert all(way or np.array_equal(a, b) for a, b, way in zip(rgb.pictures, got, ways, strict=True))
        mirrored.append(ways)
        alone, _ = batches.train(np.array([17]), epoch)
        assert np.array_equal(bytes_of(alone)[0], got[17])
    share = np.mean(mirrored)
    assert 0.45 < share < 0.55  # 1,200 tosses: five deviations are 0.07
    assert len({tuple(ways) for ways in mirrored}) == 20
    both, _ = Batches(rgb, settings(flip=True, shift=2), seed=3, device=CPU).train(indices, 0)
    shifted, _ = Batches(rgb, settings(shift=2), seed=3, device=CPU).train(indices, 0)
    want = torch.where(torch.tensor(mirrored[0]).view(-1, 1, 1, 1), shifted.flip(3), shifted)
    assert torch.equal(both, want)
    assert torch.equal(batches.plain(indices)[0], Batches(rgb, settings(), 3, CPU).plain(indices)[0])


def test_a_limit_leaves_the_first_samples(rgb: Split) -> None:
    """Of every split, and no more than there are."""
    assert [len(Batches(rgb, settings(limit=n), 0, CPU)) for n in (1, 7, 60, 1000)] == [1, 7, 60, 60]


def test_no_shift_and_plain_leave_pictures_alone(rgb: Split) -> None:
    indices = np.array([5, 3])
    for pictures in (
        Batches(rgb, settings(), 0, CPU).train(indices, 9)[0],
        Batches(rgb, settings(shift=2), 0, CPU).plain(indices)[0],
    ):
        np.testing.assert_array_equal(bytes_of(pictures), rgb.pictures[[5, 3]])


def test_normalisation_is_per_channel(rgb: Split) -> None:
    batches = Batches(rgb, settings(mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 1.0]), 0, CPU)
    pictures, labels = batches.plain(np.array([7]))
    assert pictures.dtype == torch.float32
    assert labels.dtype == torch.int64
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.25), (0.3, 1.0)]):
        expected = (rgb.pictures[7, channel] / 255 - mean) / std
        np.testing.assert_allclose(pictures[0, channel].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_one_mean_serves_all_channels_and_two_are_refused_for_three(rgb: Split, tmp_path: Path) -> None:
    pictures, _ = Batches(rgb, settings(mean=[0.5], std=[0.5]), 0, CPU).plain(np.array([0]))
    np.testing.assert_allclose(pictures[0].numpy(), (rgb.pictures[0] / 255 - 0.5) / 0.5, rtol=1e-5, atol=1e-6)
    planned, two = digest(read_manifest(str(tmp_path))), settings(mean=[0.5, 0.5], std=[1.0, 1.0])
    with pytest.raises(DataError, match=r"data\.mean and data\.std have 2 values each, and the pictures 3 channels"):
        open_split(str(tmp_path), "val", planned, two, 0, CPU, 3)


def test_a_split_is_read_once_per_version_of_its_shards(rgb: Split, tmp_path: Path) -> None:
    """Nor is its manifest asked for again; shards that were written anew since the plan are refused."""
    url, planned = str(tmp_path), digest(read_manifest(str(tmp_path)))
    first = load_split(url, "val", planned)
    (tmp_path / "manifest.json").rename(tmp_path / "aside.json")
    assert load_split(url, "val", planned) is first
    other = write(url, "other", dict.fromkeys(("train", "val", "test"), random_pictures(9, (5, 7, 3), seed=1)))
    assert len(load_split(url, "val", digest(other))) == 9
    with pytest.raises(DataError, match="other shards than when this run was planned"):
        load_split(url, "val", "of an older plan")
