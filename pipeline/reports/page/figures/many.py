"""A graph of many stages: a dot for each; those on the way are named as far as there is room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dualprune.pipeline.reports.page.facts import Run
from dualprune.pipeline.reports.page.figures.base import Spec, fixed, quantitative, width_of
from dualprune.pipeline.reports.page.figures.edges import MARGIN, Edge, Place, lines, tip
from dualprune.pipeline.reports.page.figures.layout import layers as levelled
from dualprune.pipeline.reports.page.figures.marks import mark, text
from dualprune.pipeline.reports.page.theme import colour


def many(run: Run, parents: Mapping[str, Sequence[str]], edges: Sequence[Edge], way: set[str], width: float) -> Spec:
    """Many stages: depth goes to the longer side; those of the way are named, as far as there is room."""
    levels = levelled(parents)
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
    layers = lines(edges, at, {"x": x, "y": y}, across, (0, 0))
    for some, area, look in _groups(run, way):
        data = [{"x": at[name][0], "y": at[name][1], "tip": tip(run, run.stages[name])} for name in some]
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
