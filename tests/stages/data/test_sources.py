"""The data sets dualprune writes itself: their counts, their splits, and that no split holds another's samples."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from dualprune.stages.data.format import DataError
from dualprune.stages.data.make.builtin import cifar10, digits, mnist


def test_digits_are_split_without_overlap_or_loss() -> None:
    splits = {name: list(samples) for name, samples in digits(None).items()}
    assert {name: len(samples) for name, samples in splits.items()} == {"train": 1077, "val": 360, "test": 360}
    got = sorted((p.tobytes(), label) for samples in splits.values() for p, label in samples)
    original = load_digits()
    scaled = np.round(original.images * 255 / 16).astype(np.uint8)
    assert got == sorted((p.tobytes(), int(label)) for p, label in zip(scaled, original.target, strict=True))
    pictures = [{p.tobytes() for p, _ in samples} for samples in splits.values()]
    assert len(set.union(*pictures)) == sum(map(len, pictures)) == 1797


def test_digits_are_the_same_every_time() -> None:
    first, second = digits(None), digits(None)
    for split, samples in first.items():
        for (a, label_a), (b, label_b) in zip(samples, second[split], strict=True):
            assert label_a == label_b
            np.testing.assert_array_equal(a, b)


def test_mnist_is_split_as_said() -> None:
    """Needs the original files: DUALPRUNE_DATA names a folder that holds mnist/*.gz."""
    root = os.environ.get("DUALPRUNE_DATA")
    if not root:
        pytest.skip("DUALPRUNE_DATA is not set: it names a folder that holds mnist/*.gz")
    folder = Path(root) / "mnist"
    splits = {name: list(samples) for name, samples in mnist(str(folder)).items()}
    assert {name: len(samples) for name, samples in splits.items()} == {"train": 55_000, "val": 5_000, "test": 10_000}
    raw = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    original = sorted(zip((p.tobytes() for p in raw.reshape(-1, 784)), labels.tolist(), strict=True))
    assert sorted((p.tobytes(), y) for name in ("train", "val") for p, y in splits[name]) == original
    assert {p.shape for p, _ in splits["test"]} == {(28, 28)}
    assert np.bincount([y for _, y in splits["test"]]).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]


SHEETS_SHA256 = {
    "train": "c461bd4536fb85ed1eb486daab6efe1841bd78a4c1eb300d5c7b5ac7f9c941b4",
    "test": "ca999a174ec711bbad89d5cc53d425e155595742a396a5ba95d0a218eac0704a",
}
"""Of the pixels of all pictures in their original order, as the folder's description gives them."""


@pytest.mark.slow
def test_cifar10_is_split_as_said() -> None:
    """Every picture once; put back into their order, they are the original ones. Needs DUALPRUNE_DATA with cifar10/."""
    root = os.environ.get("DUALPRUNE_DATA")
    if not root:
        pytest.skip("DUALPRUNE_DATA is not set: it names a folder that holds cifar10/*.webp")
    folder = Path(root) / "cifar10"
    splits = cifar10(str(folder))
    counts = {name: len(list(samples)) for name, samples in splits.items()}
    assert counts == {"train": 45_000, "val": 5_000, "test": 10_000}
    order = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([50_000, 0]))).permutation(50_000)
    places = {"val": np.sort(order[:5000]), "train": np.sort(order[5000:])}
    pixels, labels = np.zeros((50_000, 32, 32, 3), np.uint8), np.zeros(50_000, np.uint8)
    for name, at in places.items():
        for place, (picture, label) in zip(at, splits[name], strict=True):
            pixels[place], labels[place] = picture, label
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == SHEETS_SHA256["train"]
    test = np.stack([picture for picture, _ in splits["test"]])
    assert hashlib.sha256(test.tobytes()).hexdigest() == SHEETS_SHA256["test"]
    assert labels.tobytes() == (folder / "train-labels.u8").read_bytes()
    assert np.bincount(labels).tolist() == [5000] * 10


@pytest.mark.parametrize("within", [False, True])
def test_cifar10_from_the_original_batches(within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision reads them: the folder that holds theirs, or theirs itself. 6,007 pictures stand in for 60,000."""
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batches = {f"data_batch_{n}": rng.integers(0, 256, (1200, 3072), dtype=np.uint8) for n in range(1, 6)}
    batches["test_batch"] = rng.integers(0, 256, (7, 3072), dtype=np.uint8)
    for name, rows in batches.items():
        labels = [int(row[0]) % 10 for row in rows]
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    splits = {name: list(samples) for name, samples in cifar10(str(folder if within else tmp_path)).items()}
    assert {name: len(samples) for name, samples in splits.items()} == {"train": 1000, "val": 5000, "test": 7}
    got = sorted((p.transpose(2, 0, 1).tobytes(), y) for name in ("train", "val") for p, y in splits[name])
    rows = [row for name, batch in batches.items() if name != "test_batch" for row in batch]
    assert got == sorted((row.tobytes(), int(row[0]) % 10) for row in rows)


def test_cifar10_that_is_not_there_is_told(tmp_path: Path) -> None:
    """What a folder has to hold; which sheet is missing, or of another size."""
    with pytest.raises(DataError, match=rf"is not in {tmp_path} .*give `folder` sheets with train-labels\.u8, or"):
        cifar10(str(tmp_path))
    for count in (0, 1500):
        (tmp_path / "train-labels.u8").write_bytes(bytes(count))
        with pytest.raises(DataError, match=rf"train-labels\.u8 has {count} labels, not 1,000 for each sheet"):
            cifar10(str(tmp_path))
    (tmp_path / "train-labels.u8").write_bytes(bytes(1000))
    with pytest.raises(DataError, match=r"train-00\.webp can't be read"):
        cifar10(str(tmp_path))
    Image.new("RGB", (32, 32)).save(tmp_path / "train-00.webp", lossless=True)
    with pytest.raises(DataError, match=r"train-00\.webp is of 32 x 32 pixels, not 1280 x 800"):
        cifar10(str(tmp_path))


def test_mnist_in_the_wrong_folder_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        mnist(str(tmp_path))


@pytest.mark.parametrize("harm", ["half", "flipped", "plain half"])
def test_a_damaged_mnist_names_the_file(harm: str, tmp_path: Path) -> None:
    """A download that was cut off, or went wrong."""
    raw = (2051).to_bytes(4, "big") + (9).to_bytes(4, "big") + bytes(8) + np.random.default_rng(0).bytes(9 * 784)
    data = gzip.compress(raw)
    damaged = {"half": data[:4000], "flipped": data[:12] + bytes(100) + data[112:], "plain half": raw[: 16 + 4 * 784]}
    ending = "" if harm == "plain half" else ".gz"
    (tmp_path / f"train-images-idx3-ubyte{ending}").write_bytes(damaged[harm])
    with pytest.raises(DataError, match=r"MNIST's train-images-idx3-ubyte\[\.gz\]"):
        mnist(str(tmp_path))
