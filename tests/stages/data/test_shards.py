"""Shards: what is written is read back to the pixel; what is damaged, missing or empty is refused by name."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from dualprune.stages.data.format import DataError, digest, read_manifest
from dualprune.stages.data.shards import Split, write
from dualprune.stages.files.folder import Folder
from tests.stages.conftest import random_pictures

SPLITS = ("train", "val", "test")


def written(folder: Path, shape: tuple[int, ...] = (6, 9), shard_bytes: int = 64 << 20) -> dict:
    """The manifest of a folder of 23, 4 and 5 random pictures."""
    counts = zip(SPLITS, (23, 4, 5), strict=True)
    pictures = {split: random_pictures(n, shape, seed=n) for split, n in counts}
    return write(str(folder), "random", pictures, shard_bytes)


def flip(file: Path, place: int) -> None:
    """Change one byte of a file."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)], ids=["grey", "rgb"])
@pytest.mark.parametrize("shard_bytes", [1, 64 << 20], ids=["several shards", "one shard"])
def test_round_trip_is_exact(tmp_path: Path, shape: tuple[int, ...], shard_bytes: int) -> None:
    manifest = written(tmp_path, shape, shard_bytes)
    assert {split: manifest["splits"][split]["samples"] for split in SPLITS} == {"train": 23, "val": 4, "test": 5}
    assert (len(manifest["splits"]["train"]["shards"]) > 1) == (shard_bytes == 1)
    for split, n in zip(SPLITS, (23, 4, 5), strict=True):
        read = Split(str(tmp_path), manifest["splits"][split])
        expected = random_pictures(n, shape, seed=n)
        assert len(read) == n
        assert read.labels.tolist() == [label for _, label in expected]
        pixels = np.stack([p[None] if p.ndim == 2 else p.transpose(2, 0, 1) for p, _ in expected])
        assert read.pictures.dtype == np.uint8
        np.testing.assert_array_equal(read.pictures, pixels)


def test_same_pictures_same_bytes(tmp_path: Path) -> None:
    written(tmp_path / "a", shard_bytes=8_000)
    written(tmp_path / "b", shard_bytes=8_000)
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_digest_follows_the_pixels(tmp_path: Path) -> None:
    one, same = written(tmp_path / "a"), written(tmp_path / "b")
    assert digest(one) == digest(same) == digest(read_manifest(str(tmp_path / "a")))
    pictures = {split: random_pictures(n, (6, 9), seed=n) for split, n in zip(SPLITS, (23, 4, 5), strict=True)}
    pictures["train"][11][0][2, 3] ^= 1
    assert digest(write(str(tmp_path / "c"), "random", pictures)) != digest(one)


def test_plain_webdataset_reads_the_tars(tmp_path: Path) -> None:
    manifest = written(tmp_path, (6, 9, 3), shard_bytes=8_000)
    urls = [str(tmp_path / shard["file"]) for shard in manifest["splits"]["train"]["shards"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    expected = random_pictures(23, (6, 9, 3), seed=23)
    assert len(samples) == 23
    for sample, (pixels, label) in zip(samples, expected, strict=True):
        assert int(sample["cls"]) == label
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample["png"]))), pixels)


@pytest.mark.parametrize("name", ["train-000001.tar", "train-index.npy"])
@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, how: str) -> None:
    splits = written(tmp_path, shard_bytes=8_000)["splits"]
    file = tmp_path / name
    if how == "flipped":
        flip(file, file.stat().st_size // 2)
    else:
        file.write_bytes(file.read_bytes()[: -100 if how == "cut" else 0])
    with pytest.raises(DataError, match=name):
        Split(str(tmp_path), splits["train"])
    assert len(Split(str(tmp_path), splits["val"])) == 4


@pytest.mark.parametrize("name", ["train-000001.tar", "train-index.npy", "manifest.json"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    written(tmp_path, shard_bytes=8_000)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=name):
        read_manifest(str(tmp_path))


def test_a_folder_that_can_not_be_listed_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)

    def refusing(folder: Folder) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Folder, "sizes", refusing)
    with pytest.raises(DataError, match=f"^{tmp_path} can't be listed: .*Permission denied"):
        read_manifest(str(tmp_path))


def test_no_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_manifest(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("text", ["{", "[]", '{"splits": 3}', '{"splits": {"train": {}, "val": {}, "test": {}}}'])
def test_a_manifest_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_split_without_samples_is_refused_by_name(tmp_path: Path, how: str) -> None:
    written(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    if how == "absent":
        del manifest["splits"]["val"]
    else:
        manifest["splits"]["val"]["samples"] = 0
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"no samples.* val"):
        read_manifest(str(tmp_path))


def test_nothing_to_write_leaves_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="val"):
        write(str(tmp_path), "half", {"train": random_pictures(3, (4, 4), 0), "val": []})
    assert not (tmp_path / "manifest.json").exists()
