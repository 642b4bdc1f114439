"""A plan as a table, as JSON and as a graph, with estimated times."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipeline import dag
from pipeline.plan import Planned
from pipeline.view import clock

COLOURS = {"cached": "palegreen", "resume": "khaki", "run": "white"}


def seconds(plan: Iterable[Planned]) -> dict[str, float]:
    """Estimated seconds of training of the stages that are not done, from the steps of those that are, by name.

    Stages count as alike if they train the same network on the same data in the same batches and precision.
    """
    plan = list(plan)
    known: dict[tuple[Any, ...], tuple[float, int]] = {}
    for planned in plan:
        if planned.manifest is not None:
            metrics, (time, steps) = planned.manifest["metrics"], known.get(_alike(planned.node), (0.0, 0))
            known[_alike(planned.node)] = (time + metrics["seconds"], steps + metrics["steps"])
    found = {}
    for planned in plan:
        time, steps = known.get(_alike(planned.node), (0.0, 0))
        if planned.state != "cached" and planned.size is not None and steps:
            found[planned.node.name] = planned.size.steps * time / steps
    return found


def _alike(node: dag.Node) -> tuple[Any, ...]:
    spec = dag.trained(node.spec)
    return () if spec is None else (spec.model.network, node.data_digest, spec.batch, spec.precision)


def as_json(plan: list[Planned]) -> list[dict[str, Any]]:
    """One object a stage."""
    left = seconds(plan)
    return [
        {
            "name": planned.node.name,
            "kind": planned.node.spec.kind,
            "key": planned.node.key,
            "parents": list(planned.node.parents),
            "state": planned.state,
            "why": planned.why,
            "rate": _rate(planned),
            "epochs": planned.size.epochs if planned.size else None,
            "steps": planned.size.steps if planned.size else None,
            "estimated_seconds": left.get(planned.node.name),
        }
        for planned in plan
    ]


def as_table(plan: list[Planned]) -> Table:
    """One row a stage; the estimate is of one after the other, without start-up."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("stage", "key", "state", "rate", "epochs", "estimate"):
        right = title in ("rate", "epochs", "estimate")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    table.add_column("why", overflow="fold")
    left = seconds(plan)
    for planned in plan:
        rate, name = _rate(planned), planned.node.name
        table.add_row(
            name,
            planned.node.key,
            planned.state,
            "" if rate is None else f"{rate:.2f}x",
            str(planned.size.epochs) if planned.size else "",
            clock(left[name]) if name in left else "",
            escape(planned.why),
        )
    return table


def dot(plan: list[Planned]) -> str:
    """The graph in Graphviz's language: a choice is an ellipse, and colours say what is done."""
    lines = ["digraph plan {", "  rankdir=LR; node [style=filled, shape=box];"]
    for planned in plan:
        rate, node = _rate(planned), planned.node
        label = node.name + (f"\n{rate:.4g}x" if rate is not None else "") + f"\n{planned.state}"
        shape = "box" if dag.trained(node.spec) is node.spec else "ellipse"
        colour = COLOURS[planned.state]
        lines.append(f"  {json.dumps(node.name)} [label={json.dumps(label)}, shape={shape}, fillcolor={colour}];")
        lines += [f"  {json.dumps(parent)} -> {json.dumps(node.name)};" for parent in node.parents]
    return "\n".join([*lines, "}"])


def _rate(planned: Planned) -> float | None:
    """What it is, or is going to be."""
    if planned.manifest is not None:
        rate: float | None = planned.manifest["metrics"]["rate"]
        return rate
    return planned.size.rate if planned.size else None
