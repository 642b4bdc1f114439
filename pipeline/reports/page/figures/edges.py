"""Edges of a graph as curves, and what is said of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import Spec, times
from dualprune.pipeline.reports.page.figures.marks import mark
from dualprune.pipeline.reports.page.theme import colour
from dualprune.pipeline.reports.page.words import STATES

MARGIN = 4
"""Pixels around a picture."""
Place = tuple[float, float]
"""Pixels from the left and from above."""


@dataclass(frozen=True)
class Edge:
    """From a network to what was made of it."""

    before: str
    after: str
    way: bool
    teaches: bool = False


def amount(run: Run, stage: Stage) -> str:
    """How many times fewer weights a stage has."""
    return times(run.fewer(stage)) if stage.metrics else "-"


def value(stage: Stage) -> str:
    """What it scores on test."""
    found = stage.value()
    return "-" if found is None else f"{number(found, stage.measures.unit)} {stage.measures.unit}".strip()


def came(run: Run, stage: Stage) -> str:
    """What a stage came to, in few words."""
    if stage.chosen is not None:
        return f"took {stage.chosen.rpartition('@')[2] if '@' in stage.chosen else stage.chosen}"
    if stage.metrics:
        return f"{amount(run, stage)} · {value(stage)}"
    if stage.state == "running" and stage.rows and stage.epochs:
        return f"epoch {stage.rows[-1]['epoch']} of {stage.epochs}"
    return STATES[stage.state]


def tip(run: Run, stage: Stage) -> str:
    """What a stage's mark says."""
    facts = [stage.kind, STATES[stage.state]]
    if stage.parents:
        facts.append(f"made of {', '.join(stage.parents)}")
    if stage.chosen:
        facts.append(f"took {stage.chosen}")
    if stage.metrics:
        facts.append(f"{amount(run, stage)} fewer weights, test {value(stage)}")
    return f"{stage.name}: {'; '.join(facts)}"


def lines(
    edges: Sequence[Edge],
    at: Mapping[str, Place],
    encoding: Mapping[str, Any],
    across: bool,
    half: Place,
    bends: Mapping[tuple[str, str], Sequence[str]] = MappingProxyType({}),
) -> list[Spec]:
    """Edges from side to side, or from the lower end to the upper one, of things that are twice `half` in size."""
    paths = {}
    for edge in edges:
        (x1, y1), (x2, y2) = at[edge.before], at[edge.after]
        begin, end = ((x1 + half[0], y1), (x2 - half[0], y2)) if across else ((x1, y1 + half[1]), (x2, y2 - half[1]))
        between = [at[bend] for bend in bends.get((edge.before, edge.after), ())]
        paths[edge] = _path([begin, *between, end], across)
    return drawn(edges, paths, encoding)


LOOKS: Mapping[str, Mapping[str, Any]] = {
    "rest": {"stroke": colour("rule"), "strokeWidth": 1.25},
    "teaches": {"stroke": colour("rule"), "strokeWidth": 1.5, "strokeDash": [1, 4], "strokeCap": "round"},
    "way": {"stroke": colour("blue"), "strokeWidth": 2},
}
"""Of edges, those of the way last."""


def drawn(edges: Sequence[Edge], paths: Mapping[Edge, Sequence[Place]], encoding: Mapping[str, Any]) -> list[Spec]:
    """Edges as curves along their paths."""
    data: dict[str, list[dict[str, Any]]] = {group: [] for group in LOOKS}
    for which, edge in enumerate(edges):
        group = "way" if edge.way else "teaches" if edge.teaches else "rest"
        data[group] += [{"x": x, "y": y, "edge": which, "n": n} for n, (x, y) in enumerate(paths[edge])]
    keys = {"detail": {"field": "edge"}, "order": {"field": "n"}}
    return [
        mark("line", some, {**encoding, **keys}, interpolate="basis", **LOOKS[group])
        for group, some in data.items()
        if some
    ]


def _path(places: Sequence[Place], across: bool) -> list[Place]:
    """Points of a curve through places, which leaves each along the depth."""
    found = [places[0]]
    for (x1, y1), (x2, y2) in pairwise(places):
        middle = (x1 + x2) / 2, (y1 + y2) / 2
        if abs(y1 - y2 if across else x1 - x2) >= 1:
            found += [(middle[0], y1), (middle[0], y2)] if across else [(x1, middle[1]), (x2, middle[1])]
        found.append((x2, y2))
    return found
