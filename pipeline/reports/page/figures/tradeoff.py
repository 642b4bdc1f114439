"""What is lost for what is gained: the metric of all networks against how much smaller they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import (
    Cell,
    Figure,
    Spec,
    Table,
    fixed,
    linear_ticks,
    log_padded,
    log_ticks,
    padded,
    place,
    plural,
    quantitative,
    signed,
    tick_count,
    times,
    width_of,
)
from dualprune.pipeline.reports.page.figures.marks import axis, dots, mark, text
from dualprune.pipeline.reports.page.theme import colour
from dualprune.pipeline.reports.page.uncertain import half_width
from dualprune.pipeline.reports.page.way import front

LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 44
HEIGHTS = (360, 270)
"""Of what is within the axes: wide, narrow."""
SPLIT = 600
"""Pixels from which on a figure is a wide one."""
Datum = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A network in the figure."""

    stage: Stage
    rate: float
    value: float
    level: str
    order: int
    """On the way; of others 0."""


def against_weights(run: Run) -> Figure | None:
    """Against the weights that are left."""
    return _figure(run, "tradeoff", "rate", run.fewer, "times fewer weights")


def against_bytes(run: Run) -> Figure | None:
    """Against bytes; nothing where these say the same as weights do."""
    shared = any(tensor.bits not in (None, 32) for stage in run.done() for tensor in stage.tensors)
    return _figure(run, "tradeoff-bytes", "bytes", run.smaller, "times fewer bytes") if shared else None


def against_macs(run: Run) -> Figure | None:
    """Against multiply-accumulates; nothing where no network has fewer."""
    fewer = any((run.cheaper(stage) or 1) > 1.001 for stage in run.done())
    return _figure(run, "tradeoff-macs", "MACs", run.cheaper, "times fewer multiply-accumulates") if fewer else None


def _figure(run: Run, name: str, of: str, amount: Callable[[Stage], float | None], title: str) -> Figure | None:
    dense = run.dense
    points = [] if dense is None else _points(run, amount, dense)
    if dense is None or len(points) < 2:
        return None
    best, unit = dense.measures.best.replace("_", " "), f", {dense.measures.unit}" if dense.measures.unit else ""
    spread = half_width(dense, run.samples)
    spec = partial(_spec, points, dense, spread, f"test {best}{unit}", title)
    titles = ("network", title, f"test {best}{unit}", f"val{unit}", f"against {dense.name}")
    rows = tuple(_row(point, dense) for point in sorted(points, key=lambda point: point.rate))
    sentence = " ".join(_said(run, points, dense, spread))
    return Figure(name, f"{best.capitalize()} against {of}", sentence, spec, Table(titles, rows))


def _said(run: Run, points: Sequence[Point], dense: Stage, spread: float | None) -> Iterator[str]:
    yield f"Blue is the way from {dense.name} to {run.way.chosen}."
    if any(point.level == "rest" for point in points):
        yield "Grey is what else was tried."
    yield f"No network lies {'above' if dense.measures.higher else 'below'} and to the right of the orange line."
    if spread is None:
        yield f"The dashed line is {dense.name}."
    else:
        yield f"The band is what {plural(run.samples or 0, 'test example')} can tell of {dense.name} (95 %)."


def _row(point: Point, dense: Stage) -> tuple[Cell, ...]:
    unit, before = dense.measures.unit, dense.value()
    apart = "-" if before is None else signed(point.value - before, unit)
    scores = number(point.value, unit), number(point.stage.value("val"), unit)
    return (point.stage.name, times(point.rate), *scores, apart)


def _points(run: Run, amount: Callable[[Stage], float | None], dense: Stage) -> list[Point]:
    found = []
    for stage in run.done():
        rate, value = amount(stage), stage.value()
        if rate and value is not None and math.isfinite(value) and stage.measures.best == dense.measures.best:
            found.append((stage, rate, value))
    best = front([(stage.name, rate, value) for stage, rate, value in found], dense.measures.higher)
    along = {name: number for number, name in enumerate(run.way.stages)}

    def level(name: str) -> str:
        return "way" if name in along else "front" if name in best else "rest"

    return [Point(stage, rate, value, level(stage.name), along.get(stage.name, 0)) for stage, rate, value in found]


def _spec(points: Sequence[Point], dense: Stage, spread: float | None, y_title: str, x_title: str, width: int) -> Spec:
    inner, height = width - LEFT - RIGHT, HEIGHTS[width < SPLIT]
    higher, unit = dense.measures.higher, dense.measures.unit
    rates = log_padded((point.rate for point in points), share=0.08)
    values = _bounds(points, dense, spread)
    x = quantitative(
        "x",
        rates,
        log=True,
        axis=axis(
            x_title, log_ticks(*rates, tick_count(inner, 60)), "format(datum.value, '~r') + '×'", titlePadding=10
        ),
    )
    y = quantitative(
        "y",
        values,
        axis=axis(
            y_title,
            linear_ticks(*values, tick_count(height, 44)),
            titleAnchor="start",
            titleAngle=0,
            titleAlign="left",
            titleX=-LEFT + 4,
            titleY=-14,
            titleBaseline="bottom",
        ),
    )
    at = {"x": x, "y": y}
    shown = [_shown(point, values, unit, x_title, dense) for point in points]
    layers = [*_reference(dense, spread, rates, at), _front(points, rates, higher, at)]
    trail = sorted((one for one in shown if one["level"] == "way"), key=lambda one: one["order"])
    layers.append(
        mark(
            "line",
            [_bare(one) for one in trail],
            {**at, "order": {"field": "order"}},
            stroke=colour("blue"),
            strokeWidth=1.5,
            opacity=0.45,
            clip=True,
        )
    )
    for level, name, area in (("rest", "grey", 44), ("front", "orange", 60), ("way", "blue", 80)):
        for out in (False, True):
            these = [one for one in shown if one["level"] == level and one["out"] is out]
            if these:
                layers.append(dots(these, at, name, area, **({"shape": "triangle-down"} if out else {})))
    labels = _labels(shown, rates, values, inner, height)
    layers += [
        text(
            [one],
            at,
            dx=one["dx"],
            dy=one["dy"],
            align=one["align"],
            fill=colour(one["colour"]),
            fontWeight="bold" if one["strong"] else "normal",
        )
        for one in labels
    ]
    return fixed({"layer": layers}, inner, height, {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM})


def _bare(one: Datum) -> Datum:
    return {"x": one["x"], "y": one["y"], "order": one["order"]}


def _bounds(points: Sequence[Point], dense: Stage, spread: float | None) -> tuple[float, float]:
    """Of the metric: what matters, and of the rest what is not far beyond it."""
    level = dense.value()
    matter = [point.value for point in points if point.level != "rest"]
    if level is not None:
        matter += [level - (spread or 0), level + (spread or 0)]
    low, high = min(matter), max(matter)
    reach = max(high - low, 1e-6 * max(1.0, abs(high)))
    near = [point.value for point in points if low - reach <= point.value <= high + reach]
    return padded([*matter, *near], 0.1)


def _shown(point: Point, values: tuple[float, float], unit: str, what: str, dense: Stage) -> Datum:
    inside = min(max(point.value, values[0]), values[1])
    out = inside != point.value
    shown = f"{number(point.value, unit)} {unit}".strip()
    before = dense.value()
    apart = (
        "" if before is None or point.stage is dense else f", {signed(point.value - before, unit)} against {dense.name}"
    )
    return {
        "x": point.rate,
        "y": inside,
        "tip": f"{point.stage.name}: {times(point.rate)} {what.removeprefix('times ')}, {shown}{apart}",
        "text": point.stage.name,
        "level": point.level,
        "out": out,
        "order": point.order,
    }


def _reference(dense: Stage, spread: float | None, rates: tuple[float, float], at: Datum) -> list[Spec]:
    """The dense network's line and its band."""
    level = dense.value()
    if level is None:
        return []
    ends = [{"x": rates[0], "y": level}, {"x": rates[1], "y": level}]
    layers = []
    if spread is not None:
        band = [{"x": rates[0], "x2": rates[1], "y": level - spread, "y2": level + spread}]
        layers.append(mark("rect", band, {**at, "x2": {"field": "x2"}, "y2": {"field": "y2"}}, fill=colour("band")))
    layers.append(mark("line", ends, at, stroke=colour("soft"), strokeDash=[4, 3], strokeWidth=1))
    name = f"{dense.name}{f' ± {number(spread, dense.measures.unit)}' if spread is not None else ''}"
    end = [{"x": rates[1], "y": level, "text": name}]
    layers.append(text(end, at, align="right", dx=-4, dy=-8, fill=colour("soft")))
    return layers


def _front(points: Sequence[Point], rates: tuple[float, float], higher: bool, at: Datum) -> Spec:
    """The best that there is at a rate or a higher one, as a step."""
    by_name = {point.stage.name: point for point in points}
    names = front([(point.stage.name, point.rate, point.value) for point in points], higher)
    best = [by_name[name] for name in names]
    steps = [{"x": rates[0], "y": best[0].value}, *({"x": point.rate, "y": point.value} for point in best)]
    return mark("line", steps, at, interpolate="step-before", stroke=colour("orange"), strokeWidth=1.5, clip=True)


def _labels(
    shown: Sequence[Datum], rates: tuple[float, float], values: tuple[float, float], width: float, height: float
) -> list[Datum]:
    """Names of points where there is room for them: first of those on the way, then of those of the front."""
    taken = [(*_pixel(one, rates, values, width, height), 5.0, 5.0) for one in shown]
    found = []
    last = max((one["order"] for one in shown if one["level"] == "way"), default=None)
    wanted = [one for level in ("way", "front") for one in reversed(shown) if one["level"] == level]
    for one in wanted:
        px, py = _pixel(one, rates, values, width, height)
        half = width_of(one["text"]) / 2 + 2
        for dx, dy, align in ((0, 17, "center"), (0, -15, "center"), (11, 1, "left"), (-11, 1, "right")):
            centre = px + dx + {"center": 0, "left": half, "right": -half}[align]
            box = (centre, py + dy, half, 7.0)
            inside = half - 4 <= centre <= width - half + 8 and 8 <= box[1] <= height - 6
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                strong = one["level"] == "way" and one["order"] == last
                name = {"way": "blue", "front": "orange"}[one["level"]]
                found.append(
                    {
                        **_bare(one),
                        "text": one["text"],
                        "dx": dx,
                        "dy": dy,
                        "align": align,
                        "colour": name,
                        "strong": strong,
                    }
                )
                break
    return found


def _pixel(
    one: Datum, rates: tuple[float, float], values: tuple[float, float], width: float, height: float
) -> tuple[float, float]:
    return place(one["x"], rates, width, log=True), height - place(one["y"], values, height)


def _touch(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes, of centres and half sizes, lie on each other."""
    return abs(one[0] - other[0]) < one[2] + other[2] and abs(one[1] - other[1]) < one[3] + other[3]
