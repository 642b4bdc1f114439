"""The DAG as a picture: boxes while there are few stages, dots when there are many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dualprune.pipeline.dag import in_order
from dualprune.pipeline.reports.page.facts import Run
from dualprune.pipeline.reports.page.figures.base import Figure, Spec, Table, plural
from dualprune.pipeline.reports.page.figures.boxes import boxes
from dualprune.pipeline.reports.page.figures.edges import MARGIN, Edge, amount, value
from dualprune.pipeline.reports.page.figures.listed import listed
from dualprune.pipeline.reports.page.figures.many import many
from dualprune.pipeline.reports.page.way import taken
from dualprune.pipeline.reports.page.words import STATES

BOXES, LINES = 24, 30
"""Stages that are boxes, or else lines of a list, at most; more are dots."""


def graph(run: Run) -> Figure | None:
    """What was run."""
    if not run.stages:
        return None
    way = _way(run)
    edges = _edges(run, way)
    sentence = "Each line goes from a network to what was made of it"
    if run.chosen is not None:
        sentence += f"; blue is the way to {run.chosen.name}, the network of this page: {run.way.why}"
    sentence += ". "
    left = sum(one.state != "done" for one in run.stages.values())
    if left:
        sentence += f"Dashed: {plural(left, 'stage')} not done. "
    if any(edge.teaches for edge in edges):
        sentence += "A dotted line goes to what learns from a teacher. "
    rows = tuple(
        (one.name, one.kind, ", ".join(one.parents) or "-", STATES[one.state], amount(run, one), value(one), one.key)
        for one in run.stages.values()
    )
    table = Table(("stage", "kind", "made of", "state", "fewer weights", "test", "key"), rows)
    spec = partial(_spec, run, edges, way)
    return Figure("graph", "What was run", sentence.strip(), spec, table)


def _edges(run: Run, way: set[str]) -> list[Edge]:
    """Of a choice that tries something, from its trials: these begin where it would."""
    found = []
    for one in run.stages.values():
        trials = [name for name in run.stages if name.startswith(f"{one.name}@")]
        for place, name in enumerate(name for name in trials or one.parents if name in run.stages):
            teaches = place > 0 and not one.chooses
            leads = name == one.chosen if one.chooses else not teaches
            found.append(Edge(name, one.name, leads and name in way and one.name in way, teaches))
    return found


def _way(run: Run) -> set[str]:
    """The stages on the way, and the choices between them that took them."""
    found = set(run.way.stages)
    used = {parent for name in found for parent in run.stages[name].parents}
    last = run.way.stages[-1:]
    for one in reversed(list(run.stages.values())):
        took = taken(run.stages, one.name)
        if one.chosen is not None and took in found and (one.name in used or (took,) == last):
            found.add(one.name)
            used.add(one.chosen)
    return found


def _spec(run: Run, edges: Sequence[Edge], way: set[str], width: int) -> Spec:
    above: dict[str, list[str]] = {name: [] for name in run.stages}
    for edge in edges:
        above[edge.after].append(edge.before)
    parents = {name: above[name] for name in in_order({name: tuple(some) for name, some in above.items()})}
    inner = width - 2 * MARGIN
    found = boxes(run, parents, edges, way, inner) if len(run.stages) <= BOXES else None
    if found is None and len(run.stages) <= LINES:
        found = listed(run, parents, edges, way, inner)
    return found or many(run, parents, edges, way, inner)
