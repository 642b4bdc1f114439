"""A node of the DAG: a stage with its key. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dualprune.pipeline.choices.base import ChoiceSettings
from dualprune.stages.files.folder import canonical, sha256
from dualprune.stages.kinds.job import key_material
from dualprune.stages.objectives.measures import CLASSIFY, Measures
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.training import StageSpec

KEY_LENGTH = 16
"""Hex digits of a key; 64 bits."""


Work = StageSpec | ChoiceSettings
"""What a node does: training on a cluster, or a choice that the driver makes."""


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
    measures: Measures = CLASSIFY
    """What it is measured by; a choice by what its parents are."""
    teacher: str | None = None
    """Of the parents the one that it learns from, if that is not the one that it starts from."""


def keyed(
    name: str,
    work: Work,
    parents: Sequence[Node],
    material: Mapping[str, Any],
    data: tuple[str, str],
    measures: Measures,
    teacher: str | None = None,
) -> Node:
    """A node whose key is the hash of `material`; `data` has its shards and their digest."""
    key = sha256(canonical(material))[:KEY_LENGTH]
    return Node(name, tuple(parent.name for parent in parents), work, key, material, *data, measures, teacher)


def trial(choice: Node, label: str, spec: StageSpec, parents: Sequence[Node]) -> Node:
    """A stage that a choice tries; its first parent is what it starts from.

    No stage of a file can have its name: those have no `@`.
    """
    material = key_material(spec, choice.data_digest, [parent.key for parent in parents])
    data, measures = (choice.shards, choice.data_digest), objective(spec).measures
    return keyed(f"{choice.name}@{label}", spec, parents, material, data, measures, choice.teacher)
