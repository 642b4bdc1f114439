"""What each layer gives up, and what of it is stored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dualprune.pipeline.reports.page.facts import Run, Stage, Tensor
from dualprune.pipeline.reports.page.figures.base import (
    Figure,
    Spec,
    Table,
    linear_ticks,
    log_ticks,
    percent,
    plural,
    quantitative,
    size,
    tick_count,
)
from dualprune.pipeline.reports.page.figures.marks import axis, dots, mark, rows
from dualprune.pipeline.reports.page.theme import colour

DRAWN = 48
"""Tensors that are drawn, the largest ones."""
LEAST = 0.001
"""Percent that an axis goes down to, where a tensor lost all."""


def kept(run: Run) -> Figure | None:
    """Weights kept of each tensor, at each stage on the way."""
    along = [stage for stage in run.along() if stage.tensors]
    pruned = [stage for stage in along if any(one.nonzeros < one.size for one in stage.tensors)]
    if not pruned:
        return None
    last = pruned[-1]
    whole = _whole(along)
    names = sorted({one.name for stage in pruned for one in stage.tensors}, key=natural)
    shares = {stage.name: {one.name: 100 * one.nonzeros / whole[one.name] for one in stage.tensors} for stage in along}
    counts = {one.name: one.nonzeros for one in last.tensors}
    drawn = largest(names, whole)
    sentence = f"Weights kept of each tensor; blue is {last.name}, grey are the stages before it."
    if len(drawn) < len(names):
        sentence += f" The {len(drawn)} largest of {plural(len(names), 'tensor')}; all are in the table."
    table = Table(
        ("tensor", "weights", *(f"{stage.name}, kept" for stage in along)),
        tuple((name, f"{whole[name]:,}", *(_cell(stage, name, whole) for stage in along)) for name in names),
    )
    spec = partial(_kept_spec, [stage.name for stage in along], last.name, shares, counts, whole, drawn)
    return Figure("layers", "What each layer gives up", sentence, spec, table)


def _whole(along: Sequence[Stage]) -> dict[str, int]:
    """Sizes of tensors before anything was taken out of them."""
    found: dict[str, int] = {}
    for stage in along:
        for one in stage.tensors:
            found[one.name] = max(found.get(one.name, 1), one.size)
    return found


def _cell(stage: Stage, name: str, whole: Mapping[str, int]) -> str:
    found = next((one for one in stage.tensors if one.name == name), None)
    return "-" if found is None else f"{found.nonzeros:,} ({percent(100 * found.nonzeros / whole[name])})"


def natural(name: str) -> list[tuple[bool, int, str]]:
    """By which names are sorted as people do: 9 before 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def largest(names: Sequence[str], whole: Mapping[str, int]) -> list[str]:
    """As many as are drawn, in their order."""
    largest = set(sorted(names, key=lambda name: -whole[name])[:DRAWN])
    return [name for name in names if name in largest]


def _kept_spec(
    stages: Sequence[str],
    last: str,
    shares: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, int],
    whole: Mapping[str, int],
    names: Sequence[str],
    width: int,
) -> Spec:
    wide = width > 600
    right = [
        f"{percent(shares[last].get(name))}{f'  of {whole[name]:,}' if wide else ''}" if name in counts else ""
        for name in names
    ]
    frame = rows(names, right, width)
    least = min((one for stage in shares.values() for one in stage.values() if one > 0), default=10.0)
    low = max(LEAST, min(10.0, least / 1.5))
    ticks = log_ticks(low, 100, tick_count(frame.width, 64))
    x = quantitative("x", (low, 112), log=True, axis=axis("weights kept", ticks, "format(datum.value, '~r') + ' %'"))
    at = {"x": x, "y": frame.y}
    data = [
        {
            "row": number,
            "x": max(low, shares[stage][name]),
            "stage": stage,
            "tip": f"{name}, {stage}: keeps {percent(shares[stage][name])} of {whole[name]:,}",
        }
        for number, name in enumerate(names)
        for stage in stages
        if name in shares[stage]
    ]
    places: list[list[float]] = [
        [max(low, shares[stage][name]) for stage in stages if name in shares[stage]] for name in names
    ]
    ends = [
        {"row": number, "x": min(found), "x2": max(found)}
        for number in range(len(names))
        if len(found := places[number]) > 1
    ]
    layers = [mark("rule", ends, {**at, "x2": {"field": "x2"}}, stroke=colour("line"), strokeWidth=3)]
    for blue, name, area in ((False, "grey", 46), (True, "blue", 84)):
        these = [one for one in data if (one["stage"] == last) is blue]
        if these:
            layers.append(dots(these, at, name, area))
    return frame.spec([*layers, *frame.texts()])


def stored(run: Run) -> Figure | None:
    """Bytes of each tensor of the chosen network: values, and places."""
    stage = run.chosen
    found = [] if stage is None else [one for one in stage.tensors if one.total_bits is not None]
    if stage is None or not found:
        return None
    found.sort(key=lambda one: natural(one.name))
    drawn = largest([one.name for one in found], {one.name: one.total_bits or 0 for one in found})
    total = sum(one.total_bits or 0 for one in found) / 8
    sentence = f"{size(total)} of {stage.name}'s constrained tensors: dark are values, light are the places of values."
    table = Table(
        ("tensor", "weights left", "bits a value", "values", "places", "together"),
        tuple(
            (
                one.name,
                f"{one.nonzeros:,}",
                one.bits,
                size((one.value_bits or 0) / 8),
                size(((one.total_bits or 0) - (one.value_bits or 0)) / 8),
                size((one.total_bits or 0) / 8),
            )
            for one in found
        ),
    )
    by_name = {one.name: one for one in found}
    spec = partial(_stored_spec, [by_name[name] for name in drawn])
    return Figure("bits", "What is stored of each layer", sentence, spec, table)


def _stored_spec(tensors: Sequence[Tensor], width: int) -> Spec:
    right = [
        f"{size((one.total_bits or 0) / 8)}{f', {one.bits} bits a value' if width > 600 else ''}" for one in tensors
    ]
    frame = rows([one.name for one in tensors], right, width)
    most = max((one.total_bits or 0) / 8 for one in tensors)
    unit, factor = next(
        (name, 10**power)
        for name, power in (("GB", 9), ("MB", 6), ("kB", 3), ("bytes", 0))
        if most >= 10**power or power == 0
    )
    ticks = linear_ticks(0, most / factor, tick_count(frame.width, 70))
    x = quantitative("x", (0, most / factor * 1.02), axis=axis(unit, ticks, "format(datum.value, '~r')"))
    data: list[dict[str, Any]] = []
    for number, one in enumerate(tensors):
        values, together = (one.value_bits or 0) / 8 / factor, (one.total_bits or 0) / 8 / factor
        for part, (begin, end) in (("values", (0.0, values)), ("places", (values, together))):
            tip = f"{one.name}: {part} take {size((end - begin) * factor)} of {size(together * factor)}"
            data.append({"row": number, "x": begin, "x2": end, "part": part, "tip": tip})
    layers = []
    for part, name in (("values", "blue"), ("places", "pale")):
        these = [one for one in data if one["part"] == part and one["x2"] > one["x"]]
        if these:
            layers.append(frame.bars(these, x, name))
    return frame.spec([*layers, *frame.texts()])
