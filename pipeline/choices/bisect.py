"""A search's trials one after the other: which are done, and which is next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from dualprune.pipeline import dag
from dualprune.pipeline.choices.base import Search, best_factor, next_factor

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Bisection:
    """How far a search is."""

    tried: list[dag.Node]
    """Its trials that are done, in order."""
    next: dag.Node | None
    """The one to run now; None when the search is over."""
    best: dag.Node | None
    """The trial with the largest factor that held, if any did."""


def bisect(
    search: dag.Node,
    parents: Sequence[dag.Node],
    manifests: MutableMapping[str, Manifest],
    stored: Callable[[str], Manifest | None],
) -> Bisection:
    """Follow a search through the trials that are done.

    `manifests` has the parents', by name; those of trials are added to it as `stored` finds them by key. Each
    trial starts from the one with the largest factor that has held so far, the first from the parent itself.
    Raises ChoiceError if the settings as given lose too much already.
    """
    spec = search.spec
    assert isinstance(spec, Search)
    reference = manifests[parents[0].name]["metrics"]["val_accuracy"]
    nodes: list[dag.Node] = []
    tried: list[tuple[float, float]] = []
    while (factor := next_factor(spec, reference, tried)) is not None:
        start = nodes[best_factor(spec, reference, tried)] if tried else parents[0]
        node = dag.trial(search, factor, [start, *parents[1:]])
        manifest = manifests.get(node.name) or stored(node.key)
        if manifest is None:
            return Bisection(nodes, node, nodes[best_factor(spec, reference, tried)] if tried else None)
        manifests[node.name] = manifest
        nodes.append(node)
        tried.append((factor, manifest["metrics"]["val_accuracy"]))
    return Bisection(nodes, None, nodes[best_factor(spec, reference, tried)])
