"""Data sets that dualprune writes as shards itself, with their splits. To add one: a function and a line in SOURCES.

Each function takes the folder of the original files (or None) and returns, per split, pictures
(uint8 [h, w] or [h, w, 3]) with labels. Validation is held out of the training pictures, always the same ones.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dualprune.stages.data.format import DataError
from dualprune.stages.data.order import epoch_order
from dualprune.stages.files.folder import canonical, sha256, sha256_of
from dualprune.stages.files.home import cache_folder

Samples = Iterable[tuple[NDArray[np.uint8], int]]


def digits(folder: str | None) -> dict[str, Samples]:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 grey: 1,077 train, 360 validation, 360 test."""
    # Read as `sklearn.datasets.load_digits` does. The package itself takes seconds to import.
    place = find_spec("sklearn")
    assert place is not None
    data = np.loadtxt(Path(str(place.origin)).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    pictures = np.round(data[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = epoch_order(len(pictures), seed=1797, epoch=0)
    parts = {"test": order[:360], "val": order[360:720], "train": order[720:]}
    return {split: [(pictures[i], int(data[i, -1])) for i in parts[split]] for split in ("train", "val", "test")}


def mnist(folder: str | None) -> dict[str, Samples]:
    """MNIST from idx files in `folder`, or through torchvision: 55,000 train, 5,000 validation, 10,000 test."""
    train, train_labels = _idx(folder, "train")
    test, test_labels = _idx(folder, "t10k")
    order = epoch_order(len(train), seed=60000, epoch=0)
    held, rest = np.sort(order[:5000]), np.sort(order[5000:])
    return {
        "train": [(train[i], int(train_labels[i])) for i in rest],
        "val": [(train[i], int(train_labels[i])) for i in held],
        "test": [(picture, int(label)) for picture, label in zip(test, test_labels, strict=True)],
    }


def cifar10(folder: str | None) -> dict[str, Samples]:
    """CIFAR-10: 45,000 train, 5,000 validation, 10,000 test.

    `folder` holds sheets (`_sheets`) or the original Python batches; without it torchvision downloads those.
    """
    train, train_labels = _cifar10(folder, "train")
    test, test_labels = _cifar10(folder, "test")
    order = epoch_order(len(train), seed=50000, epoch=0)
    held, rest = np.sort(order[:5000]), np.sort(order[5000:])
    return {
        "train": [(train[i], int(train_labels[i])) for i in rest],
        "val": [(train[i], int(train_labels[i])) for i in held],
        "test": [(picture, int(label)) for picture, label in zip(test, test_labels, strict=True)],
    }


def _cifar10(folder: str | None, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    from torchvision.datasets import CIFAR10

    if folder is not None and (Path(folder) / f"{split}-labels.u8").exists():
        return _sheets(Path(folder), split)
    try:
        root = Path(folder) if folder is not None else cache_folder()
        root = root.parent if root.name == CIFAR10.base_folder else root
        data = CIFAR10(str(root), train=split == "train", download=folder is None)
    except (RuntimeError, OSError) as error:
        way = f"give `folder` sheets with {split}-labels.u8, or the folder that holds {CIFAR10.base_folder}"
        where = "can't be downloaded" if folder is None else f"is not in {folder}"
        raise DataError(f"CIFAR-10 {where} ({error}); {way}") from None
    return data.data, np.asarray(data.targets, dtype=np.uint8)


def _sheets(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Lossless WebP sheets of 25 rows of 40 pictures, `<split>-00.webp` and on, and a byte a label."""
    from PIL import Image

    labels = np.fromfile(folder / f"{split}-labels.u8", np.uint8)
    if not len(labels) or len(labels) % 1000:
        raise DataError(
            f"CIFAR-10's {folder / f'{split}-labels.u8'} has {len(labels)} labels, not 1,000 for each sheet"
        )
    sheets = []
    for number in range(len(labels) // 1000):
        path = folder / f"{split}-{number:02d}.webp"
        try:
            with Image.open(path) as sheet:
                pixels = np.asarray(sheet.convert("RGB"))
        except OSError as error:
            raise DataError(f"CIFAR-10's {path} can't be read: {error}") from None
        if pixels.shape != (800, 1280, 3):
            raise DataError(f"CIFAR-10's {path} is of {pixels.shape[1]} x {pixels.shape[0]} pixels, not 1280 x 800")
        sheets.append(pixels.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3))
    return np.concatenate(sheets), labels


def _idx(folder: str | None, prefix: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if folder is None:
        from torchvision.datasets import MNIST

        try:
            data = MNIST(str(cache_folder()), train=prefix == "train", download=True)
        except (RuntimeError, OSError) as error:
            raise DataError(f"MNIST could not be downloaded ({error}); give `folder` its four idx files") from None
        return data.data.numpy(), data.targets.numpy().astype(np.uint8)
    arrays = []
    for kind, header, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
        path = Path(folder) / f"{prefix}-{kind}-ubyte.gz"
        plain = path.with_suffix("")
        try:
            raw = gzip.decompress(path.read_bytes()) if path.exists() else plain.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"MNIST's {plain.name}[.gz] can't be read in {folder}: {error}") from None
        if len(raw) != header + size * int.from_bytes(raw[4:8], "big"):
            raise DataError(f"MNIST's {plain.name}[.gz] in {folder} is cut short, or is no idx file")
        arrays.append(np.frombuffer(raw, dtype=np.uint8, offset=header))
    return arrays[0].reshape(-1, 28, 28), arrays[1]


SOURCES: dict[str, Callable[[str | None], dict[str, Samples]]] = {"digits": digits, "mnist": mnist, "cifar10": cifar10}
FILES: dict[str, tuple[str, ...]] = {
    "digits": (),
    "mnist": ("*-ubyte", "*-ubyte.gz"),
    "cifar10": ("*.u8", "*.webp", "*_batch*", "cifar-10-batches-py/*_batch*"),
}
"""Patterns of the files that a source may read in its folder."""


def digest(source: str, folder: str) -> str:
    """The sha256 of the files in `folder` that a source may read, and of their names: what its shards are made from."""
    found = sorted(path for pattern in FILES[source] for path in Path(folder).glob(pattern) if path.is_file())
    try:
        return sha256(canonical([[str(path.relative_to(folder)), sha256_of(str(path))] for path in found]))
    except OSError as error:
        raise DataError(f"{source}'s files in {folder} can't be read: {error}") from None
