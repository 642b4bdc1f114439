"""The metric against the rate, of the networks of all runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import Figure, Spec, Table, log_padded, padded, times
from dualprune.pipeline.reports.page.figures.groups import SHAPES, names, runs_of
from dualprune.pipeline.reports.page.figures.marks import mark
from dualprune.pipeline.reports.page.figures.scatter import Box, Dot, Frame, drawn, line, named, reference, steps
from dualprune.pipeline.reports.page.theme import colour
from dualprune.pipeline.reports.page.versus import Comparison, Group, mean


def tradeoff(found: Comparison) -> Figure | None:
    """The metric against the rate, of all networks of all runs."""
    points = [(number, stage, run) for number, run in runs_of(found) for stage in run.done() if _placed(run, stage)]
    if len(points) < 2:
        return None
    of = found.measures
    best, unit = of.best.replace("_", " "), f", {of.unit}" if of.unit else ""
    sentence = "Dots are networks, lines the best that there is at a rate or a higher one."
    if any(len(group.runs) > 1 for group in found.groups):
        sentence += " Of runs that differ by their seeds the line is the mean, and the band all of them."
    table = Table(
        ("fewer weights", *(group.name for group in found.groups), "better"),
        tuple(
            (
                times(place.rate),
                *(_values(values, of.unit) for values in place.values),
                "-" if place.better is None else found.groups[place.better].name,
            )
            for place in found.places
        ),
    )
    spec = partial(_tradeoff_spec, found, points, f"test {best}{unit}")
    return Figure("tradeoff", f"{best.capitalize()} against rate", sentence, spec, table)


def _placed(run: Run, stage: Stage) -> bool:
    return bool(run.fewer(stage)) and stage.value() is not None


def _values(values: Sequence[float], unit: str) -> str:
    """A mean, and of several the least and the most."""
    if not values:
        return "-"
    shown = number(mean(values), unit)
    return shown if len(values) == 1 else f"{shown} ({number(min(values), unit)} to {number(max(values), unit)})"


def _tradeoff_spec(found: Comparison, points: Sequence[tuple[int, Stage, Run]], title: str, width: int) -> Spec:
    of = found.measures
    chosen = {(number, run.name, run.way.chosen) for number, run in runs_of(found)}
    rates = log_padded((run.fewer(stage) or 1.0 for _, stage, run in points), share=0.08)
    along = [stage.value() or 0.0 for _, run in runs_of(found) for stage in run.along() if stage.value() is not None]
    reach = 2 * (max(along) - min(along))
    values = padded([one for _, stage, _ in points if min(along) - reach <= (one := stage.value() or 0.0)], 0.1)
    frame = Frame(rates, values, width, "times fewer weights", title)
    beside = [(run.fewer(stage) or 1.0, stage.value() or 0.0) for _, stage, run in points]
    layers, taken = _dense(found, frame, beside)
    lines = []
    shown = []
    for which, group in enumerate(found.groups):
        places = [(place.rate, place.values[which]) for place in found.places if place.values[which]]
        layers += _band(frame, places, f"s{which}")
        lines.append(steps(frame, [(rate, mean(some)) for rate, some in places]))
        layers.append(line(frame, lines[-1], f"s{which}"))
        shown += [
            _dot(group, which, stage, run, (which, run.name, stage.name) in chosen, of.unit)
            for number, stage, run in points
            if number == which
        ]
    networks = [one for one, _ in shown]
    layers += [*drawn(frame, sorted(networks, key=lambda one: one.area)), *names(found, right=width - 60)]
    told = [one for one, label in shown if label]
    return frame.spec([*layers, *named(frame, [*told, *(one for one in networks if one not in told)], taken, lines)])


def _dot(group: Group, which: int, stage: Stage, run: Run, chosen: bool, unit: str) -> tuple[Dot, bool]:
    """A network, and whether it is named: the chosen one of a group's first run."""
    rate, value = run.fewer(stage) or 1.0, stage.value() or 0.0
    tip = f"{run.name}, {stage.name}: {times(rate)} fewer weights, {number(value, unit)} {unit}".rstrip()
    label = which if chosen and run is group.one else None
    area = 80 if chosen else 40
    return Dot(
        stage.name, rate, value, tip, f"s{which}", area, label, strong=True, shape=SHAPES[which]
    ), label is not None


def _dense(found: Comparison, frame: Frame, beside: Sequence[tuple[float, float]]) -> tuple[list[Spec], list[Box]]:
    """The line of the dense network, where all began with the same."""
    dense = [run.dense for _, run in runs_of(found) if run.dense is not None]
    values = {stage.value() for stage in dense}
    if len(values) != 1 or None in values:
        return [], []
    layers, box = reference(frame, dense[0].name, dense[0].value() or 0.0, None, beside, [])
    return layers, [box]


def _band(frame: Frame, places: Sequence[tuple[float, Sequence[float]]], name: str) -> list[Spec]:
    """What several seeds span, as steps."""
    if all(len(set(values)) < 2 for _, values in places):
        return []
    low, high = (steps(frame, [(rate, of(values)) for rate, values in places]) for of in (min, max))
    data = [{"x": a[0], "y": a[1], "y2": b[1], "n": n} for n, (a, b) in enumerate(zip(low, high, strict=True))]
    at = {**frame.at, "y2": {"field": "y2"}, "order": {"field": "n"}}
    return [mark("area", data, at, fill=colour(name), opacity=0.16, clip=True)]
