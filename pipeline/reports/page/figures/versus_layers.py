"""What each layer gives up in what the runs came to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dualprune.pipeline.reports.page.facts import Run, Tensor
from dualprune.pipeline.reports.page.figures.base import (
    Figure,
    Spec,
    Table,
    log_ticks,
    percent,
    plural,
    quantitative,
    tick_count,
)
from dualprune.pipeline.reports.page.figures.groups import SHAPES, runs_of
from dualprune.pipeline.reports.page.figures.groups import names as above
from dualprune.pipeline.reports.page.figures.layers import LEAST, largest, natural
from dualprune.pipeline.reports.page.figures.marks import axis, dots, rows
from dualprune.pipeline.reports.page.versus import Comparison, Group, mean


def kept(found: Comparison) -> Figure | None:
    """Weights kept of each tensor, in the chosen networks."""
    shares = [_shares(group) for group in found.groups]
    whole: dict[str, int] = {}
    for _, run in runs_of(found):
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


def _tensors(run: Run) -> Sequence[Tensor]:
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
    return frame.spec([*layers, *frame.texts(), *above(found)], top=28)
