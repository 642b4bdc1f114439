"""Nodes, edges, keys, what is ready: the DAG as values. Pure; nothing here reads a file."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Protocol

from dualprune.pipeline.choices.base import METHOD_VERSION, Choice, Replace, Search, Select, shrunk
from dualprune.stages.files.folder import canonical, sha256
from dualprune.stages.kinds.job import key_material
from dualprune.stages.settings.spec import StageSpec

KEY_LENGTH = 16
"""Hex digits of a key; 64 bits."""


Work = StageSpec | Choice
"""What a node does: training on a cluster, or a choice that the driver makes."""


class _Stage(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def parents(self) -> tuple[str, ...]: ...
    @property
    def spec(self) -> Work: ...


@dataclass(frozen=True)
class Node:
    """A stage with its key: the hash of all that can change its result."""

    name: str
    parents: tuple[str, ...]
    spec: Work
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


def in_order(parents: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Names, parents before children, and otherwise as they were given."""
    places = {name: number for number, name in enumerate(parents)}
    sorter = TopologicalSorter(parents)
    sorter.prepare()
    able: list[tuple[int, str]] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(able, (places[name], name))
        _, name = heapq.heappop(able)
        yield name
        sorter.done(name)


def trained(work: Work) -> StageSpec | None:
    """The training that a node does or, if it is a search, tries out; None if it only chooses."""
    return work.stage if isinstance(work, Search) else None if isinstance(work, Select | Replace) else work


def build(stages: Iterable[_Stage], data: Callable[[StageSpec], tuple[str, str]]) -> list[Node]:
    """Nodes, parents before children. `data` gives a specification's shards and their digest."""
    by_name = {stage.name: stage for stage in stages}
    nodes: dict[str, Node] = {}
    for name in in_order({name: stage.parents for name, stage in by_name.items()}):
        stage = by_name[name]
        parents = [nodes[parent] for parent in stage.parents]
        spec = trained(stage.spec)
        shards, digest = (parents[0].shards, parents[0].data_digest) if spec is None else data(spec)
        nodes[name] = _node(name, stage.spec, parents, shards, digest)
    return list(nodes.values())


def trial(search: Node, factor: float, parents: Sequence[Node]) -> Node:
    """The stage by which a search tries a factor; its first parent is what it starts from.

    No stage of a file can have its name: those have no `@`.
    """
    assert isinstance(search.spec, Search)
    spec = shrunk(search.spec.stage, factor)
    return _node(f"{search.name}@{factor:.4g}", spec, parents, search.shards, search.data_digest)


def _node(name: str, work: Work, parents: Sequence[Node], shards: str, digest: str) -> Node:
    keys = [parent.key for parent in parents]
    if isinstance(work, Select | Replace | Search):
        material = choice_material(work, digest, keys)
    else:
        material = key_material(work, digest, keys)
    key = sha256(canonical(material))[:KEY_LENGTH]
    return Node(name, tuple(parent.name for parent in parents), work, key, material, shards, digest)


def choice_material(choice: Choice, data_digest: str, parents: list[str]) -> dict[str, Any]:
    """What a choice's key is the hash of, as `stages.kinds.job.key_material` says for training."""
    settings = choice.model_dump(mode="json", exclude_defaults=True)
    method: Any = METHOD_VERSION
    if isinstance(choice, Search):
        inner = key_material(choice.stage, data_digest, [])
        settings["stage"], method = inner["spec"], [METHOD_VERSION, inner["method"]]
    return {"spec": settings, "method": method, "data": data_digest, "parents": parents}


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
    keys = [*old, *(key for key in new if key not in old)]
    return [text for key in keys for text in _different(old.get(key), new.get(key), f"{prefix}{key}")]


def _different(old: Any, new: Any, path: str) -> list[str]:
    if old == new:
        return []
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return differences(old, new, f"{path}.")
    if isinstance(old, list) and isinstance(new, list):
        if len(old) == len(new):
            pairs = enumerate(zip(old, new, strict=True))
            return [text for n, (before, after) in pairs for text in _different(before, after, f"{path}[{n}]")]
        if any(isinstance(one, Mapping) for one in old + new):
            return [f"{path}: {len(old)} -> {len(new)} of them"]
    return [f"{path}: {old} -> {new}"]
