"""Small pictures side by side on one scale: a line or two each, named at their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dualprune.pipeline.reports.page.figures.base import (
    Spec,
    linear_ticks,
    log_padded,
    log_ticks,
    padded,
    place,
    quantitative,
    shortened,
    spread,
    tick_count,
    width_of,
)
from dualprune.pipeline.reports.page.figures.marks import axis, mark, text
from dualprune.pipeline.reports.page.theme import colour

HEIGHTS = (140, 104)
"""Pixels of a picture, on a screen and on a telephone."""
LEFT, GAP = 44, 26
"""Pixels for an axis's numbers, and between two pictures."""
DRAWN, FEW = 12, 6
"""Pictures, at most; and on a telephone."""


@dataclass(frozen=True)
class Line:
    """One line of a picture."""

    name: str
    colour: str
    points: tuple[tuple[float, float, str], ...]
    """Across, up, and what it says."""
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    subtitle: str
    lines: tuple[Line, ...]
    levels: tuple[tuple[float, str], ...] = ()
    """Values drawn across, with their names."""


@dataclass(frozen=True)
class Scale:
    """What pictures have in common."""

    x: str
    """The title of what goes across."""
    log: bool = False
    unit: str = ""
    y: str = ""
    """The title of what goes up."""
    bounds: tuple[float, float] | None = None
    """Of what goes up; without it they are those of the lines."""


def multiples(panels: Sequence[Panel], scale: Scale, width: int) -> Spec:
    """All panels, as many side by side as have room."""
    narrow = width < 600
    panels, height = (panels[-FEW:], HEIGHTS[1]) if narrow else (panels, HEIGHTS[0])
    columns = 1 if narrow else 3 if len(panels) > 4 or len(panels) == 3 else 2
    names = {
        line.name for panel in panels for line in panel.lines if sum(len(one.lines) for one in panels) > len(panels)
    }
    right = max((width_of(name) for name in names), default=0) + 8
    inner = (width - GAP * (columns - 1)) / columns - LEFT - right
    values = [y for panel in panels for line in panel.lines for _, y, _ in line.points]
    values += [level for panel in panels for level, _ in panel.levels]
    if scale.log:
        values = [one for one in values if one > 0]
    bounds = scale.bounds or (log_padded(values) if scale.log else padded(values))
    end = max(x for panel in panels for line in panel.lines for x, _, _ in line.points)
    made = [_panel(panel, replace(scale, bounds=bounds), (0.0, end), (inner, height), bool(names)) for panel in panels]
    for number, one in enumerate(made):
        one["title"] = _title(panels[number], inner + LEFT + right)
    if len(made) == 1:
        return {**made[0], "padding": {"left": 0, "right": 0, "top": 0, "bottom": 0}}
    spacing = {"row": 22, "column": GAP}
    return {"concat": made, "columns": columns, "spacing": spacing, "padding": 0, "align": "each"}


def _title(panel: Panel, room: float) -> dict[str, Any]:
    return {"text": shortened(panel.title, room, 13.5), "subtitle": shortened(panel.subtitle, room)}


def _panel(panel: Panel, scale: Scale, across: tuple[float, float], pixels: tuple[float, float], named: bool) -> Spec:
    bounds, (inner, height) = scale.bounds or (0.0, 1.0), pixels
    ticks = (log_ticks if scale.log else linear_ticks)(*bounds, tick_count(height, 28))
    format_ = f"format(datum.value, '~r') + '{scale.unit}'" if scale.unit else "format(datum.value, '~r')"
    extent = {"minExtent": LEFT - 6, "maxExtent": LEFT - 6}
    x = quantitative("x", across, axis=axis(scale.x, _whole(linear_ticks(*across, tick_count(inner, 56))), grid=False))
    y = quantitative("y", bounds, log=scale.log, axis=axis("", ticks, format_, **extent))
    at = {"x": x, "y": y}
    layers = [_frame(across, bounds, at)]
    for level, name in panel.levels:
        ends = [{"x": across[0], "y": level}, {"x": across[1], "y": level}]
        layers.append(mark("line", ends, at, stroke=colour("soft"), strokeDash=[4, 3], strokeWidth=1))
        if name:
            label = [{"x": across[1], "y": level, "text": name}]
            layers.append(text(label, at, align="right", dy=-7, fill=colour("soft"), fontSize=11))
    for line in panel.lines:
        points: list[dict[str, Any]] = [{"x": a, "y": b, "tip": c} for a, b, c in line.points if not scale.log or b > 0]
        inside = [one for one in points if bounds[0] <= one["y"] <= bounds[1]]
        dash = {"strokeDash": [5, 3]} if line.dashed else {}
        bare = [{"x": one["x"], "y": one["y"]} for one in points]
        layers.append(mark("line", bare, at, stroke=colour(line.colour), strokeWidth=1.75, clip=True, **dash))
        dot = {"filled": True, "fill": colour(line.colour), "opacity": 1, "size": 22 if len(points) < 30 else 9}
        layers.append(mark("point", inside, at, **dot))
    if named:
        layers += _ends(panel.lines, bounds, scale.log, at, pixels)
    return {"width": inner, "height": height, "layer": layers}


def _frame(across: tuple[float, float], bounds: tuple[float, float], at: dict[str, Any]) -> Spec:
    """The line at the bottom."""
    ends = [{"x": across[0], "y": bounds[0]}, {"x": across[1], "y": bounds[0]}]
    return mark("line", ends, at, stroke=colour("rule"), strokeWidth=1)


def _whole(ticks: Sequence[float]) -> list[float]:
    return [tick for tick in ticks if float(tick).is_integer()]


def _ends(
    lines: Sequence[Line], bounds: tuple[float, float], log: bool, at: dict[str, Any], size: tuple[float, float]
) -> list[Spec]:
    """Names at the ends of lines, apart from each other."""
    lines = [line for line in lines if any(not log or b > 0 for _, b, _ in line.points)]
    lasts = [next((a, b) for a, b, _ in reversed(line.points) if not log or b > 0) for line in lines]
    found, (inner, height) = [], size
    pixels = [height - place(min(max(b, bounds[0]), bounds[1]), bounds, height, log=log) for _, b in lasts]
    for line, (_, b), wanted, got in zip(lines, lasts, pixels, spread(pixels, 14, 4, height - 4), strict=True):
        one = [{"y": min(max(b, bounds[0]), bounds[1]), "text": line.name}]
        where = {"x": {"value": inner + 7}, "y": at["y"]}
        found.append(text(one, where, align="left", dy=got - wanted, fill=colour(line.colour)))
    return found
