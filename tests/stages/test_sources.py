"""The data sets dualprune writes itself: their counts, their splits, and that no split holds another's samples."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from stages.data.manifest import DataError
from stages.data.sources import digits, mnist


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


def test_mnist_in_the_wrong_folder_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        mnist(str(tmp_path))
