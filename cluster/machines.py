"""The machines of a cluster: those that are there, and what they can hold."""

from __future__ import annotations

from typing import Any

from dualprune.cluster import private
from dualprune.cluster.capacity import Node


def refusal(ray: Any, needed: dict[str, float]) -> str | None:
    """Why a cluster can never hold what is needed all at once, or None if it can, or may grow to."""
    there, grown = ray.cluster_resources(), private.most_resources()
    for name, amount in needed.items():
        most = max(there.get(name, 0.0), grown.get(name, 0.0))
        if amount > most:
            instead = "train on CPUs with `cluster.gpus: 0`" if name == "GPU" and not most else "use fewer workers"
            return f"a stage's workers need {amount:g} {name}s at once, and the cluster has {most:g}; {instead}"
    return None


def nodes(ray: Any) -> list[Node]:
    """The cluster's machines: those that are there, and those that were taken away."""
    free, draining = private.free_resources(), private.draining()
    found = []
    for entry in ray.nodes():
        identity = entry["NodeID"]
        if entry["Alive"]:
            found.append(Node(identity, entry["Resources"], free.get(identity, {}), identity in draining))
        elif private.preempted(entry):
            found.append(Node(identity, {}, {}, leaving=True))
    return found
