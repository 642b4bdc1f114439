"""Networks as dots, of how much smaller against how good: what such figures have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dualprune.pipeline.reports.page.figures.base import (
    Spec,
    fixed,
    linear_ticks,
    log_ticks,
    place,
    quantitative,
    tick_count,
    width_of,
)
from dualprune.pipeline.reports.page.figures.marks import axis, dots, mark, text
from dualprune.pipeline.reports.page.theme import colour

LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 44
HEIGHTS = (360, 270)
"""Of what is within the axes: wide, narrow."""
SPLIT = 600
"""Pixels from which on a figure is a wide one."""
Line = Sequence[tuple[float, float]]
"""Rates and values, one after the other."""
Box = tuple[float, float, float, float]
"""Its middle, and half of its width and height."""


@dataclass(frozen=True)
class Dot:
    """A network."""

    name: str
    rate: float
    value: float
    tip: str
    colour: str
    area: int = 60
    label: int | None = None
    """Its name is placed before those with greater numbers; None: it is not named."""
    strong: bool = False
    shape: str = "circle"


@dataclass(frozen=True)
class Frame:
    """The axes, and where they put things."""

    rates: tuple[float, float]
    values: tuple[float, float]
    width: float
    """Of the whole figure."""
    x_title: str
    y_title: str

    @property
    def inner(self) -> float:
        """Pixels across within the axes."""
        return self.width - LEFT - RIGHT

    @property
    def height(self) -> float:
        """Pixels up within the axes."""
        return HEIGHTS[self.width < SPLIT]

    @property
    def at(self) -> dict[str, Any]:
        """The encoding of a place, of the fields `x` and `y`."""
        x_ticks = log_ticks(*self.rates, tick_count(self.inner, 60))
        x_axis = axis(self.x_title, x_ticks, "format(datum.value, '~r') + '×'", titlePadding=10)
        corner: dict[str, Any] = {
            "titleAnchor": "start",
            "titleAngle": 0,
            "titleAlign": "left",
            "titleBaseline": "bottom",
        }
        y_ticks = linear_ticks(*self.values, tick_count(self.height, 44))
        y_axis = axis(self.y_title, y_ticks, titleX=4 - LEFT, titleY=-14, **corner)
        x, y = quantitative("x", self.rates, log=True, axis=x_axis), quantitative("y", self.values, axis=y_axis)
        return {"x": x, "y": y}

    def within(self, value: float) -> float:
        """The nearest value that is shown."""
        return min(max(value, self.values[0]), self.values[1])

    def pixel(self, rate: float, value: float) -> tuple[float, float]:
        """From the upper left of what is within the axes."""
        up = place(self.within(value), self.values, self.height)
        return place(rate, self.rates, self.inner, log=True), self.height - up

    def spec(self, layers: Sequence[Spec]) -> Spec:
        """The figure."""
        padding = {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
        return fixed({"layer": list(layers)}, self.inner, self.height, padding)


def drawn(frame: Frame, networks: Sequence[Dot]) -> Iterator[Spec]:
    """Dots in the order in which colours come first; a triangle at the edge for one that lies beyond it."""
    for look in dict.fromkeys(_look(frame, one) for one in networks):
        these = [one for one in networks if _look(frame, one) == look]
        data = [{"x": one.rate, "y": frame.within(one.value), "tip": one.tip} for one in these]
        name, area, shape = look
        yield dots(data, frame.at, name, area, shape=shape)


def _look(frame: Frame, one: Dot) -> tuple[str, int, str]:
    return one.colour, one.area, _shape(frame, one)


def _shape(frame: Frame, one: Dot) -> str:
    if one.value < frame.values[0]:
        return "triangle-down"
    return "triangle-up" if one.value > frame.values[1] else one.shape


def named(
    frame: Frame, networks: Sequence[Dot], taken: Sequence[Box] = (), lines: Sequence[Line] = ()
) -> Iterator[Spec]:
    """Names beside dots, as far as there is room for them between dots, other names and what is `taken`; rather not on
    lines."""
    boxes = [*taken, *((*frame.pixel(one.rate, one.value), 5.0, 5.0) for one in networks)]
    strokes = [box for line in lines for box in _along(frame, line)]
    wanted = [one for one in networks if one.label is not None]
    for one in sorted(wanted, key=lambda one: one.label or 0):
        able = [spot for spot in _spots(frame, one) if not any(_touch(spot[0], other) for other in boxes)]
        if not able:
            continue
        free = (spot for spot in able if not any(_touch(spot[0], other) for other in strokes))
        box, dx, dy, align = next(free, able[0])
        boxes.append(box)
        data = [{"x": one.rate, "y": frame.within(one.value), "text": one.name}]
        look = {"dx": dx, "dy": dy, "align": align, "fontWeight": "bold" if one.strong else "normal"}
        yield text(data, frame.at, stroke=colour("paper"), strokeWidth=3, fill=colour("paper"), **look)
        yield text(data, frame.at, fill=colour(one.colour), **look)


Spot = tuple[Box, float, float, str]
"""Where a name would be, and how it is put there: moved by so much, and aligned so."""
SPOTS: tuple[tuple[float, float, str], ...] = (
    (0, 17, "center"),
    (0, -15, "center"),
    (11, 1, "left"),
    (-11, 1, "right"),
    (7, -13, "left"),
    (7, 14, "left"),
    (-7, -13, "right"),
    (-7, 14, "right"),
)


def _spots(frame: Frame, one: Dot) -> Iterator[Spot]:
    """Within the axes, the best first."""
    across, down = frame.pixel(one.rate, one.value)
    half = width_of(one.name) / 2 + 2
    for dx, dy, align in SPOTS:
        middle = across + dx + {"center": 0.0, "left": half, "right": -half}[align]
        box = (middle, down + dy, half, 7.0)
        if half - 4 <= middle <= frame.inner - half + 8 and 8 <= box[1] <= frame.height - 6:
            yield box, dx, dy, align


def _along(frame: Frame, line: Line) -> Iterator[Box]:
    """Small boxes, close to each other, that cover a line."""
    pixels = [frame.pixel(rate, value) for rate, value in line]
    for (x1, y1), (x2, y2) in pairwise(pixels):
        count = 1 + int(max(abs(x2 - x1), abs(y2 - y1)) / 6)
        for number in range(count + 1):
            share = number / count
            yield x1 + share * (x2 - x1), y1 + share * (y2 - y1), 1.0, 1.0


def _touch(one: Box, other: Box) -> bool:
    """Whether two boxes lie on each other."""
    return abs(one[0] - other[0]) < one[2] + other[2] and abs(one[1] - other[1]) < one[3] + other[3]


def reference(
    frame: Frame, name: str, value: float, spread: float | None, beside: Line, lines: Sequence[Line]
) -> tuple[list[Spec], Box]:
    """A line across at a value, with its name and a band of what is not certain; and the name's place, which is not on
    what is at the rates and values `beside` and, if that can be, on none of the `lines`."""
    (low, high), layers = frame.rates, []
    if spread is not None:
        band = [{"x": low, "x2": high, "y": frame.within(value - spread), "y2": frame.within(value + spread)}]
        ends = {"x2": {"field": "x2"}, "y2": {"field": "y2"}}
        layers.append(mark("rect", band, {**frame.at, **ends}, fill=colour("band")))
    across = [{"x": low, "y": value}, {"x": high, "y": value}]
    layers.append(mark("line", across, frame.at, stroke=colour("soft"), strokeDash=[4, 3], strokeWidth=1))
    half, level = width_of(name) / 2 + 4, frame.pixel(high, value)[1]
    taken = [(*frame.pixel(*one), 5.0, 5.0) for one in beside]
    places = [
        (frame.inner - half - step * (frame.inner - 2 * half) / 6, level + dy, half, 7.0)
        for step in range(7)
        for dy in (-8.0, 10.0)
    ]
    strokes = [box for line in lines for box in _along(frame, line)]
    able = [one for one in places if not any(_touch(one, other) for other in taken)] or places
    box = next((one for one in able if not any(_touch(one, other) for other in strokes)), able[0])
    where = {"x": {"value": box[0]}, "y": {"value": box[1]}}
    layers.append(text([{"text": name}], where, align="center", fill=colour("soft")))
    return layers, box


def steps(frame: Frame, best: Line) -> Line:
    """The corners of what there is at a rate or a higher one; `best` are rates and values, the lowest rate first."""
    found = [(frame.rates[0], best[0][1])]
    for rate, value in best:
        found += [(found[-1][0], value), (rate, value)]
    return found


def line(frame: Frame, through: Line, name: str, **how: Any) -> Spec:
    """A line of a colour."""
    data = [{"x": rate, "y": value, "n": n} for n, (rate, value) in enumerate(through)]
    look = {"stroke": colour(name), "strokeWidth": 1.5, "clip": True, **how}
    return mark("line", data, {**frame.at, "order": {"field": "n"}}, **look)
