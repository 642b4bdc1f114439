"""A plan as a table, as JSON and as a graph, with what it is estimated to take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from dualprune.pipeline import dag
from dualprune.pipeline.plan.costs import Cost, total
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.run.results import AMOUNTS
from dualprune.pipeline.run.work import clock

COLOURS = {"cached": "palegreen", "resume": "khaki", "run": "white"}


def as_json(plan: list[Planned], costs: Mapping[str, Cost], device: str) -> dict[str, Any]:
    """One object a stage; hours are of a `device`, and all together None where a stage's are not known."""
    stages = [
        {
            "name": planned.node.name,
            "kind": planned.node.spec.kind,
            "key": planned.node.key,
            "parents": list(planned.node.parents),
            "state": planned.state,
            "why": planned.why,
            "notes": list(planned.notes),
            **_amounts(planned),
            "epochs": planned.size.epochs if planned.size else None,
            "steps": planned.size.steps if planned.size else None,
            **_estimates(costs.get(planned.node.name)),
        }
        for planned in plan
    ]
    steps = sum(planned.left for planned in plan)
    return {"stages": stages, "device": device, "left": {"steps": steps, **_estimates(total(plan, costs))}}


def _estimates(cost: Cost | None) -> dict[str, Any]:
    return {
        "estimated_seconds": None if cost is None else cost.seconds,
        "estimated_device_hours": None if cost is None else cost.hours,
    }


def as_table(plan: list[Planned], costs: Mapping[str, Cost], device: str) -> Table:
    """One row a stage, and one for all that is left to do; estimates are of one after the other, without start-up."""
    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left", caption_style="")
    for title in ("stage", "key", "state"):
        table.add_column(title, no_wrap=True)
    for title in ("rate", "network rate", "epochs", "steps", "estimate", f"{device} hours"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for planned in plan:
        name, size, amounts = planned.node.name, planned.size, _amounts(planned)
        table.add_row(
            name,
            planned.node.key,
            planned.state,
            *("" if amounts[of] is None else f"{amounts[of]:.2f}x" for of in ("rate", "network_rate")),
            str(size.epochs) if size else "",
            f"{size.steps:,}" if size else "",
            *_costs(costs.get(name)),
            escape(planned.why),
        )
    left = [planned.size for planned in plan if planned.size is not None and planned.state != "cached"]
    if left:
        epochs, steps = sum(size.epochs for size in left), sum(planned.left for planned in plan)
        row = ("left to do", "", "", "", "", str(epochs), f"{steps:,}", *_costs(total(plan, costs)), "")
        table.add_row(*row, style="bold")
    table.caption = "\n".join(escape(f"{one.node.name}: {note}") for one in plan for note in one.notes) or None
    return table


def _costs(cost: Cost | None) -> tuple[str, str]:
    return ("", "") if cost is None else (clock(cost.seconds), f"{cost.hours:,.2f}")


def dot(plan: list[Planned]) -> str:
    """The graph in Graphviz's language: a choice is an ellipse, and colours say what is done."""
    lines = ["digraph plan {", "  rankdir=LR; node [style=filled, shape=box];"]
    for planned in plan:
        node, amounts = planned.node, _amounts(planned)
        rate, network = amounts["rate"], amounts["network_rate"]
        of_all = "" if network in (None, rate) else f" (network {network:.4g}x)"
        label = node.name + (f"\n{rate:.4g}x{of_all}" if rate is not None else "") + f"\n{planned.state}"
        shape = "box" if dag.trained(node.spec) is node.spec else "ellipse"
        colour = COLOURS[planned.state]
        lines.append(f"  {json.dumps(node.name)} [label={json.dumps(label)}, shape={shape}, fillcolor={colour}];")
        lines += [f"  {json.dumps(parent)} -> {json.dumps(node.name)};" for parent in node.parents]
    return "\n".join([*lines, "}"])


def _amounts(planned: Planned) -> dict[str, Any]:
    """Rates and weights left, of the constrained tensors and of the whole network: as they are, or are going to be.

    `bytes` are of a finished network. What is not known is None.
    """
    if planned.manifest is not None:
        return {name: planned.manifest["metrics"].get(name) for name in AMOUNTS}
    if planned.size is None or planned.size.counts is None:
        return dict.fromkeys(AMOUNTS)
    found = planned.size.counts
    return dict.fromkeys(AMOUNTS) | {"rate": planned.size.rate, "network_rate": found.network_rate} | asdict(found)
