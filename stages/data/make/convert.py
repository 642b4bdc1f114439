"""Shards of encoded pictures made from a tree of files or from other shards: shuffled, of equal size, many at a time.

Which samples a shard holds, and in which order, depends on the source and the options alone. Each shard that is
written leaves a note in `parts/`, so that a conversion that was killed goes on after the last one; the manifest comes
last, and the notes go.
"""

from __future__ import annotations

import io
import math
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context, parent_process
from typing import Any, NamedTuple

import numpy as np

from dualprune.stages.data.format import MANIFEST, SPLITS, DataError
from dualprune.stages.data.make.index import allowed, class_count, noted, write_index
from dualprune.stages.data.make.inputs import Skipped, Source, origins
from dualprune.stages.data.make.samples import scan, short_sides, spread
from dualprune.stages.data.make.trees import Tree
from dualprune.stages.data.order import Indices, epoch_order
from dualprune.stages.data.read.decoding import BadPicture
from dualprune.stages.data.read.pictures import packed
from dualprune.stages.data.shards import tarred
from dualprune.stages.files.folder import Folder, canonical, sha256

PARTS = "parts"
PLAN = f"{PARTS}/plan.json"
SAMPLED = 64
"""Pictures whose mean size says how many go into a shard."""


@dataclass(frozen=True)
class Options:
    """What is made of a source."""

    shard_bytes: int = 128 << 20
    """Of a shard, about."""
    resize: int | None = None
    """Longer short sides are made so many pixels long."""
    quality: int | None = None
    """Of JPEG; all pictures are encoded anew."""
    held: int = 0
    """Samples of `train` that become `val`; what the source calls `val` is `test` then."""
    cut: tuple[float, float] | None = None
    """Shares of `train` that become `val` and `test`, where there is nothing else."""
    seed: int = 0
    """Of the order, and of what is held out."""
    bad: float = 0.001
    """Share of a split's samples that may be left out, because they can't be read."""
    max_pixels: int = 1 << 26
    """Larger pictures are bad."""
    check: bool = True
    """Whether pictures that go into a shard as they are are decoded all the same, to see that they are whole."""


class Shard(NamedTuple):
    """A shard to be written."""

    split: str
    file: str
    source: Source
    numbers: Indices
    """Of its samples, in their split's source."""


def convert(
    url: str,
    name: str,
    where: Mapping[str, str],
    options: Options,
    processes: int | None = None,
    progress: Callable[[int, int], None] = lambda done, samples: None,
    label_field: str | None = None,
) -> dict[str, Any]:
    """Write shards of what lies at `where` into the folder `url`, in so many processes (or all cores).

    `where` says of each split where its folders of classes lie, or is a pattern of shards (`train-*.tar`),
    whose labels are in `label_field` of a json if that is given.

    Goes on where a former conversion with the same options was cut off. `progress` is told how many samples of all are
    done. Returns the manifest. Raises DataError, also for a folder that holds anything else.
    """
    folder = Folder(url)
    sources, classes, skipped = origins(where, options.bad, label_field)
    plan = _plan(name, sources, options)
    finished = begin(folder, plan)
    if finished is not None:
        return finished
    shards = _cut(sources, options)
    parts = _all_written(url, shards, skipped, options, processes, progress)
    manifest: dict[str, Any] = {"name": name, "made": plan, "splits": {}}
    if classes:
        manifest["classes"] = classes
    passed = {split: tree.passed for split, tree in sources.items() if isinstance(tree, Tree) and tree.passed}
    if passed:
        manifest["passed"] = passed
    for split in SPLITS:
        written = [parts[shard.file] for shard in shards if shard.split == split]
        entry, rows = _entry(folder, split, written, skipped.get(split, {}))
        manifest["splits"][split] = entry
        if split == "train":
            manifest["short_sides"] = spread([side for part in written for side in part.get("sides", [])])
            if not classes:
                manifest["labels"] = class_count(rows, options.bad)
    folder.write_json(MANIFEST, manifest)
    folder.remove(PARTS)
    return manifest


def _plan(name: str, sources: Mapping[str, Source], options: Options) -> dict[str, Any]:
    """What shards are made of, and how: what does so again goes on with them."""
    facts = {split: sha256(canonical(source.content())) for split, source in sources.items()}
    plan = {"name": name, "source": facts, **asdict(options)}
    del plan["bad"]  # changes nothing of what is written
    # Or folders from before these were there would be of other options.
    if options.check:
        del plan["check"]
    del plan["cut"]
    return plan if options.cut is None else {**plan, "cut": list(options.cut)}


def _entry(
    folder: Folder, split: str, written: list[dict[str, Any]], skipped: Mapping[str, dict[str, str]]
) -> tuple[dict[str, Any], Indices]:
    """A split's entry in the manifest, of what `_written` says of its shards, and its index. Raises DataError."""
    own = [part for part in written if len(part["rows"])]
    if not own:
        raise DataError(f"none of the samples for {split} can be read")
    bad = dict(skipped)
    for part in written:
        if part["bad"]:
            bad[part["entry"]["file"]] = bad.get(part["entry"]["file"], {}) | part["bad"]
    rows = np.concatenate([np.insert(part["rows"], 0, number, axis=1) for number, part in enumerate(own)])
    return {
        "samples": len(rows),
        "format": "jpeg",
        "skipped": bad,
        "shards": [part["entry"] for part in own],
        "index": write_index(folder, split, rows),
    }, rows


def _all_written(
    url: str,
    shards: list[Shard],
    skipped: Mapping[str, Skipped],
    options: Options,
    processes: int | None,
    progress: Callable[[int, int], None],
) -> dict[str, dict[str, Any]]:
    """What `_written` says of each shard, by its file."""
    made: dict[str, dict[str, Any]] = {}
    done, lost, samples = 0, Counter[str](), Counter[str]()
    for shard in shards:
        samples[shard.split] += len(shard.numbers)
    total = samples.total()
    for split, bad in skipped.items():
        lost[split] = sum(map(len, bad.values()))
        samples[split] += lost[split]
        _allowed(split, lost, samples, {where: why for some in bad.values() for where, why in some.items()}, options)
    others = set(active_children())
    # Not forked: a filesystem's connections and threads don't outlive that.
    with ProcessPoolExecutor(processes or len(os.sched_getaffinity(0)), get_context("spawn"), _bound) as pool:
        try:
            waiting = {pool.submit(_written, url, shard, options): shard for shard in shards}
            for future in as_completed(waiting):
                shard, part = waiting.pop(future), future.result()
                made[shard.file] = {**part, "rows": np.array(part["rows"], dtype=np.int64)}  # an eighth of the memory
                lost[shard.split] += len(part["bad"])
                _allowed(shard.split, lost, samples, part["bad"], options)
                done += len(shard.numbers)
                progress(done, total)
        except BrokenProcessPool:
            raise DataError("a process that wrote a shard was killed; if memory was short, use fewer") from None
        except BaseException:
            for process in set(active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise
    return made


def _bound() -> None:
    """What tells to leave is for the process that gave the work, and without that one this one ends."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def begin(folder: Folder, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Note in the folder what it is for; the manifest, if all was done before. Raises DataError if it holds others."""
    names = folder.names()
    if MANIFEST in names:
        manifest = noted(folder, MANIFEST) or {}
        if manifest.get("made") == plan:
            _whole(folder, manifest)
            folder.remove(PARTS)
            return manifest
        raise DataError(f"{folder.url} holds shards of another source or with other options; give another folder")
    begun = noted(folder, PLAN)
    if begun is None and set(names) <= {PARTS}:
        folder.write_json(PLAN, plan)
    elif begun == plan:
        for name in names:
            if name.endswith(".part"):  # of a write that was cut off
                folder.remove(name)
    else:
        what = f"{names[0]} and more" if begun is None else "what was begun with another source or other options"
        raise DataError(f"{folder.url} holds {what}; give an empty folder")
    return None


def _whole(folder: Folder, manifest: dict[str, Any]) -> None:
    """Raise DataError unless each file is there, of the size that the manifest says."""
    sizes = folder.sizes()
    if sizes is None:
        return
    for entry in [entry for split in manifest["splits"].values() for entry in (split["index"], *split["shards"])]:
        size = sizes.get(entry["file"])
        if size is None or size != entry.get("bytes", size):
            what = f"{folder.url}/{entry['file']} is {'missing' if size is None else 'of another size'}"
            raise DataError(f"{what} since these shards were made; remove {folder.url}, and make them again")


def _cut(sources: Mapping[str, Source], options: Options) -> list[Shard]:
    """The shards of all splits, their samples shuffled. Those of a split differ by a sample at most."""
    orders = {split: (source, epoch_order(len(source), options.seed, 0)) for split, source in sources.items()}
    if options.held:
        train, order = orders["train"]
        if options.held >= len(order):
            raise DataError(f"{options.held} samples can't be held out of {len(order)}")
        orders["train"], orders["val"] = (train, order[options.held :]), (train, order[: options.held])
    if options.cut is not None:
        train, order = orders["train"]
        val, test = (max(1, round(share * len(order))) for share in options.cut)
        if val + test >= len(order):
            raise DataError(f"{val} and {test} samples can't be cut out of {len(order)}")
        orders["val"], orders["test"] = (train, order[:val]), (train, order[val : val + test])
        orders["train"] = (train, order[val + test :])
    shards = []
    for split in SPLITS:
        source, order = orders[split]
        some = order[:SAMPLED]
        size = len(tarred(_packed(source.part(some), some, options, {}))) / len(some)
        count = min(math.ceil(len(order) * size / options.shard_bytes), len(order))
        parts = np.array_split(order, count)
        shards += [Shard(split, f"{split}-{n:06d}.tar", source.part(part), part) for n, part in enumerate(parts)]
    return shards


def _packed(
    source: Source, numbers: Indices, options: Options, bad: dict[str, str]
) -> Iterator[tuple[str, str, bytes, int]]:
    """Of each sample its key, `jpg` or `png`, its bytes and its label; the bad ones go to `bad`, with the reason."""
    for number, (where, data, label) in zip(numbers.tolist(), source, strict=True):
        try:
            kind, picture = packed(data, options.resize, options.quality, options.max_pixels, options.check)
        except BadPicture as error:
            bad[where if where not in bad else f"{where} (sample {number})"] = str(error)  # long names are cut
        else:
            yield f"{number:08d}-{_plain(where)}", kind, picture, label


def _written(url: str, shard: Shard, options: Options) -> dict[str, Any]:
    """Write a shard, unless that was done before. Its entry in the manifest, its index rows but for the number of the
    shard, and its bad samples."""
    folder, note = Folder(url), f"{PARTS}/{shard.file}.json"
    with suppress(FileNotFoundError):
        done: dict[str, Any] = folder.read_json(note)
        if folder.info(shard.file).bytes == done["entry"]["bytes"]:
            return done
    bad: dict[str, str] = {}
    data = tarred(_packed(shard.source, shard.numbers, options, bad))
    rows, _ = scan(io.BytesIO(data), 0)
    entry = {"file": shard.file, "sha256": sha256(data), "bytes": len(data), "samples": len(rows)}
    sides = short_sides(io.BytesIO(data), rows)
    made = {"entry": entry, "rows": rows[:, 1:].tolist(), "bad": bad, "sides": sides}
    if len(rows):
        folder.write(shard.file, data)
        folder.write_json(note, made)
    return made


def _plain(where: str) -> str:
    """The name of a sample's file, as a key can have it: WebDataset's keys end at the first dot."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", os.path.splitext(os.path.basename(where))[0])


def _allowed(
    split: str, lost: Mapping[str, int], samples: Mapping[str, int], bad: Mapping[str, str], options: Options
) -> None:
    """Raise DataError once too many samples of a split are bad."""
    if lost[split] > allowed(options.bad, samples[split]):
        where, why = next(iter(bad.items()))
        share = f"{split}: {lost[split]} of {samples[split]} samples are bad"
        raise DataError(f"{share}, such as {where}: {why}; `bad` allows a share of {options.bad}")
