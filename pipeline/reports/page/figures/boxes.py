"""A graph of few stages: a box for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import Spec, fixed, quantitative, shortened
from dualprune.pipeline.reports.page.figures.edges import MARGIN, Edge, Place, came, lines, tip
from dualprune.pipeline.reports.page.figures.layout import BEND, layers, with_bends
from dualprune.pipeline.reports.page.figures.marks import mark, text
from dualprune.pipeline.reports.page.theme import colour

BOX, HIGH = 138, 44
"""Pixels of a box."""
ACROSS, DOWN = 34, 26
"""Between boxes from one depth to the next, side by side, and one below the other."""


def boxes(
    run: Run, parents: Mapping[str, Sequence[str]], edges: Sequence[Edge], way: set[str], width: float
) -> Spec | None:
    """The picture, depth from left to right or from top to bottom; None where it would be too wide. `parents` has
    parents before children."""
    bent, bends = with_bends(parents)
    levels = layers(bent)
    if len(levels) * (BOX + ACROSS) - ACROSS <= width:
        return _boxes(run, edges, way, (_across(levels, width), bends), True, width)
    down = _down(levels)
    if max(down[name][0] for name in run.stages) + BOX / 2 <= width:
        return _boxes(run, edges, way, (down, bends), False, width)
    return None


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
    layers = lines(edges, at, {"x": x, "y": y}, across, (BOX / 2, HIGH / 2), bends)
    middles = {name: place for name, place in at.items() if name in run.stages}
    for name, (left, top) in middles.items():
        stage = run.stages[name]
        corners = {"x": left - BOX / 2, "x2": left + BOX / 2, "y": top - HIGH / 2, "y2": top + HIGH / 2}
        look = {"cornerRadius": HIGH / 2 if stage.chooses else 6, "fill": colour("paper"), **_look(stage, name in way)}
        ends = {"x2": {"field": "x2"}, "y2": {"field": "y2"}}
        layers.append(mark("rect", [{**corners, "tip": tip(run, stage)}], {"x": x, "y": y, **ends}, **look))
    said = {name: (name, came(run, run.stages[name])) for name in middles}
    for which, dy, weight in ((0, -8, {"fontWeight": "bold"}), (1, 9, {"fill": colour("soft")})):
        data = [
            {"x": left, "y": top, "text": shortened(said[name][which], BOX - 20)}
            for name, (left, top) in middles.items()
        ]
        layers.append(text(data, {"x": x, "y": y}, align="center", dy=dy, **weight))
    return fixed({"layer": layers}, width, height, dict.fromkeys(("left", "right", "top", "bottom"), MARGIN))


def _look(stage: Stage, way: bool) -> dict[str, Any]:
    if stage.state == "failed":
        return {"stroke": colour("orange"), "strokeWidth": 2, "strokeDash": [5, 3]}
    if stage.state != "done":
        return {"stroke": colour("rule"), "strokeWidth": 1.5, "strokeDash": [5, 3]}
    return {"stroke": colour("blue"), "strokeWidth": 2} if way else {"stroke": colour("rule"), "strokeWidth": 1.25}
