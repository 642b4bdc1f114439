"""What the stages of a plan are going to take: time on the clock, and hours of GPUs. Pure.

Either from a given speed or from the steps of stages that are done. Training alone counts: neither start-up nor
evaluation, but for what measured stages spent on it; of a search, one trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dualprune.pipeline import dag
from dualprune.pipeline.config.schema import Cluster
from dualprune.pipeline.node import Node
from dualprune.pipeline.plan.state import Planned


@dataclass(frozen=True)
class Cost:
    """Of a stage that is not done."""

    seconds: float
    """On the clock."""
    hours: float
    """Of all GPUs together; of all workers, where those have no GPU."""


def estimated(plan: Iterable[Planned], cluster: Cluster, speed: float | None = None) -> dict[str, Cost]:
    """By name, of the stages that are not done and that there is a speed for.

    `speed` is images a second of one GPU (of one worker, where workers have none). Without it, the steps of
    stages that are done tell: of those that train the same network on the same data in the same batches and precision.
    """
    plan = list(plan)
    devices = cluster.gpus or 1
    known = {} if speed is not None else _measured(plan)
    found = {}
    for planned in plan:
        spec = dag.trained(planned.node.spec)
        if planned.state == "cached" or planned.size is None or spec is None:
            continue
        if speed is not None:
            hours = planned.left * spec.batch / speed / 3600
            found[planned.node.name] = Cost(3600 * hours / (devices * cluster.workers.max), hours)
        elif _alike(planned.node) in known:
            of_one, of_all = known[_alike(planned.node)]
            found[planned.node.name] = Cost(planned.left * of_one, planned.left * of_all * devices / 3600)
    return found


def total(plan: Iterable[Planned], costs: Mapping[str, Cost]) -> Cost | None:
    """Of all that is not done, one stage after the other; None where a stage's is not known."""
    left = [p.node.name for p in plan if p.state != "cached" and p.size is not None]
    if not left or any(name not in costs for name in left):
        return None
    return Cost(sum(costs[name].seconds for name in left), sum(costs[name].hours for name in left))


def _measured(plan: Iterable[Planned]) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Seconds of a step on the clock, and of all workers together, by kind of work."""
    known: dict[tuple[Any, ...], tuple[float, float, int]] = {}
    for planned in plan:
        if planned.manifest is not None:
            metrics, alike = planned.manifest["metrics"], _alike(planned.node)
            clock, workers, steps = known.get(alike, (0.0, 0.0, 0))
            more = metrics["seconds"]
            known[alike] = (clock + more, workers + more * planned.manifest["world"], steps + metrics["steps"])
    return {alike: (clock / steps, workers / steps) for alike, (clock, workers, steps) in known.items() if steps}


def _alike(node: Node) -> tuple[Any, ...]:
    spec = dag.trained(node.spec)
    return () if spec is None else (spec.model.network, node.data_digest, spec.batch, spec.precision)
