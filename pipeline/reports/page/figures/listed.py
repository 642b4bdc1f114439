"""A graph as a list: a line for each stage, and on the left how one came of the other. For narrow screens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import Spec, fixed, quantitative, shortened, width_of
from dualprune.pipeline.reports.page.figures.edges import MARGIN, Edge, Place, came, drawn, tip
from dualprune.pipeline.reports.page.figures.marks import mark, text
from dualprune.pipeline.reports.page.theme import colour

WIDEST = 560
"""Pixels across which an eye follows a line."""
LINE, LANE = 27, 15
"""Pixels from one stage to the next, and from one lane to the next."""


def listed(run: Run, parents: Mapping[str, Sequence[str]], edges: Sequence[Edge], way: set[str], width: float) -> Spec:
    """The picture. `parents` has parents before children."""
    width, parents = min(width, WIDEST), branch_by_branch(parents)
    at = {name: (8.0 + LANE * lane, LINE * (row + 0.5)) for row, (name, lane) in enumerate(lanes(parents).items())}
    height = LINE * len(at)
    x, y = quantitative("x", (0, width)), quantitative("y", (height, 0))
    layers = drawn(edges, {edge: _path(at[edge.before], at[edge.after]) for edge in edges}, {"x": x, "y": y})
    for name, (across, down) in at.items():
        stage = run.stages[name]
        dot = [{"x": across, "y": down, "tip": tip(run, stage)}]
        look = {"filled": True, "opacity": 1, "size": 70, "strokeWidth": 1.75, **_look(stage, name in way)}
        layers.append(mark("point", dot, {"x": x, "y": y}, **look))
    left = max(across for across, _ in at.values()) + 16
    for strong in (False, True):
        some = [name for name in at if (name in way) is strong]
        room = {name: width - left - width_of(came(run, run.stages[name])) - 14 for name in some}
        names = [{"x": left, "y": at[name][1], "text": shortened(name, room[name], 12.7)} for name in some]
        weight = "bold" if strong else "normal"
        layers += [text(names, {"x": x, "y": y}, align="left", fontWeight=weight)] if names else []
    right = [{"x": width, "y": down, "text": came(run, run.stages[name])} for name, (_, down) in at.items()]
    layers.append(text(right, {"x": x, "y": y}, align="right", fill=colour("soft")))
    return fixed({"layer": layers}, width, height, dict.fromkeys(("left", "right", "top", "bottom"), MARGIN))


def branch_by_branch(parents: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """The same with children as near below their parents as goes."""
    children: dict[str, list[str]] = {name: [] for name in parents}
    waits = {name: len(above) for name, above in parents.items()}
    for name, above in parents.items():
        for parent in above:
            children[parent].append(name)
    able = [name for name, left in reversed(waits.items()) if not left]
    found: dict[str, Sequence[str]] = {}
    while able:
        name = able.pop()
        found[name] = parents[name]
        for child in reversed(children[name]):
            waits[child] -= 1
            if not waits[child]:
                able.append(child)
    return found


def lanes(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """A lane for each name: a line from a parent goes down in the parent's lane until it is there, and passes no
    other name. The last child goes on in the lane of its first parent. `parents` has parents before children."""
    rows = {name: row for row, name in enumerate(parents)}
    last = dict(rows)
    for name, above in parents.items():
        for parent in above:
            last[parent] = max(last[parent], rows[name])
    busy: list[int] = []
    found: dict[str, int] = {}
    for row, (name, above) in enumerate(parents.items()):
        own = [found[above[0]]] if above and busy[found[above[0]]] <= row else []
        free = [lane for lane, until in enumerate(busy) if until <= row and lane not in own]
        lane = [*own, *free, len(busy)][0]
        busy += [0] if lane == len(busy) else []
        busy[lane] = last[name]
        found[name] = lane
    return found


def _path(before: Place, after: Place) -> list[Place]:
    """Down in the parent's lane, and over to the child's just above it."""
    (x1, _), (x2, y2) = before, after
    if x1 == x2:
        return [before, after]
    turn = y2 - LINE / 2
    return [before, (x1, turn - LINE / 2 + 2), (x1, turn), (x2, turn), after]


def _look(stage: Stage, way: bool) -> dict[str, str]:
    if stage.state == "done":
        name = colour("blue" if way else "grey")
        return {"fill": name, "stroke": name, "shape": "diamond" if stage.chooses else "circle"}
    return {"fill": colour("paper"), "stroke": colour("orange" if stage.state == "failed" else "grey")}
