"""Trees of pictures: a folder for each class, on a disk or a service.

What is hidden or a system's is passed over by its name, and what else is no picture by its; both are counted.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dualprune.stages.data.format import DataError
from dualprune.stages.data.make.names import is_picture, is_systems, passed_over
from dualprune.stages.data.order import Indices
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
    passed: dict[str, int] = field(default_factory=dict)
    """What was passed over because of its name, and how often."""

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


class _Listing(NamedTuple):
    """What lies in a tree."""

    classes: list[str]
    paths: list[str]
    """Of pictures, in torchvision's order."""
    states: list[tuple[int, int]]
    passed: Counter[str]


def tree(place: str, known: list[str]) -> tuple[Tree, list[str]]:
    """A tree and its classes, numbered as torchvision's ImageFolder does, or as another split's are: those `known`.

    Raises DataError.
    """
    folder = Folder(place)
    there, paths, states, passed = _on_disk(folder.path()) if folder.local else _on_service(folder)
    others = f": there are {', '.join(passed)}" if passed else ""
    strange = [name for name in there if known and name not in known]
    if strange:
        raise DataError(f"{place} has the class {strange[0]}, which train does not have")
    if not there:
        raise DataError(f"{place} is no tree of a folder for each class: no file lies in a folder{others}")
    if not paths:
        raise DataError(f"{place} holds no pictures{others}")
    inner = sorted({path.split("/")[1] for path in paths if path.count("/") > 1})
    if len(there) == 1 and not known and len(inner) > 1:
        what = f"one folder, {there[0]}, with others in it, such as {inner[0]} and {inner[1]}"
        raise DataError(
            f"{place} has {what}: it would be the only class; if these are the classes, give {place}/{there[0]}"
        )
    numbers = {name: number for number, name in enumerate(known or there)}
    labels = [numbers[path.partition("/")[0]] for path in paths]
    empty = [] if known else sorted(set(there).difference(path.partition("/")[0] for path in paths))
    if empty:
        raise DataError(f"{place}/{empty[0]} holds no pictures, but would count as a class; remove the folder")
    labelled, changed = np.array(labels, dtype=np.int64), np.array(states, dtype=np.int64)
    return Tree(place, paths, labelled, changed, dict(passed.most_common())), list(numbers)


def _on_disk(root: str) -> _Listing:
    """Raises DataError. torchvision's make_dataset would leave out folders that can't be read, and follow links in
    circles."""
    passed = Counter[str]()
    found = _Listing([], [], [], passed)
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if _dangles(entry) and not is_systems(entry.name):
                    raise DataError(f"{entry.path} is a link to nothing; remove it, or put back what it names")
                if entry.is_dir() and not is_systems(entry.name):
                    found.classes.append(entry.name)
                else:
                    passed[_outside(entry.name, entry.is_dir())] += 1
    except OSError as error:
        raise DataError(f"{root} is no tree of a folder for each class: {error}") from None
    found.classes.sort()
    for name in found.classes:
        try:
            pictures = sorted(_pictures(os.path.join(root, name), (_identity(root),), passed))
        except OSError as error:
            raise DataError(f"{error.filename} can't be read: {error.strerror}") from None
        found.paths.extend(os.path.relpath(os.path.join(folder, file), root) for folder, file, _ in pictures)
        found.states.extend(state for *_, state in pictures)
    return found


def _outside(name: str, folder: bool = False) -> str:
    """What to call something that lies beside the folders of classes."""
    return "pictures in no class's folder" if is_picture(name) and not is_systems(name) else passed_over(name, folder)


def _pictures(
    folder: str, above: tuple[tuple[int, int], ...], passed: Counter[str]
) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Folder, name and state of each picture in a folder and those in it; others are counted in `passed`.

    Raises OSError, and DataError for circles.
    """
    above = (*above, _identity(folder))
    if above[-1] in above[:-1]:
        raise DataError(f"{folder} is a link to a folder that it is in itself, and so has no end; remove it")
    with os.scandir(folder) as entries:
        for entry in entries:
            inner = entry.is_dir()
            if is_systems(entry.name) or not (inner or is_picture(entry.name)):
                passed[passed_over(entry.name, inner)] += 1
            elif inner:
                yield from _pictures(entry.path, above, passed)
            elif _dangles(entry):
                raise DataError(f"{entry.path} is a link to nothing; remove it, or put back what it names")
            else:
                info = entry.stat()
                if not stat.S_ISREG(info.st_mode):
                    raise DataError(f"{entry.path} is no regular file, and not to be read; remove it")
                yield folder, entry.name, (info.st_size, info.st_mtime_ns)


def _dangles(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _identity(folder: str) -> tuple[int, int]:
    info = os.stat(folder)
    return info.st_dev, info.st_ino


def _on_service(folder: Folder) -> _Listing:
    """The same, in the same order, from one listing."""
    files, passed, pictures, classes = folder.files(), Counter[str](), [], set()
    for path in files:
        *inner, name = path.split("/")
        system = next((part for part in inner if is_systems(part)), None)
        if system is not None:
            passed[f"{system}/"] += 1
            continue
        classes.update(inner[:1])
        if inner and is_picture(name) and not is_systems(name):
            pictures.append(path)
        else:
            passed[passed_over(name) if inner else _outside(name)] += 1
    paths = sorted(pictures, key=lambda path: (path.partition("/")[0], posixpath.split(path)))
    states = [(files[path].bytes, int(files[path].modified * 1e9)) for path in paths]
    return _Listing(sorted(classes), paths, states, passed)
