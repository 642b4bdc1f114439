"""Pictures per second: ours, torchvision's ImageFolder, plain webdataset, MosaicML's streaming, and decoding alone.

`python -m tests.bench.loader [--quick] [--json PATH]`, with DUALPRUNE_DATA naming a folder that holds imagenet_sample/.

Each goes once through the same JPEGs in the same random crops' distribution: RandomResizedCrop 224 and a mirror, to
normalised fp32 [n, 3, 224, 224]. `ours, bytes` ends with bytes, which is the processor's part where a GPU normalises.
In one process, by the processor's time; then with a worker process for each core, by the clock. `limit` only decodes,
whole, with the same decoder. The C library's allocator keeps what is freed, as where stages train on a processor, for
all of them alike. MosaicML's row is there if mosaicml-streaming is installed.
"""

from __future__ import annotations

import importlib.util
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from dualprune.stages.data.make.index import index
from dualprune.stages.data.order import epoch_order, micro_batches
from dualprune.stages.data.read.reading import Job
from dualprune.stages.data.read.stream import Shards, Stream
from dualprune.stages.engine.allocator import keep_freed
from dualprune.stages.settings.data import Data
from tests.bench.common import interleaved, options, ratios, report

BATCH, SIDE = 50, 224
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
Variant = Callable[[int], Iterator[Any]]
"""An epoch's batches with so many worker processes."""


def theirs() -> T.Compose:
    """The transforms of torchvision's own reference training."""
    steps = [T.RandomResizedCrop(SIDE), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)]
    return T.Compose(steps)


def unpacked(tars: list[Path], folder: Path) -> list[bytes]:
    """Write the pictures as an ImageFolder, a folder per class; all of them, encoded."""
    pictures = []
    for file in tars:
        with tarfile.open(file) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name, data in members.items():
            if name.endswith(".jpg"):
                place = folder / f"{int(members[name[:-3] + 'cls']):04d}"
                place.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(data)
                pictures.append(data)
    return pictures


def variants(tars: list[Path], folder: Path) -> tuple[dict[str, Variant], list[bytes]]:
    """What is compared, and the encoded pictures."""
    pictures = unpacked(tars, folder / "tree")
    (folder / "shards").mkdir()
    for file in tars:
        (folder / "shards" / file.name).symlink_to(file)
    manifest = index(str(folder / "index"), "sample", dict.fromkeys(("train", "val", "test"), f"{folder}/shards/*.tar"))
    tree = ImageFolder(str(folder / "tree"), theirs())

    def ours(workers: int) -> Iterator[Any]:
        settings = Data(shards=".", mean=MEAN, std=STD, flip=True, workers=workers)
        stream = Stream(Shards(str(folder / "index"), manifest, "train", settings, 0, 1000), torch.device("cpu"))
        batches = stream.epoch(micro_batches(stream.order(0), len(stream) // BATCH), 0)
        return ((batch["image"], batch["label"]) for batch in batches)

    def as_bytes(workers: int) -> Iterator[Any]:
        settings = Data(shards=".", flip=True, workers=workers)
        shards = Shards(str(folder / "index"), manifest, "train", settings, 0, 1000)
        parts = micro_batches(epoch_order(len(shards), 0, 0), len(shards) // BATCH)
        return iter(DataLoader(shards, None, sampler=[Job(part, 0) for part in parts], num_workers=workers))

    def torchvision(workers: int) -> Iterator[Any]:
        return iter(DataLoader(tree, BATCH, shuffle=True, num_workers=workers))

    def plain(workers: int) -> Iterator[Any]:
        urls = [str(file) for file in tars]
        dataset = webdataset.WebDataset(urls, shardshuffle=100, seed=0, empty_check=False).shuffle(1000)
        made = dataset.decode("pil").to_tuple("jpg", "cls").map_tuple(theirs(), int).batched(BATCH)
        return iter(webdataset.WebLoader(made, batch_size=None, num_workers=workers))

    compared: dict[str, Variant] = {
        "ours": ours,
        "ours, bytes": as_bytes,
        "torchvision": torchvision,
        "webdataset": plain,
    }
    if importlib.util.find_spec("streaming") is not None:
        compared["mosaicml"] = mosaic(pictures, folder / "mds")
    return compared, pictures


def mosaic(pictures: list[bytes], folder: Path) -> Variant:
    """MosaicML's StreamingDataset over shards of its own format, with torchvision's transforms."""
    from streaming import MDSWriter, StreamingDataset  # type: ignore[import-not-found]
    from streaming.base.util import clean_stale_shared_memory  # type: ignore[import-not-found]

    with MDSWriter(out=str(folder), columns={"picture": "bytes", "label": "int"}) as writer:
        for number, picture in enumerate(pictures):
            writer.write({"picture": picture, "label": number})
    transforms = theirs()

    class Transformed(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> Any:
            sample = super().__getitem__(at)
            return transforms(Image.open(io.BytesIO(sample["picture"])).convert("RGB")), sample["label"]

    def epoch(workers: int) -> Iterator[Any]:
        clean_stale_shared_memory()  # its locks don't outlive a fork: one data set for each epoch
        made = Transformed(local=str(folder), shuffle=True, batch_size=BATCH)
        return iter(DataLoader(made, BATCH, num_workers=workers))

    return epoch


def drained(variant: Variant, workers: int) -> int:
    """Go through an epoch; how many pictures it had."""
    return sum(len(batch[0]) for batch in variant(workers))


def decoded(pictures: list[bytes], decode: Callable[[bytes], Any]) -> None:
    """Decode all pictures, one after another."""
    for picture in pictures:
        decode(picture)


def clocked(variant: Variant, workers: int) -> tuple[int, float]:
    """Pictures, and seconds of the clock."""
    began = time.perf_counter()
    count = drained(variant, workers)
    return count, time.perf_counter() - began


def main() -> None:
    """Measure and report."""
    asked = options(__doc__ or "")
    root = os.environ.get("DUALPRUNE_DATA")
    if root is None:
        sys.exit("DUALPRUNE_DATA is not set: it names a folder that holds imagenet_sample/")
    torch.set_num_threads(1)
    keep_freed()
    tars = sorted(Path(root, "imagenet_sample").glob("*.tar"))[: 2 if asked.quick else None]
    rounds, cores = 3, len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        compared, pictures = variants(tars, Path(folder))
        for name, variant in compared.items():
            assert drained(variant, 0) == len(pictures), f"{name} leaves out pictures"
        alone: dict[str, Callable[[], object]] = {
            name: lambda variant=variant: drained(variant, 0)  # type: ignore[misc]
            for name, variant in compared.items()
        }
        alone["limit"] = lambda: decoded(pictures, simplejpeg.decode_jpeg)
        alone["limit by PIL"] = lambda: decoded(
            pictures, lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        )
        one = interleaved(alone, rounds, block=1, clock=time.process_time)
        many = {name: [clocked(variant, cores) for _ in range(rounds)] for name, variant in compared.items()}
    rows = [
        {
            "loader": name,
            "images_s_core": 1000 * len(pictures) / statistics.median(one[name]),
            "of_the_limit": ratios(one["limit"], one[name]),
            "of_torchvision": ratios(one["torchvision"], one[name]),
            f"images_s_{cores}_workers": (
                statistics.median(count / seconds for count, seconds in many[name]) if name in many else ""
            ),
        }
        for name in alone
    ]
    report(f"{len(pictures)} JPEGs, RandomResizedCrop {SIDE}, batches of {BATCH}", rows, asked)


if __name__ == "__main__":
    main()
