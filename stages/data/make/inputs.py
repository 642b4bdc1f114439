"""What shards are made of: pictures in a folder for each class, on a disk or a service, or other shards' samples."""

from __future__ import annotations

import os
import posixpath
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dualprune.stages.data.format import MANIFEST, SPLITS, DataError, shards_folder
from dualprune.stages.data.make.index import index, read_index
from dualprune.stages.data.order import Indices
from dualprune.stages.data.read.cache import Cache, default_root
from dualprune.stages.data.read.members import Members
from dualprune.stages.files.folder import Folder, sha256
from dualprune.stages.files.outage import StoreAway, StoreError


@dataclass(frozen=True)
class Tree:
    """Picture files in folders that are named for their classes, `paths` relative to the folder or URL `root`."""

    root: str
    paths: list[str]
    labels: Indices
    states: Indices
    """Of each file its size and when it was changed, [samples, 2]."""

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, samples: Indices) -> Tree:
        """These samples alone."""
        paths = [self.paths[sample] for sample in samples]
        return Tree(self.root, paths, self.labels[samples], self.states[samples])

    def content(self) -> Any:
        """What tells this source from others."""
        return [self.paths, self.labels.tolist(), sha256(self.states.tobytes())]

    def __iter__(self) -> Iterator[tuple[str, bytes, int]]:
        """Of each sample where it was, its bytes and its label."""
        folder = Folder(self.root)
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            try:
                if folder.local:  # Folder.read takes four times as long
                    with open(folder.path(path), "rb") as file:
                        data = file.read()
                else:
                    data = folder.read(path)
            except (StoreError, StoreAway):
                raise
            except OSError as error:
                raise DataError(f"{self.root}/{path} can't be read: {error.strerror or error}") from None
            yield path, data, label


@dataclass(frozen=True)
class Tars:
    """Samples in shards, by the rows of an index."""

    members: Members
    rows: Indices

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, samples: Indices) -> Tars:
        """These samples alone."""
        return Tars(self.members, self.rows[samples])

    def content(self) -> Any:
        """What tells this source from others."""
        return [[shard["sha256"] for shard in self.members.shards], self.rows.tolist()]

    def __iter__(self) -> Iterator[tuple[str, bytes, int]]:
        """Of each sample where it was, its bytes and its label."""
        for shard, offset, size, label in self.rows.tolist():
            name = self.members.name(shard, offset)
            yield f"{self.members.shards[shard]['file']}/{name}", self.members.read(shard, offset, size), label


Source = Tree | Tars
Skipped = dict[str, dict[str, str]]
"""What was left out: by shard, where it was, and why."""


def origins(where: Mapping[str, str], bad: float) -> tuple[dict[str, Source], list[str], dict[str, Skipped]]:
    """The source of each split, the names of the classes of a tree, and what of shards is no sample.

    `where` says of each split where its folders of classes lie, or is a pattern of shards (`train-*.tar`); of shards a
    share `bad` may be no samples. Raises DataError.
    """
    found: dict[str, Source] = {}
    classes: list[str] = []
    skipped: dict[str, Skipped] = {}
    tars = {split: place for split, place in where.items() if "*" in place or place.endswith(".tar")}
    trees = [split for split in SPLITS if split in where and split not in tars]
    if trees and "train" in tars:
        why = f"the labels in {where['train']} say nothing of the class folders in {where[trees[0]]}"
        raise DataError(f"{why}; give shards for {trees[0]} too, or a tree for train")
    for split in trees:
        found[split], classes = _tree(where[split], classes)
    if tars:
        classes = classes or _named(tars)
        with tempfile.TemporaryDirectory() as aside:
            copies = Cache(default_root(), sys.maxsize)  # a shuffle comes back to each of them until the end
            manifest = index(aside, "source", tars, bad=bad, cache=copies)
            for split, entry in manifest["splits"].items():
                members = Members(shards_folder(aside, manifest, split), entry["shards"], copies.limit)
                found[split] = Tars(members, read_index(aside, entry))
                skipped[split] = {
                    file: {f"{file}/{key}": why for key, why in some.items()} for file, some in entry["skipped"].items()
                }
    return {split: found[split] for split in SPLITS if split in found}, classes, skipped


def _named(tars: Mapping[str, str]) -> list[str]:
    """The names of the classes, where a manifest of ours lies beside the training shards and has them.

    Raises DataError if that says that the pictures are of one shape, and so not encoded ones of any size.
    """
    place = posixpath.dirname(tars.get("train", ""))
    try:
        found = Folder(place).read_json(MANIFEST) if place else None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return []
    if not isinstance(found, dict) or not isinstance(found.get("splits"), dict) or "train" not in found["splits"]:
        return []  # another's
    if "shape" in found["splits"]["train"]:
        raise DataError(f"{place} holds pictures of one shape, and is ready as it is: data: {{shards: {place}}}")
    return list(found.get("classes", []))


def _tree(place: str, known: list[str]) -> tuple[Tree, list[str]]:
    """A tree and its classes, numbered as torchvision's ImageFolder does, or as another split's are: those `known`.

    Raises DataError.
    """
    folder = Folder(place)
    there, paths, states = _on_disk(folder.path()) if folder.local else _on_service(folder)
    strange = [name for name in there if known and name not in known]
    if strange:
        raise DataError(f"{place} has the class {strange[0]}, which train does not have")
    if not paths:
        raise DataError(f"{place} holds no pictures")
    numbers = {name: number for number, name in enumerate(known or there)}
    labels = [numbers[path.partition("/")[0]] for path in paths]
    empty = [] if known else sorted(set(there).difference(path.partition("/")[0] for path in paths))
    if empty:
        raise DataError(f"{place}/{empty[0]} holds no pictures, but would count as a class; remove the folder")
    return Tree(place, paths, np.array(labels, dtype=np.int64), np.array(states, dtype=np.int64)), list(numbers)


def _on_disk(root: str) -> tuple[list[str], list[str], list[tuple[int, int]]]:
    """Classes, and of each picture its path and its state. Raises DataError.

    torchvision's make_dataset would leave out folders that can't be read, and follow links in circles.
    """
    from torchvision.datasets.folder import find_classes

    try:
        there, _ = find_classes(root)
    except OSError as error:
        raise DataError(f"{root} is no tree of a folder for each class: {error}") from None
    paths, states = [], []
    for name in there:
        try:
            found = sorted(_pictures(os.path.join(root, name), (_identity(root),)))
        except OSError as error:
            raise DataError(f"{error.filename} can't be read: {error.strerror}") from None
        paths += [os.path.relpath(os.path.join(folder, file), root) for folder, file, _ in found]
        states += [state for *_, state in found]
    return there, paths, states


def _pictures(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Folder, name and state of each picture in a folder and those in it. Raises OSError, and DataError for circles."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    above = (*above, _identity(folder))
    if above[-1] in above[:-1]:
        raise DataError(f"{folder} is a link to a folder that it is in itself, and so has no end; remove it")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _pictures(entry.path, above)
            elif entry.name.lower().endswith(IMG_EXTENSIONS):
                info = entry.stat()
                if not stat.S_ISREG(info.st_mode):
                    raise DataError(f"{entry.path} is no regular file, and not to be read; remove it")
                yield folder, entry.name, (info.st_size, info.st_mtime_ns)


def _identity(folder: str) -> tuple[int, int]:
    info = os.stat(folder)
    return info.st_dev, info.st_ino


def _on_service(folder: Folder) -> tuple[list[str], list[str], list[tuple[int, int]]]:
    """The same, in the same order, from one listing. Raises DataError."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    files = {path: file for path, file in folder.files().items() if "/" in path}
    if not files:
        raise DataError(f"{folder.url} is no tree of a folder for each class: no file lies in a folder")
    pictures = [path for path in files if path.lower().endswith(IMG_EXTENSIONS)]
    paths = sorted(pictures, key=lambda path: (path.partition("/")[0], posixpath.split(path)))
    states = [(files[path].bytes, int(files[path].modified * 1e9)) for path in paths]
    return sorted({path.partition("/")[0] for path in files}), paths, states
