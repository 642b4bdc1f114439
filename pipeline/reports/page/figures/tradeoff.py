"""What is lost for what is gained: the metric of all networks against how much smaller they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import (
    Cell,
    Figure,
    Spec,
    Table,
    log_padded,
    padded,
    plural,
    signed,
    times,
)
from dualprune.pipeline.reports.page.figures.scatter import Box, Dot, Frame, Line, drawn, line, named, reference, steps
from dualprune.pipeline.reports.page.uncertain import half_width
from dualprune.pipeline.reports.page.way import front

LOOKS = {"rest": ("grey", 44), "front": ("orange", 60), "way": ("blue", 80)}
"""Colour and area of dots."""
FEW = 8
"""Networks of the front beside the way that are named, at most: more than these say little."""
BEYOND = 2.0
"""Times what the way and the dense network's band take up and down, within which others are shown where they are."""


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
    higher, unit, level = dense.measures.higher, dense.measures.unit, dense.value()
    rates = log_padded((point.rate for point in points), share=0.08)
    frame = Frame(rates, _bounds(points, dense, spread), width, x_title, y_title)
    by_name = {point.stage.name: (point.rate, point.value) for point in points}
    best = front([(name, *place) for name, place in by_name.items()], higher)
    trail = sorted((point for point in points if point.level == "way"), key=lambda point: point.order)
    through = [(point.rate, point.value) for point in trail]
    lines: list[Line] = [steps(frame, [by_name[name] for name in best]), through]
    layers: list[Spec] = []
    taken: list[Box] = []
    if level is not None:
        margin = "" if spread is None else f" ± {number(spread, unit)}"
        name = f"{dense.name}{margin}"
        layers, box = reference(frame, name, level, spread, list(by_name.values()), lines)
        taken, lines = [box], [*lines, [(rates[0], level), (rates[1], level)]]
    layers += [line(frame, lines[0], "orange"), line(frame, through, "blue", opacity=0.45)]
    few = sum(point.level == "front" for point in points) <= FEW
    shown = sorted((_dot(point, dense, x_title, trail[-1], few) for point in points), key=lambda one: one.area)
    return frame.spec([*layers, *drawn(frame, shown), *named(frame, shown, taken, lines)])


def _dot(point: Point, dense: Stage, what: str, last: Point, few: bool) -> Dot:
    unit, before, stage = dense.measures.unit, dense.value(), point.stage
    apart = "" if before is None or stage is dense else f", {signed(point.value - before, unit)} against {dense.name}"
    shown = f"{number(point.value, unit)} {unit}".strip()
    tip = f"{stage.name}: {times(point.rate)} {what.removeprefix('times ')}, {shown}{apart}"
    name, area = LOOKS[point.level]
    label = {"way": -point.order, "front": 1 if few else None}.get(point.level)
    return Dot(stage.name, point.rate, point.value, tip, name, area, label, strong=point is last)


def _bounds(points: Sequence[Point], dense: Stage, spread: float | None) -> tuple[float, float]:
    """Of the metric: what matters, and of the rest what is not far beyond it."""
    level = dense.value()
    matter = [point.value for point in points if point.level == "way"]
    if level is not None:
        matter += [level - (spread or 0), level + (spread or 0)]
    low, high = min(matter), max(matter)
    reach = BEYOND * max(high - low, 1e-6 * max(1.0, abs(high)))
    return padded([*matter, *(one.value for one in points if low - reach <= one.value <= high + reach)], 0.1)
