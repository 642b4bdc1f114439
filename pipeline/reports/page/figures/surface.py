"""The model by which depth, width and resolution were chosen together: slices through it, and what it was fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from dualprune.pipeline.choices.surface import Surface
from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import Figure, Spec, Table, plural, quantitative
from dualprune.pipeline.reports.page.figures.marks import axis, dots, mark, text
from dualprune.pipeline.reports.page.theme import STEPS, colour

AXES = ("depth", "width", "resolution")
TITLES = {"depth": "blocks taken out", "width": "width kept", "resolution": "resolution"}
LEVELS = 24
"""Rows of a slice, at most."""
FINE = 96
"""Places across at which the model is asked."""
DRAWN = 6
"""Slices, at most."""
HEIGHT, LEFT = 170, 46
"""Pixels of a slice, and of the room for its axis."""


@dataclass(frozen=True)
class Model:
    """What a stage's artefact says of its fit."""

    stage: Stage
    surface: Surface
    points: tuple[tuple[float, float, float], ...]
    """Samples: depth, width and resolution."""
    values: tuple[float, ...]
    best: tuple[float, float, float]
    predicted: float
    facts: Mapping[str, Any]

    @property
    def bounds(self) -> tuple[float, float]:
        """Of colours: of what was measured, since a fit says little beyond that."""
        values = [*self.values, self.predicted]
        return min(values), max(max(values), min(values) + 1e-9)

    def step(self, value: float) -> int:
        """A value's colour, of STEPS; the last is the best."""
        low, high = self.bounds
        share = (value - low) / (high - low)
        share = share if self.stage.measures.higher else 1 - share
        return int(min(STEPS - 1, max(0, share * STEPS)))

    def varied(self) -> list[int]:
        """Axes on which samples differ."""
        return [which for which in range(len(AXES)) if len({point[which] for point in self.points}) > 1]


def surface(run: Run) -> Figure | None:
    """The last fit on the way or, where there is none, the last of all."""
    fitted = [stage for stage in run.stages.values() if {"fit", "samples", "point"} <= set(stage.decision)]
    if not fitted:
        return None
    along = [stage for stage in fitted if stage.chosen in run.way.stages]
    model = _model((along or fitted)[-1])
    varied = model.varied()
    if len(varied) < 2:
        return None
    return Figure(
        "surface", "The fit over shapes", " ".join(_said(model, len(fitted))), partial(_spec, model), _table(model)
    )


def _model(stage: Stage) -> Model:
    facts = stage.decision
    fit, side = facts["fit"], facts["resolution"]
    parts = (np.array(fit[name], np.float64) for name in ("factors", "origin", "span"))

    def place(one: Mapping[str, Any]) -> tuple[float, float, float]:
        return float(one["depth"]), float(one["width"]), float(one["resolution"] or side)

    samples = facts["samples"]
    points, values = tuple(map(place, samples)), tuple(float(one["value"]) for one in samples)
    return Model(stage, Surface(*parts), points, values, place(facts["point"]), float(facts["predicted"]), facts)


def _said(model: Model, fitted: int) -> Iterator[str]:
    fit, of, name = model.facts["fit"], model.stage.measures, model.stage.name
    unit, points = f" {of.unit}" if of.unit else "", " points" if of.unit == "%" else f" {of.unit}".rstrip()
    value, what = model.stage.value("val"), of.best.replace("_", " ")
    by = f"a fit of degree {fit['degree']} and rank {fit['rank']} to {plural(len(model.points), 'sample')} (circles)"
    yield f"What {name} chose by: {what} on validation as {by} has it."
    came = "" if value is None else f", and {number(value, of.unit)}{unit} when it was trained"
    yield f"The diamond is what it took: {number(model.predicted, of.unit)}{unit} by the fit{came}."
    off = f"the fit errs by {fit['error']:.2g}{points}, at most {fit['worst']:.2g}"
    yield f"On samples between others, left out in turn, {off}."
    if fitted > 1:
        yield f"{plural(fitted - 1, 'more fit')} of this run: in their manifests."


def _table(model: Model) -> Table:
    unit = model.stage.measures.unit
    fitted = model.surface.at(np.array(model.points))
    costs = list(model.facts["samples"][0]["cost"])
    rows = [
        (*_shape(point), number(value, unit), number(float(by), unit), *(f"{one['cost'][name]:.3f}" for name in costs))
        for point, value, by, one in zip(model.points, model.values, fitted, model.facts["samples"], strict=True)
    ]
    rows.append((*_shape(model.best), "-", number(model.predicted, unit), *("-" for _ in costs)))
    titles = (*(TITLES[name] for name in AXES), "measured", "by the fit", *(f"{name} left" for name in costs))
    return Table(titles, tuple(rows))


def _shape(point: Sequence[float]) -> tuple[str, str, str]:
    return f"{point[0]:.0f}", f"{point[1]:.3g}", f"{point[2]:g}"


def _spec(model: Model, width: int) -> Spec:
    varied = model.varied()
    across, up = 1 if 1 in varied else 2, 0 if 0 in varied else 2
    third = next((which for which in varied if which not in (across, up)), None)
    ats = [0.0] if third is None else sorted({point[third] for point in model.points}, reverse=True)[:DRAWN]
    columns = 1 if width < 600 else min(3, len(ats))
    inner = min(420.0, (width - 24 * (columns - 1)) / columns - LEFT - 12)
    near = 0 if third is None else min(range(len(ats)), key=lambda which: abs(ats[which] - model.best[third]))
    slices = [Slice(model, across, up, third, at, best=which == near) for which, at in enumerate(ats)]
    panels = [*(one.spec(inner) for one in slices), _legend(model)]
    return {"concat": panels, "columns": columns, "padding": 0, "spacing": {"row": 20, "column": 24}}


@dataclass(frozen=True)
class Slice:
    """Two axes of the model; the third, where samples differ on it, is held."""

    model: Model
    across: int
    up: int
    third: int | None
    at: float
    """Of the third."""
    best: bool
    """Whether what was chosen lies in it, or nearer to it than to others."""

    def spec(self, inner: float) -> Spec:
        """The picture."""
        (low, high), levels, half = self.ends, self.levels, self.half
        ticks = sorted({point[self.across] for point in self.model.points})
        label = "format(datum.value, '.0%')" if self.across == 1 else "format(datum.value, '~r')"
        look = {"grid": False, "labelOverlap": True}
        below = axis(TITLES[AXES[self.across]], ticks, label, **look)
        extent = {"minExtent": LEFT - 8, "maxExtent": LEFT - 8, **look}
        beside = axis(TITLES[AXES[self.up]], levels, "format(datum.value, '~r')", **extent)
        x = quantitative("x", (low, high), axis=below)
        y = quantitative("y", (levels[0] - half, levels[-1] + half), axis=beside)
        layers = [*self._cells({"x": x, "y": y}), *self._marks({"x": x, "y": y})]
        title = {} if self.third is None else {"title": {"text": f"{AXES[self.third]} {self.at:g}"}}
        return {"width": inner, "height": HEIGHT, "layer": layers, **title}

    @property
    def ends(self) -> tuple[float, float]:
        """What samples reach across."""
        values = [point[self.across] for point in self.model.points]
        return min(values), max(values)

    @property
    def levels(self) -> list[float]:
        """Whole numbers that samples reach up: no part of a block goes. Those of samples alone where there are many."""
        values = sorted({point[self.up] for point in self.model.points})
        whole = [float(one) for one in range(int(values[0]), int(values[-1]) + 1)]
        return whole if len(whole) <= LEVELS else values

    @property
    def half(self) -> float:
        """Of a level's height."""
        return min((b - a for a, b in pairwise(self.levels)), default=1.0) / 2

    def _cells(self, encoding: Mapping[str, Any]) -> Iterator[Spec]:
        """A band for each level, cut where its colour changes."""
        places = np.linspace(*self.ends, FINE + 1)
        cells: dict[int, list[dict[str, float]]] = {}
        for level in self.levels:
            points = np.tile(self.model.surface.origin, (FINE, 1))
            points[:, self.across], points[:, self.up] = (places[1:] + places[:-1]) / 2, level
            if self.third is not None:
                points[:, self.third] = self.at
            steps = [self.model.step(float(value)) for value in self.model.surface.at(points)]
            cuts = [0, *(end for end in range(1, FINE) if steps[end] != steps[end - 1]), FINE]
            for begin, end in pairwise(cuts):
                cell = {"x": float(places[begin]), "x2": float(places[end])}
                cells.setdefault(steps[begin], []).append({**cell, "y": level - self.half, "y2": level + self.half})
        both = {**encoding, "x2": {"field": "x2"}, "y2": {"field": "y2"}}
        for step, some in sorted(cells.items()):
            yield mark("rect", some, both, fill=colour(f"h{step}"))

    def _marks(self, encoding: Mapping[str, Any]) -> Iterator[Spec]:
        """The samples that lie in it, and what was chosen."""
        model, unit = self.model, self.model.stage.measures.unit
        fitted = model.surface.at(np.array(model.points))
        data = []
        for point, value, by in zip(model.points, model.values, fitted, strict=True):
            if self.third is None or point[self.third] == self.at:
                tip = f"{_called(point)}: measured {number(value, unit)} {unit}, by the fit {number(float(by), unit)}"
                data.append({"x": point[self.across], "y": point[self.up], "tip": tip})
        if data:
            yield dots(data, encoding, "paper", 50, stroke=colour("ink"))
        if self.best:
            tip = f"chosen, {_called(model.best)}: {number(model.predicted, unit)} {unit} by the fit"
            best = [{"x": model.best[self.across], "y": model.best[self.up], "tip": tip}]
            yield dots(best, encoding, "orange", 150, shape="diamond")


def _called(point: Sequence[float]) -> str:
    depth, width, side = _shape(point)
    return f"{plural(int(depth), 'block')} out, {100 * float(width):.3g} % wide, resolution {side}"


def _legend(model: Model) -> Spec:
    """Which colour is which value."""
    unit, (low, high) = model.stage.measures.unit, model.bounds
    order = range(STEPS) if model.stage.measures.higher else range(STEPS - 1, -1, -1)
    x, y = quantitative("x", (0, STEPS)), quantitative("y", (0, 1))
    both = {"x": x, "y": y, "x2": {"field": "x2"}, "y2": {"field": "y2"}}
    layers = [
        mark("rect", [{"x": place, "x2": place + 1, "y": 0, "y2": 1}], both, fill=colour(f"h{step}"))
        for place, step in enumerate(order)
    ]
    for place, value, align in ((0, low, "left"), (STEPS, high, "right")):
        label = [{"x": place, "text": f"{number(value, unit)} {unit}".strip()}]
        layers.append(text(label, {"x": x, "y": {"value": 24}}, align=align, fill=colour("soft")))
    return {"width": 220, "height": 12, "layer": layers}
