"""Figures of runs side by side, on the same axes: each group of runs has a colour and a shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import (
    Figure,
    Spec,
    Table,
    lasting,
    log_padded,
    log_ticks,
    padded,
    percent,
    plural,
    quantitative,
    size,
    tick_count,
    times,
    width_of,
)
from dualprune.pipeline.reports.page.figures.layers import LEAST, largest, natural
from dualprune.pipeline.reports.page.figures.marks import Rows, axis, dots, mark, rows, text
from dualprune.pipeline.reports.page.figures.multiples import Line, Panel, Scale, multiples
from dualprune.pipeline.reports.page.figures.scatter import Box, Dot, Frame, drawn, line, named, reference, steps
from dualprune.pipeline.reports.page.theme import colour
from dualprune.pipeline.reports.page.versus import Comparison, Group, mean

SHAPES = ("circle", "square", "diamond", "triangle-right", "cross", "triangle-left")
"""By group; the other triangles say that a dot lies beyond the axes."""


def tradeoff(found: Comparison) -> Figure | None:
    """The metric against the rate, of all networks of all runs."""
    points = [(number, stage, run) for number, run in _runs(found) for stage in run.done() if _placed(run, stage)]
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


def _runs(found: Comparison) -> Iterator[tuple[int, Run]]:
    return ((number, run) for number, group in enumerate(found.groups) for run in group.runs)


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
    chosen = {(number, run.name, run.way.chosen) for number, run in _runs(found)}
    rates = log_padded((run.fewer(stage) or 1.0 for _, stage, run in points), share=0.08)
    along = [stage.value() or 0.0 for _, run in _runs(found) for stage in run.along() if stage.value() is not None]
    reach = 2 * (max(along) - min(along))
    values = padded([one for _, stage, _ in points if min(along) - reach <= (one := stage.value() or 0.0)], 0.1)
    frame = Frame(rates, values, width, "times fewer weights", title)
    layers, taken = _dense(found, frame)
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
    layers += [*drawn(frame, sorted(networks, key=lambda one: one.area)), *_legend(found, width)]
    names = [one for one, label in shown if label]
    return frame.spec([*layers, *named(frame, [*names, *(one for one in networks if one not in names)], taken, lines)])


def _dot(group: Group, which: int, stage: Stage, run: Run, chosen: bool, unit: str) -> tuple[Dot, bool]:
    """A network, and whether it is named: the chosen one of a group's first run."""
    rate, value = run.fewer(stage) or 1.0, stage.value() or 0.0
    tip = f"{run.name}, {stage.name}: {times(rate)} fewer weights, {number(value, unit)} {unit}".rstrip()
    label = which if chosen and run is group.one else None
    area = 80 if chosen else 40
    return Dot(
        stage.name, rate, value, tip, f"s{which}", area, label, strong=True, shape=SHAPES[which]
    ), label is not None


def _dense(found: Comparison, frame: Frame) -> tuple[list[Spec], list[Box]]:
    """The line of the dense network, where all began with the same."""
    dense = [run.dense for _, run in _runs(found) if run.dense is not None]
    values = {stage.value() for stage in dense}
    if len(values) != 1 or None in values:
        return [], []
    layers, box = reference(frame, dense[0].name, dense[0].value() or 0.0, None)
    return layers, [box]


def _band(frame: Frame, places: Sequence[tuple[float, Sequence[float]]], name: str) -> list[Spec]:
    """What several seeds span, as steps."""
    if all(len(set(values)) < 2 for _, values in places):
        return []
    low, high = (steps(frame, [(rate, of(values)) for rate, values in places]) for of in (min, max))
    data = [{"x": a[0], "y": a[1], "y2": b[1], "n": n} for n, (a, b) in enumerate(zip(low, high, strict=True))]
    at = {**frame.at, "y2": {"field": "y2"}, "order": {"field": "n"}}
    return [mark("area", data, at, fill=colour(name), opacity=0.16, clip=True)]


SIGNS = {"circle": "●", "square": "■", "diamond": "◆", "triangle-right": "▶", "cross": "✚", "triangle-left": "◀"}
"""Shapes as characters, for names of groups."""


def _legend(found: Comparison, width: int) -> list[Spec]:
    """The groups' names, above the axes, on the right."""
    layers: list[Spec] = []
    names = [f"{SIGNS[SHAPES[which]]} {group.name}" for which, group in enumerate(found.groups)]
    right = float(width - 60)
    for which, name in reversed(list(enumerate(names))):
        left = right - width_of(name)
        where = {"x": {"value": left}, "y": {"value": -16}}
        layers.append(text([{"text": name}], where, align="left", fill=colour(f"s{which}"), fontWeight="bold"))
        right = left - 16
    return layers


def kept(found: Comparison) -> Figure | None:
    """Weights kept of each tensor, in the chosen networks."""
    shares = [_shares(group) for group in found.groups]
    whole: dict[str, int] = {}
    for _, run in _runs(found):
        for tensor in _tensors(run):
            whole[tensor.name] = max(whole.get(tensor.name, 1), tensor.size)
    names = sorted({name for one in shares for name in one}, key=natural)
    if not names:
        return None
    table = Table(
        ("tensor", *(group.name for group in found.groups)),
        tuple((name, *(percent(one.get(name)) for one in shares)) for name in names),
    )
    drawn_names = largest(names, whole)
    left = len(names) - len(drawn_names)
    sentence = "Weights kept of each tensor in the networks that the runs came to"
    sentence += f"; {plural(left, 'smaller tensor')} in the table alone." if left else "."
    spec = partial(_kept_spec, found, shares, drawn_names)
    return Figure("layers", "What each layer gives up", sentence, spec, table)


def _tensors(run: Run) -> Sequence[Any]:
    return () if run.chosen is None else run.chosen.tensors


def _shares(group: Group) -> dict[str, float]:
    """Percent by tensor; the mean over seeds."""
    found: dict[str, list[float]] = {}
    for run in group.runs:
        whole = {one.name: one.size for one in (run.dense.tensors if run.dense is not None else ())}
        for one in _tensors(run):
            found.setdefault(one.name, []).append(100 * one.nonzeros / max(whole.get(one.name, 1), one.size))
    return {name: mean(values) for name, values in found.items()}


def _kept_spec(found: Comparison, shares: Sequence[dict[str, float]], names: Sequence[str], width: int) -> Spec:
    frame = rows(names, ["" for _ in names], width)
    low = max(LEAST, min(10.0, min((one for of in shares for one in of.values() if one > 0), default=10.0) / 1.5))
    ticks = log_ticks(low, 100, tick_count(frame.width, 64))
    x = quantitative("x", (low, 112), log=True, axis=axis("weights kept", ticks, "format(datum.value, '~r') + ' %'"))
    layers: list[Spec] = []
    for which, (group, of) in enumerate(zip(found.groups, shares, strict=True)):
        data = [
            {"row": place, "x": max(low, of[name]), "tip": f"{name}, {group.name}: keeps {percent(of[name])}"}
            for place, name in enumerate(names)
            if name in of
        ]
        layers.append(dots(data, {"x": x, "y": frame.y}, f"s{which}", 70, shape=SHAPES[which], opacity=0.85))
    return _with_legend(found, frame, layers)


def _with_legend(found: Comparison, frame: Rows, layers: Sequence[Spec]) -> Spec:
    """Rows, with the groups' names above them."""
    legend = []
    left = 0.0
    for which, group in enumerate(found.groups):
        name = f"{SIGNS[SHAPES[which]]} {group.name}"
        where = {"x": {"value": left}, "y": {"value": -14}}
        legend.append(text([{"text": name}], where, align="left", fill=colour(f"s{which}"), fontWeight="bold"))
        left += width_of(name) + 18
    return frame.spec([*layers, *frame.texts(), *legend], top=28)


def convergence(found: Comparison) -> Figure | None:
    """Residuals of the last stage that ADMM solved on the way to what each run came to."""
    panels = []
    table: list[tuple[Any, ...]] = []
    for which, group in enumerate(found.groups):
        for run in group.runs:
            solved = [stage for stage in run.along() if stage.updates]
            if solved:
                stage = solved[-1]
                panels.append(_residuals(group, run, stage, which))
                last = stage.updates[-1]
                table.append((run.name, stage.name, len(stage.updates), f"{last['residual']:.3g}", _change(last)))
    if not panels:
        return None
    sentence = (
        "Residuals of the last stage of ADMM, on one log scale: primal, and dashed dual, relative to the weights."
    )
    titles = ("run", "stage", "updates", "primal at the end", "dual at the end")
    spec = partial(multiples, panels[:12], Scale("epoch", log=True))
    return Figure("convergence", "Did ADMM converge?", sentence, spec, Table(titles, tuple(table)))


def _change(row: Any) -> str:
    return "-" if row.get("change") is None else f"{row['change']:.3g}"


def _residuals(group: Group, run: Run, stage: Stage, which: int) -> Panel:
    lines = []
    for name, field, dashed in (("primal", "residual", False), ("dual", "change", True)):
        points = tuple(
            (float(row["epoch"]), float(row[field]), f"{run.name}, epoch {row['epoch']}: {name} {row[field]:.3g}")
            for row in stage.updates
            if row.get(field) is not None
        )
        if points:
            lines.append(Line(name, f"s{which}", points, dashed))
    return Panel(
        f"{SIGNS[SHAPES[which]]} {run.name}", f"{stage.name} ends at {stage.updates[-1]['residual']:.2g}", tuple(lines)
    )


def sizes(found: Comparison) -> Figure | None:
    """Bytes of what each run came to."""
    return _bars(
        found,
        "size",
        "Size",
        "Bytes of the networks that the runs came to, the places of weights included.",
        _bytes,
        size,
    )


def lasted(found: Comparison) -> Figure | None:
    """How long all stages of each run were trained."""
    text_ = "Seconds for which all stages of a run were trained, shared ones in each."
    return _bars(found, "time", "Time", text_, _seconds, lasting)


def _bytes(run: Run) -> float | None:
    return None if run.chosen is None else run.chosen.metric("bytes")


def _seconds(run: Run) -> float | None:
    return sum(stage.seconds or 0.0 for stage in run.done()) or None


def _bars(
    found: Comparison,
    name: str,
    title: str,
    sentence: str,
    of: Callable[[Run], float | None],
    shown: Callable[[float], str],
) -> Figure | None:
    values = [(number, run.name, value) for number, run in _runs(found) if (value := of(run)) is not None]
    if len(values) < 2:
        return None
    table = Table(("run", title.lower()), tuple((run, shown(value)) for _, run, value in values))
    return Figure(name, title, sentence, partial(_bars_spec, values, shown), table)


def _bars_spec(values: Sequence[tuple[int, str, float]], shown: Callable[[float], str], width: int) -> Spec:
    frame = rows([name for _, name, _ in values], [shown(value) for _, _, value in values], width)
    x = quantitative("x", (0, 1.02 * max(value for _, _, value in values)))
    layers = [
        frame.bars([{"row": row, "x": 0, "x2": value, "tip": f"{name}: {shown(value)}"}], x, f"s{which}")
        for row, (which, name, value) in enumerate(values)
    ]
    return frame.spec([*layers, *frame.texts()], bottom=4)


VERSUS: tuple[Callable[[Comparison], Figure | None], ...] = (tradeoff, kept, convergence, sizes, lasted)
"""In the order of the page."""


def figures(found: Comparison) -> list[Figure]:
    """Those that the runs have something to show in."""
    return [figure for draws in VERSUS if (figure := draws(found)) is not None]
