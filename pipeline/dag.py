"""Nodes, edges, keys, what is ready: the DAG as values. Pure; nothing here reads a file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Protocol

from stages.files import canonical, sha256
from stages.spec import Spec, key_material

KEY_LENGTH = 16
"""Hex digits of a key; 64 bits."""


class _Stage(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def parents(self) -> tuple[str, ...]: ...
    @property
    def spec(self) -> Spec: ...


@dataclass(frozen=True)
class Node:
    """A stage with its key: the hash of all that can change its result."""

    name: str
    parents: tuple[str, ...]
    spec: Spec
    key: str
    material: Mapping[str, Any]
    """What `key` is the hash of."""
    shards: str
    """URL of its data."""
    data_digest: str


def cycle(parents: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Names along a cycle, its first one again at the end; empty where there is none."""
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def build(stages: Iterable[_Stage], data: Callable[[Spec], tuple[str, str]]) -> list[Node]:
    """Nodes, parents before children. `data` gives a specification's shards and their digest."""
    by_name = {stage.name: stage for stage in stages}
    nodes: dict[str, Node] = {}
    for name in TopologicalSorter({name: stage.parents for name, stage in by_name.items()}).static_order():
        stage = by_name[name]
        shards, digest = data(stage.spec)
        material = key_material(stage.spec, digest, [nodes[parent].key for parent in stage.parents])
        key = sha256(canonical(material))[:KEY_LENGTH]
        nodes[name] = Node(name, stage.parents, stage.spec, key, material, shards, digest)
    return list(nodes.values())


def ready(nodes: Iterable[Node], done: Collection[str], begun: Collection[str]) -> list[Node]:
    """Nodes that can start: not begun, all parents done."""
    return [n for n in nodes if n.name not in done and n.name not in begun and all(p in done for p in n.parents)]


def blocked(nodes: Iterable[Node], failed: Collection[str]) -> list[Node]:
    """Nodes that can't start any more, because an ancestor failed. Parents come before children in `nodes`."""
    gone = set(failed)
    found = []
    for node in nodes:
        if any(parent in gone for parent in node.parents):
            gone.add(node.name)
            found.append(node)
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths at which two nested mappings differ, with both values."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        path, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{path}.")
        else:
            found.append(f"{path}: {before} -> {after}")
    return found
