"""Nodes, edges, keys, what is ready: the DAG as values. Pure; nothing here reads a file."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Protocol

from dualprune.pipeline.choices.base import ChoiceSettings
from dualprune.pipeline.choices.table import CHOICES, trials
from dualprune.pipeline.node import Node, Work, keyed
from dualprune.stages.files import source
from dualprune.stages.kinds.job import key_material
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.training import StageSpec


class _Stage(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def parents(self) -> tuple[str, ...]: ...
    @property
    def spec(self) -> Work: ...
    @property
    def teacher(self) -> str | None: ...


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
    """The training that a node does or, if it is a choice with trials, tries; None if it only chooses."""
    if isinstance(work, StageSpec):
        return work
    found = trials(work)
    return None if found is None else found.stage(work)


def code(works: Iterable[Work]) -> dict[str, bytes]:
    """The files of the user's own modules that some work names, as far as other machines can't have them, by path.

    Raises stages.files.source.SourceError.
    """
    specs = (trained(work) for work in works)
    modules = {module for spec in specs if spec is not None for module in spec.own}
    return {path: data for module in sorted(modules) for path, data in source.travelling(module).items()}


def build(stages: Iterable[_Stage], data: Callable[[StageSpec], tuple[str, str]]) -> list[Node]:
    """Nodes, parents before children. `data` gives a specification's shards and their digest."""
    by_name = {stage.name: stage for stage in stages}
    nodes: dict[str, Node] = {}
    for name in in_order({name: stage.parents for name, stage in by_name.items()}):
        work = by_name[name].spec
        parents = [nodes[parent] for parent in by_name[name].parents]
        spec = trained(work)
        where = (parents[0].shards, parents[0].data_digest) if spec is None else data(spec)
        material = _material(work, where[1], [parent.key for parent in parents])
        measures = parents[0].measures if spec is None else objective(spec).measures
        nodes[name] = keyed(name, work, parents, material, where, measures, by_name[name].teacher)
    return list(nodes.values())


def _material(work: Work, digest: str, parents: list[str]) -> dict[str, Any]:
    if isinstance(work, StageSpec):
        return key_material(work, digest, parents)
    return choice_material(work, digest, parents)


def choice_material(settings: ChoiceSettings, data_digest: str, parents: list[str]) -> dict[str, Any]:
    """What a choice's key is the hash of, as `stages.kinds.job.key_material` says for training."""
    choice = CHOICES[settings.kind]
    spec = settings.model_dump(mode="json", exclude_defaults=True)
    method: Any = choice.version
    if choice.trials is not None:
        inner = key_material(choice.trials.stage(settings), data_digest, [])
        spec["stage"], method = inner["spec"], [choice.version, inner["method"]]
    return {"spec": spec, "method": method, "data": data_digest, "parents": parents}


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
