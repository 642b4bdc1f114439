"""WebDataset shards: written with a manifest, indexed, and their samples decoded. webdataset's one door.

A folder of shards holds `<split>-NNNNNN.tar` files, `<split>-index.npy` (int64 [samples, 4]: shard,
offset and size of the picture in it, label; shard by shard) and manifest.json (counts, sha256 of each file).
The manifest is written last: without it the folder counts as absent. A split's `format` is `png` for pictures
of one shape, which are read into memory as a whole, or `jpeg` for encoded pictures of any size, which are not.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import webdataset
from numpy.typing import NDArray
from PIL import Image
from webdataset.autodecode import Decoder, imagehandler

from dualprune.stages.data.format import MANIFEST, DataError
from dualprune.stages.data.make.index import read_index, write_index
from dualprune.stages.data.make.samples import scan
from dualprune.stages.data.order import Indices
from dualprune.stages.data.read.exif import PNG
from dualprune.stages.files.folder import Folder, sha256

Sample = tuple[NDArray[np.uint8] | bytes, int]
"""A picture, or a JPEG's or PNG's bytes, and its label."""


def write(
    url: str,
    name: str,
    splits: Mapping[str, Iterable[Sample]],
    shard_bytes: int = 64 << 20,
) -> dict[str, Any]:
    """Write samples as shards: pictures (uint8 [h, w] or [h, w, 3]) as PNG, or encoded ones as they are.

    Returns the manifest. The same samples give the same bytes: no times, users or random names are in them.
    """
    folder = Folder(url)
    manifest: dict[str, Any] = {"name": name, "splits": {}}
    for split, samples in splits.items():
        files: list[dict[str, Any]] = []
        rows: list[Indices] = []
        encoded = _Encoded(samples)
        for data in packed(encoded, shard_bytes):
            file = f"{split}-{len(files):06d}.tar"
            index, _ = scan(io.BytesIO(data), len(files))
            rows.append(index)
            folder.write(file, data)
            files.append({"file": file, "sha256": sha256(data), "bytes": len(data), "samples": len(index)})
        if not files:
            raise DataError(f"{name}: the split {split} has no samples to write")
        whole = np.concatenate(rows)
        manifest["labels"] = max(manifest.get("labels", 0), 1 + int(whole[:, 3].max(initial=-1)))
        manifest["splits"][split] = {
            "samples": sum(f["samples"] for f in files),
            **({"shape": encoded.shape} if encoded.shape else {"format": "jpeg"}),
            "shards": files,
            "index": write_index(folder, split, whole),
        }
    folder.write_json(MANIFEST, manifest)
    return manifest


def tarred(samples: Iterable[tuple[str, str, bytes, int]]) -> bytes:
    """One tar file of samples: of each its key, `jpg` or `png`, its bytes and its label."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, mtime=0) as writer:
        for sample in samples:
            writer.write(_member(*sample))
    return buffer.getvalue()


def _member(key: str, kind: str, data: bytes, label: int) -> dict[str, Any]:
    return {"__key__": key, kind: data, "cls": str(label).encode()}


class Split:
    """One split of a folder of shards, decoded once and kept in memory as uint8 [samples, c, h, w]."""

    def __init__(self, url: str, entry: Mapping[str, Any]) -> None:
        """`entry` is the split's in the manifest of the folder `url`. Raises DataError."""
        folder = Folder(url)
        index = read_index(url, entry)
        self.labels = index[:, 3]
        decode = _decoder(channels=entry["shape"][0])
        pictures: list[NDArray[np.uint8]] = []
        for number, shard in enumerate(entry["shards"]):
            data = folder.read(shard["file"])
            if sha256(data) != shard["sha256"]:
                raise DataError(f"{url}/{shard['file']} is not what the manifest says: its sha256 differs")
            rows = index[index[:, 0] == number]
            pictures += [decode(data[offset : offset + size]) for _, offset, size, _ in rows]
        self.pictures = np.stack(pictures)

    def __len__(self) -> int:
        return len(self.labels)


def _decoder(channels: int) -> Callable[[bytes], NDArray[np.uint8]]:
    """A function from a PNG's bytes to its pixels, uint8 [channels, h, w]."""
    decoder = Decoder([imagehandler("l8" if channels == 1 else "rgb8")])

    def decode(picture: bytes) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = decoder({"__key__": "", "png": picture})["png"]
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    return decode


class _Encoded:
    """Samples as shards have them, and the `shape` of the last one's picture, none of an encoded one."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.samples = samples
        self.shape: list[int] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, (picture, label) in enumerate(self.samples):
            if isinstance(picture, bytes):
                kind, data = "png" if picture.startswith(PNG) else "jpg", picture
            else:
                png = io.BytesIO()
                Image.fromarray(picture).save(png, format="PNG")
                kind, data = "png", png.getvalue()
                self.shape = [1, *picture.shape] if picture.ndim == 2 else [picture.shape[2], *picture.shape[:2]]
            yield _member(f"{number:08d}", kind, data, label)


def packed(samples: Iterable[Mapping[str, Any]], shard_bytes: int) -> Iterator[bytes]:
    """Tar files of about `shard_bytes` each, of samples with a `__key__` and the bytes of each member by its suffix."""
    buffer, writer = io.BytesIO(), None
    for sample in samples:
        if writer is None:
            buffer = io.BytesIO()
            writer = webdataset.TarWriter(buffer, mtime=0)
        writer.write(sample)
        if buffer.tell() >= shard_bytes:
            writer.close()
            writer = None
            yield buffer.getvalue()
    if writer is not None:
        writer.close()
        yield buffer.getvalue()
