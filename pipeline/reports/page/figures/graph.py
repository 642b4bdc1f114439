"""The DAG as a picture: boxes while there are few stages, dots when there are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any

from dualprune.pipeline.dag import in_order
from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import (
    Figure,
    Spec,
    Table,
    fixed,
    plural,
    quantitative,
    shortened,
    times,
    width_of,
)
from dualprune.pipeline.reports.page.figures.layout import BEND, layers, with_bends
from dualprune.pipeline.reports.page.figures.marks import mark, text
from dualprune.pipeline.reports.page.theme import colour
from dualprune.pipeline.reports.page.words import STATES

BOX, HIGH = 138, 44
"""Pixels of a box."""
ACROSS, DOWN = 34, 26
"""Between boxes from one depth to the next, side by side, and one below the other."""
BOXES = 24
"""Stages from which on they are dots."""
MARGIN = 4
Place = tuple[float, float]


@dataclass(frozen=True)
class Edge:
    """From a network to what was made of it."""

    before: str
    after: str
    way: bool
    teaches: bool = False


def graph(run: Run) -> Figure | None:
    """What was run."""
    if not run.stages:
        return None
    edges, way = _edges(run), _way(run)
    edges = [
        Edge(one.before, one.after, one.before in way and one.after in way and not one.teaches, one.teaches)
        for one in edges
    ]
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
        (one.name, one.kind, ", ".join(one.parents) or "-", STATES[one.state], _amount(run, one), _value(one), one.key)
        for one in run.stages.values()
    )
    table = Table(("stage", "kind", "made of", "state", "fewer weights", "test", "key"), rows)
    spec = partial(_spec, run, edges, way)
    return Figure("graph", "What was run", sentence.strip(), spec, table)


def _edges(run: Run) -> list[Edge]:
    found = []
    for one in run.stages.values():
        trials = [name for name in run.stages if name.startswith(f"{one.name}@")]
        first, *others = trials or one.parents or ("",)
        found += [Edge(first, one.name, False)] if first in run.stages else []
        found += [Edge(name, one.name, False, teaches=not one.chooses) for name in others if name in run.stages]
    return found


def _way(run: Run) -> set[str]:
    """The stages on the way, and the choices between them that took them."""
    found = set(run.way.stages)
    used = {parent for name in found for parent in run.stages[name].parents}
    for one in reversed(list(run.stages.values())):
        end = run.way.stages and one.chosen in found and (one.name in used or run.way.stages[-1] == one.chosen)
        if end:
            found.add(one.name)
            used |= {one.name}
    return found


def _amount(run: Run, stage: Stage) -> str:
    return times(run.fewer(stage)) if stage.metrics else "-"


def _value(stage: Stage) -> str:
    value = stage.value()
    return "-" if value is None else f"{number(value, stage.measures.unit)} {stage.measures.unit}".strip()


def _spec(run: Run, edges: Sequence[Edge], way: set[str], width: int) -> Spec:
    parents: dict[str, list[str]] = {name: [] for name in run.stages}
    for edge in edges:
        parents[edge.after].append(edge.before)
    order = {name: parents[name] for name in in_order({name: tuple(above) for name, above in parents.items()})}
    inner = width - 2 * MARGIN
    if len(run.stages) <= BOXES:
        bent, bends = with_bends(order)
        levels = layers(bent)
        if len(levels) * (BOX + ACROSS) - ACROSS <= inner:
            return _boxes(run, edges, way, (_across(levels, inner), bends), True, inner)
        down = _down(levels)
        if max(down[name][0] for name in run.stages) + BOX / 2 <= inner:
            return _boxes(run, edges, way, (down, bends), False, inner)
    return _dots(run, edges, way, layers(order), inner)


def _across(levels: Sequence[Sequence[str]], width: float) -> dict[str, Place]:
    """Middles of boxes, depth from left to right."""
    apart = min(BOX + 70.0, (width - BOX) / max(1, len(levels) - 1)) if len(levels) > 1 else 0.0
    beside = _beside(levels, HIGH, 14)
    return {
        name: (BOX / 2 + depth * apart, at)
        for depth, level in enumerate(levels)
        for name, at in zip(level, beside[depth], strict=True)
    }


def _down(levels: Sequence[Sequence[str]]) -> dict[str, Place]:
    """Middles of boxes, depth from top to bottom; on the left, as text is."""
    beside = _beside(levels, BOX, 12)
    return {
        name: (at, depth * (HIGH + DOWN) + HIGH / 2)
        for depth, level in enumerate(levels)
        for name, at in zip(level, beside[depth], strict=True)
    }


def _beside(levels: Sequence[Sequence[str]], size: float, gap: float) -> list[list[float]]:
    """Middles within each depth, of boxes and of the narrow places at which edges pass; all around one line."""
    sizes = [[gap if name.startswith(BEND) else size + gap for name in level] for level in levels]
    most = max(map(sum, sizes))
    found = []
    for level in sizes:
        ends = list(accumulate(level, initial=(most - sum(level)) / 2 - gap / 2))
        found.append([(begin + end) / 2 for begin, end in pairwise(ends)])
    return found


def _boxes(
    run: Run,
    edges: Sequence[Edge],
    way: set[str],
    placed: tuple[dict[str, Place], Mapping[tuple[str, str], Sequence[str]]],
    across: bool,
    width: float,
) -> Spec:
    at, bends = placed
    height = max(y for _, y in at.values()) + HIGH / 2
    x, y = quantitative("x", (0, width)), quantitative("y", (height, 0))
    layers = _lines(edges, at, {"x": x, "y": y}, across, (BOX / 2, HIGH / 2), bends)
    middles = {name: place for name, place in at.items() if name in run.stages}
    for name, (left, top) in middles.items():
        stage = run.stages[name]
        corners = {"x": left - BOX / 2, "x2": left + BOX / 2, "y": top - HIGH / 2, "y2": top + HIGH / 2}
        look = {"cornerRadius": HIGH / 2 if stage.chooses else 6, "fill": colour("paper"), **_look(stage, name in way)}
        ends = {"x2": {"field": "x2"}, "y2": {"field": "y2"}}
        layers.append(mark("rect", [{**corners, "tip": _tip(run, stage)}], {"x": x, "y": y, **ends}, **look))
    for field, dy, weight in (("name", -8, {"fontWeight": "bold"}), ("second", 9, {"fill": colour("soft")})):
        data = [
            {"x": left, "y": top, "text": shortened(_texts(run, run.stages[name])[field], BOX - 20)}
            for name, (left, top) in middles.items()
        ]
        layers.append(text(data, {"x": x, "y": y}, align="center", dy=dy, **weight))
    return fixed({"layer": layers}, width, height, dict.fromkeys(("left", "right", "top", "bottom"), MARGIN))


def _texts(run: Run, stage: Stage) -> dict[str, str]:
    if stage.chosen is not None:
        second = f"took {stage.chosen.rpartition('@')[2] if '@' in stage.chosen else stage.chosen}"
    elif stage.metrics:
        second = f"{_amount(run, stage)} · {_value(stage)}"
    elif stage.state == "running" and stage.rows and stage.epochs:
        second = f"epoch {stage.rows[-1]['epoch']} of {stage.epochs}"
    else:
        second = STATES[stage.state]
    return {"name": stage.name, "second": second}


def _tip(run: Run, stage: Stage) -> str:
    facts = [stage.kind, STATES[stage.state]]
    if stage.parents:
        facts.append(f"made of {', '.join(stage.parents)}")
    if stage.chosen:
        facts.append(f"took {stage.chosen}")
    if stage.metrics:
        facts.append(f"{_amount(run, stage)} fewer weights, test {_value(stage)}")
    return f"{stage.name}: {'; '.join(facts)}"


def _look(stage: Stage, way: bool) -> dict[str, Any]:
    if stage.state == "failed":
        return {"stroke": colour("orange"), "strokeWidth": 2, "strokeDash": [5, 3]}
    if stage.state != "done":
        return {"stroke": colour("rule"), "strokeWidth": 1.5, "strokeDash": [5, 3]}
    return {"stroke": colour("blue"), "strokeWidth": 2} if way else {"stroke": colour("rule"), "strokeWidth": 1.25}


def _lines(
    edges: Sequence[Edge],
    at: Mapping[str, Place],
    encoding: Mapping[str, Any],
    across: bool,
    half: Place,
    bends: Mapping[tuple[str, str], Sequence[str]] = MappingProxyType({}),
) -> list[Spec]:
    """Edges, those of the way last; from side to side, or from the lower end to the upper one."""
    data: dict[str, list[dict[str, Any]]] = {"rest": [], "teaches": [], "way": []}
    for which, edge in enumerate(edges):
        (x1, y1), (x2, y2) = at[edge.before], at[edge.after]
        begin, end = ((x1 + half[0], y1), (x2 - half[0], y2)) if across else ((x1, y1 + half[1]), (x2, y2 - half[1]))
        between = [at[bend] for bend in bends.get((edge.before, edge.after), ())]
        path = _path([begin, *between, end], across)
        group = "way" if edge.way else "teaches" if edge.teaches else "rest"
        data[group] += [{"x": x, "y": y, "edge": which, "n": n} for n, (x, y) in enumerate(path)]
    looks: dict[str, dict[str, Any]] = {
        "rest": {"stroke": colour("rule"), "strokeWidth": 1.25},
        "teaches": {"stroke": colour("rule"), "strokeWidth": 1.5, "strokeDash": [1, 4], "strokeCap": "round"},
        "way": {"stroke": colour("blue"), "strokeWidth": 2},
    }
    keys = {"detail": {"field": "edge"}, "order": {"field": "n"}}
    return [
        mark("line", some, {**encoding, **keys}, interpolate="basis", **looks[group])
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


def _dots(run: Run, edges: Sequence[Edge], way: set[str], levels: Sequence[Sequence[str]], width: float) -> Spec:
    """Many stages: depth goes to the longer side; those of the way are named, as far as there is room."""
    across = width > 600
    most = max(map(len, levels))
    long = (width - 70) / max(1, len(levels) - 1) if across else 34.0
    wide = min(26.0, 420 / most) if across else min(26.0, (width - 40) / max(1, most))
    at: dict[str, Place] = {}
    for depth, level in enumerate(levels):
        for rank, name in enumerate(level):
            beside = 18 + wide * (most - len(level)) / 2 + wide * (rank + 0.5)
            along = (35 if across else 12) + depth * long
            at[name] = (along, beside) if across else (beside, along)
    height = max(y for _, y in at.values()) + 24
    x, y = quantitative("x", (0, width)), quantitative("y", (height, 0))
    layers = _lines(edges, at, {"x": x, "y": y}, across, (0, 0))
    for some, area, look in _groups(run, way):
        data = [{"x": at[name][0], "y": at[name][1], "tip": _tip(run, run.stages[name])} for name in some]
        if data:
            look = {"filled": True, "opacity": 1, "size": area, **look}
            layers.append(mark("point", data, {"x": x, "y": y}, **look))
    names = _names([name for name in run.stages if name in way], at, width, across)
    if names:
        layers.append(text(names, {"x": x, "y": y}, fill=colour("blue"), align="center"))
    padding = dict.fromkeys(("left", "right", "top", "bottom"), MARGIN)
    return fixed({"layer": layers}, width, height, padding)


def _groups(run: Run, way: set[str]) -> list[tuple[list[str], int, dict[str, Any]]]:
    done = [name for name, one in run.stages.items() if one.state == "done"]
    failed = [name for name, one in run.stages.items() if one.state == "failed"]
    rest = [name for name in run.stages if name not in done and name not in failed]
    edge = {"fill": colour("paper"), "strokeWidth": 1.5}
    return [
        ([name for name in done if name not in way], 40, {"fill": colour("grey"), "stroke": None}),
        (rest, 36, {**edge, "stroke": colour("grey")}),
        (failed, 50, {**edge, "stroke": colour("orange"), "shape": "cross"}),
        ([name for name in done if name in way], 70, {"fill": colour("blue"), "stroke": None}),
    ]


def _names(names: Sequence[str], at: Mapping[str, Place], width: float, across: bool) -> list[dict[str, Any]]:
    """Names that have room between dots and each other: the last one first, since that is what it came to."""
    found: list[dict[str, Any]] = []
    boxes = [(x, y, 3.0) for x, y in at.values()]
    for name in reversed(names):
        x, y = at[name]
        half = width_of(name) / 2 + 3
        places = ((x, y - 13), (x, y + 14)) if across else ((x + 10 + half, y), (x - 10 - half, y))
        for middle, level in places:
            inside = half - 6 <= middle <= width - half + 6
            if inside and not any(abs(middle - a) < half + c and abs(level - b) < 11 for a, b, c in boxes):
                boxes.append((middle, level, half))
                found.append({"x": middle, "y": level, "text": name})
                break
    return found
