"""The index of a split: which shard holds a sample, where in it, and its label. Made from tar headers, read once."""

from __future__ import annotations

import errno
import fnmatch
import io
import logging
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import IO, Any, NamedTuple

import numpy as np
from braceexpand import braceexpand

from dualprune.stages.data.format import MANIFEST, DataError
from dualprune.stages.data.make.labels import Labels, by_name
from dualprune.stages.data.make.samples import scan, short_sides, spread
from dualprune.stages.data.order import Indices, epoch_order
from dualprune.stages.data.read.cache import Cache
from dualprune.stages.files.folder import Folder, sha256, sha256_of

TOLD = 5
"""Samples of a split that are left out that are named in the log."""
GZIP = b"\x1f\x8b"
"""What a compressed file begins with."""

_log = logging.getLogger(__name__)


class Shard(NamedTuple):
    """What was found of a tar file."""

    rows: Indices
    """Of the index."""
    entry: dict[str, Any]
    """In the manifest."""
    bad: dict[str, str]
    """Why which keys are no samples."""
    kinds: set[str]
    """Of its files, where there is no sample."""
    facts: Any
    """What else was found: of pictures, the short sides of some; of other fields, what each has in common."""


Look = Callable[[IO[bytes], int], tuple[Indices, dict[str, str], Any]]
"""Of a tar file and its number: its index rows, why which keys are no samples, and what else is in it."""


def index(
    url: str,
    name: str,
    shards: dict[str, str],
    held: int = 0,
    bad: float = 0.001,
    cache: Cache | None = None,
    label_field: str | None = None,
) -> dict[str, Any]:
    """Describe WebDataset shards that are there already, so that they can be read. Writes to `url`.

    `shards` has, for `train`, `val` and `test`, a folder or its URL with a pattern: `s3://bucket/imagenet/val-*.tar`.
    Braces are WebDataset's, and all that they name must be there: `train-{000000..001281}.tar`. The same may stand for
    two splits. Without `val`, `held` samples of `train` become it, always the same ones; they lie in all of its shards,
    so on a service shards of their own are faster. A sample is a picture (jpg, jpeg, png) and its label (cls, a
    number; or what is in `label_field` of a json, a number or a class's name); those that are not are left out and
    counted, up to a share `bad` of a split's.
    Every shard is read once; `cache` keeps copies of remote ones. Returns the manifest. Raises DataError.
    """
    if held and "val" in shards:
        raise DataError("samples are `held` out of train to become val, but val has shards: give one of the two")
    labels = Labels(label_field)
    look = partial(_pictures, labels=labels)
    seen = {pattern: matching(pattern, cache, look) for pattern in dict.fromkeys(shards.values())}
    classes = by_name({pattern: [shard.rows for shard in found] for pattern, found in seen.items()}, shards, labels)
    manifest = described(url, name, shards, seen, held, bad, f"jpg, jpeg or png, and {labels.kind}")
    for entry in manifest["splits"].values():
        entry["format"] = "jpeg"
    if classes:
        manifest["classes"] = classes
    if "train" in shards:
        train = seen[shards["train"]]
        manifest["labels"] = class_count(np.concatenate([shard.rows for shard in train]), bad)
        manifest["short_sides"] = spread([side for shard in train for side in shard.facts])
        _check_labels(seen, shards["train"], bad)
    Folder(url).write_json(MANIFEST, manifest)
    return manifest


def described(
    url: str,
    name: str,
    shards: Mapping[str, str],
    seen: Mapping[str, list[Shard]],
    held: int,
    bad: float,
    wanted: str,
) -> dict[str, Any]:
    """The part of a manifest that shards of any samples have, where `seen` says what is in those of each pattern.

    Writes the indexes, and logs what is left out. `wanted` says what a sample is. Raises DataError.
    """
    folder = Folder(url)
    manifest: dict[str, Any] = {"name": name, "splits": {}, "at": {}}
    for pattern, found in seen.items():
        _tell(pattern, found)
    for split, pattern in shards.items():
        found = seen[pattern]
        rows, skipped = _usable(pattern, found, wanted, bad)
        for part, own in (_parts(rows, held) if split == "train" and held else {split: rows}).items():
            manifest["at"][part] = Folder(pattern.rpartition("/")[0]).absolute
            manifest["splits"][part] = {
                "samples": len(own),
                "skipped": skipped,
                "shards": [shard.entry for shard in found],
                "index": write_index(folder, part, own),
            }
    return manifest


def _usable(pattern: str, found: list[Shard], wanted: str, bad: float) -> tuple[Indices, dict[str, dict[str, str]]]:
    """The index rows of a pattern's shards, and what is left out of which. Raises DataError for too many of these."""
    base = pattern.rpartition("/")[0]
    rows = np.concatenate([shard.rows for shard in found])
    skipped = {shard.entry["file"]: shard.bad for shard in found if shard.bad}
    lost = sum(map(len, skipped.values()))
    one = next((f"{key} in {base}/{shard}: {why[key]}" for shard, why in skipped.items() for key in why), "")
    if lost > allowed(bad, len(rows) + lost):
        share = f"{lost} of {len(rows) + lost} samples are bad"
        raise DataError(f"{pattern}: {share}, such as {one}; `bad` allows a share of {bad}")
    if not len(rows):
        kinds = ", ".join(sorted(set[str]().union(*(shard.kinds for shard in found)))[:8]) or "no files"
        lacking = f"{pattern} holds no samples ({wanted}): there are {kinds}"
        raise DataError(f"{lacking}; {one}" if one else lacking)
    return rows, skipped


def _parts(rows: Indices, held: int) -> dict[str, Indices]:
    """Training samples without those that are held out, and these. Raises DataError if there are too few."""
    if held >= len(rows):
        raise DataError(f"{held} samples can't be held out of {len(rows)}")
    order = epoch_order(len(rows), seed=len(rows), epoch=0)
    return {"train": rows[np.sort(order[held:])], "val": rows[np.sort(order[:held])]}


def _tell(pattern: str, found: list[Shard]) -> None:
    """Log what is left out: the first ones, and how many there are."""
    base = pattern.rpartition("/")[0]
    bad = [(f"{base}/{shard.entry['file']}: {key}", why) for shard in found for key, why in shard.bad.items()]
    for where, why in bad[:TOLD]:
        _log.warning("%s is left out: %s", where, why)
    if bad[TOLD:]:
        _log.warning("%s: %d more are left out", pattern, len(bad) - TOLD)


def _check_labels(seen: Mapping[str, list[Shard]], train: str, bad: float) -> None:
    """Raise DataError if more samples of a pattern's shards than may be bad have labels beyond all those of `train`."""
    labels = {pattern: np.concatenate([shard.rows[:, 3] for shard in found]) for pattern, found in seen.items()}
    most = labels[train].max()
    for pattern, own in labels.items():
        beyond = own[own > most]
        if len(beyond) > allowed(bad, len(own)):
            share = f"{len(beyond)} of {len(own)} samples have labels from {beyond.min()} to {beyond.max()}"
            raise DataError(f"{pattern}: {share}, and those of train end at {most}")


def read_index(url: str, entry: Mapping[str, Any]) -> Indices:
    """The rows of a split's index. Raises DataError."""
    data = Folder(url).read(entry["index"]["file"])
    if sha256(data) != entry["index"]["sha256"]:
        raise DataError(f"{url}/{entry['index']['file']} is not what the manifest says: its sha256 differs")
    rows: Indices = np.load(io.BytesIO(data), allow_pickle=False)
    return rows


def allowed(bad: float, samples: int) -> int:
    """How many samples of a split may be bad: a share, but one at least unless that is 0."""
    return max(1, int(bad * samples)) if bad else 0


def class_count(rows: Indices, bad: float) -> int:
    """How many classes there are by the rows of an index, whatever labels so few of them have that they may be bad."""
    labels = np.sort(rows[:, 3])
    return 1 + int(labels[-1 - min(allowed(bad, len(labels)), len(labels) - 1)])


def noted(folder: Folder, file: str) -> dict[str, Any] | None:
    """The JSON object that is in a file; None where there is none. Raises DataError for what is no such thing."""
    try:
        found = folder.read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DataError(f"{folder.url}/{file} is no JSON ({error}); give another folder") from None
    if not isinstance(found, dict):
        raise DataError(f"{folder.url}/{file} is nothing that dualprune wrote; give another folder")
    return found


def matching(pattern: str, cache: Cache | None, look: Look) -> list[Shard]:
    """All shards of a pattern, several at a time."""
    base, _, names = pattern.rpartition("/")
    try:
        wanted = list(braceexpand(names))
    except ValueError:
        raise DataError(f"{pattern} has a brace without its other one") from None
    folder = Folder(base)
    there = folder.names()
    found = {name: fnmatch.filter(there, name) for name in wanted}
    files = sorted(set[str]().union(*found.values()))
    if not files:
        raise DataError(f"{pattern} matches no file")
    missing = [name for name in found if not found[name]]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{pattern}: there is no {base}/{missing[0]}{more}")
    with ThreadPoolExecutor(max_workers=min(8, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(partial(_indexed, folder, cache, look), files, range(len(files))))


def _pictures(shard: IO[bytes], number: int, labels: Labels) -> tuple[Indices, dict[str, str], list[int]]:
    rows, bad = scan(shard, number, labels)
    return rows, bad, short_sides(shard, rows)


def _indexed(folder: Folder, cache: Cache | None, look: Look, file: str, number: int) -> Shard:
    where = f"{folder.url}/{file}"
    try:
        with at_hand(folder, file) as path:
            with open(path, "rb") as shard:
                if shard.read(len(GZIP)) == GZIP:
                    raise DataError(f"{where} is compressed by gzip; unpack it: samples are read by their place")
                shard.seek(0)
                rows, bad, facts = look(shard, number)
            entry = {"file": file, "sha256": sha256_of(path), "bytes": os.path.getsize(path), "samples": len(rows)}
            kinds = set() if len(rows) else _kinds(path)
            if cache is not None and not folder.local:
                cache.keep(path, entry)
    except tarfile.TarError as error:
        raise DataError(f"{where} is no whole tar file: {error}") from None
    except OSError as error:
        if not folder.local:
            raise
        raise DataError(f"{where} can't be read: {error.strerror}") from None
    return Shard(rows, entry, bad, kinds, facts)


@contextmanager
def at_hand(folder: Folder, file: str) -> Iterator[str]:
    """A path of this machine's where a file can be read; where it is on a service, of a copy made for the while."""
    if folder.local:
        path = folder.path(file)
        if not stat.S_ISREG(os.stat(path).st_mode):  # to read a pipe would be to wait for whom writes to it
            raise OSError(errno.EINVAL, "it is no regular file", path)
        yield path
        return
    with tempfile.TemporaryDirectory() as aside:
        path = os.path.join(aside, "copy")
        folder.fetch(file, path)
        yield path


def _kinds(path: str) -> set[str]:
    """What the names in a tar file end with."""
    with tarfile.open(path, mode="r:") as tar:
        return {name.rpartition("/")[2].partition(".")[2] or "files without an ending" for name in tar.getnames()}


def write_index(folder: Folder, split: str, rows: Indices) -> dict[str, str]:
    """Write a split's index; its entry in the manifest."""
    buffer = io.BytesIO()
    np.save(buffer, rows)
    folder.write(f"{split}-index.npy", buffer.getvalue())
    return {"file": f"{split}-index.npy", "sha256": sha256(buffer.getvalue())}
