"""What shards are made of: trees of pictures in a folder for each class, or other shards' samples."""

from __future__ import annotations

import posixpath
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dualprune.stages.data.format import MANIFEST, SPLITS, DataError, shards_folder
from dualprune.stages.data.make.index import index, read_index
from dualprune.stages.data.make.trees import Tree, tree
from dualprune.stages.data.order import Indices
from dualprune.stages.data.read.cache import Cache, default_root
from dualprune.stages.data.read.members import Members
from dualprune.stages.files.folder import Folder


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


def origins(
    where: Mapping[str, str], bad: float, label_field: str | None = None
) -> tuple[dict[str, Source], list[str], dict[str, Skipped]]:
    """The source of each split, the names of the classes of a tree, and what of shards is no sample.

    `where` says of each split where its folders of classes lie, or is a pattern of shards (`train-*.tar`); of shards a
    share `bad` may be no samples, and labels are in `label_field` of a json if that is given. Raises DataError.
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
        found[split], classes = tree(where[split], classes)
    if tars:
        classes = classes or _named(tars)
        with tempfile.TemporaryDirectory() as aside:
            copies = Cache(default_root(), sys.maxsize)  # a shuffle comes back to each of them until the end
            manifest = index(aside, "source", tars, bad=bad, cache=copies, label_field=label_field)
            for split, entry in manifest["splits"].items():
                members = Members(shards_folder(aside, manifest, split), entry["shards"], copies.limit)
                classes = manifest.get("classes", classes)
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
