"""WebDataset shards: written with a manifest, indexed, and their samples decoded. webdataset's one door.

A folder of shards holds `<split>-NNNNNN.tar` files, `<split>-index.npy` (int64 [samples, 4]: shard,
offset and size of the picture in it, label) and manifest.json (counts, shapes, sha256 of each file).
The manifest is written last: without it the folder counts as absent.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import webdataset
from numpy.typing import NDArray
from PIL import Image
from webdataset.autodecode import Decoder, imagehandler

from stages.data.manifest import MANIFEST, DataError, read_manifest
from stages.files import Folder, sha256


def write(
    url: str,
    name: str,
    splits: dict[str, Iterable[tuple[NDArray[np.uint8], int]]],
    shard_bytes: int = 64 << 20,
) -> dict[str, Any]:
    """Write pictures (uint8 [h, w] or [h, w, 3]) and labels as lossless shards. Returns the manifest.

    The same pictures give the same bytes: no times, users or random names are in them.
    """
    folder = Folder(url)
    manifest: dict[str, Any] = {"name": name, "splits": {}}
    for split, samples in splits.items():
        files: list[dict[str, Any]] = []
        rows: list[NDArray[np.int64]] = []
        shape: list[int] = []
        for data, shape in _pack(samples, shard_bytes):  # noqa: B007 - the last one's shape is kept
            file = f"{split}-{len(files):06d}.tar"
            index = _scan(data, len(files))
            rows.append(index)
            folder.write(file, data)
            files.append({"file": file, "sha256": sha256(data), "bytes": len(data), "samples": len(index)})
        if not files:
            raise DataError(f"{name}: the split {split} has no samples to write")
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(rows))
        folder.write(f"{split}-index.npy", buffer.getvalue())
        manifest["splits"][split] = {
            "samples": sum(f["samples"] for f in files),
            "shape": shape,
            "shards": files,
            "index": {"file": f"{split}-index.npy", "sha256": sha256(buffer.getvalue())},
        }
    folder.write_json(MANIFEST, manifest)
    return manifest


class Split:
    """One split of a folder of shards, decoded once and kept in memory as uint8 [samples, c, h, w]."""

    def __init__(self, url: str, split: str) -> None:
        folder = Folder(url)
        entry = read_manifest(url)["splits"][split]
        index_bytes = folder.read(entry["index"]["file"])
        if sha256(index_bytes) != entry["index"]["sha256"]:
            raise DataError(f"{url}/{entry['index']['file']} is not what the manifest says: its sha256 differs")
        index: NDArray[np.int64] = np.load(io.BytesIO(index_bytes), allow_pickle=False)
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


def _pack(samples: Iterable[tuple[NDArray[np.uint8], int]], shard_bytes: int) -> Iterator[tuple[bytes, list[int]]]:
    """Tar files of about `shard_bytes` each, and the shape of their pictures."""
    buffer, writer = io.BytesIO(), None
    shape: list[int] = []
    for number, (pixels, label) in enumerate(samples):
        if writer is None:
            buffer = io.BytesIO()
            writer = webdataset.TarWriter(buffer, mtime=0)
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="PNG")
        writer.write({"__key__": f"{number:08d}", "png": png.getvalue(), "cls": str(label).encode()})
        shape = [1, *pixels.shape] if pixels.ndim == 2 else [pixels.shape[2], *pixels.shape[:2]]
        if buffer.tell() >= shard_bytes:
            writer.close()
            writer = None
            yield buffer.getvalue(), shape
    if writer is not None:
        writer.close()
        yield buffer.getvalue(), shape


def _scan(shard: bytes, number: int) -> NDArray[np.int64]:
    """The index rows of one tar file: where each picture lies, and its label."""
    places: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
        for member in tar:
            key, extension = member.name.rsplit(".", 1)
            if extension == "cls":
                labels[key] = int(shard[member.offset_data : member.offset_data + member.size])
            else:
                places[key] = (member.offset_data, member.size)
    return np.array([(number, *places[key], labels[key]) for key in places], dtype=np.int64)
