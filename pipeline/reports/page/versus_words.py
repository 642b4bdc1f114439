"""What a comparison comes to, in words and in tables. Pure."""

from __future__ import annotations

from itertools import groupby

from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.facts import Run
from dualprune.pipeline.reports.page.figures.base import Cell, Table, lasting, signed, size, times
from dualprune.pipeline.reports.page.figures.lasted import hours
from dualprune.pipeline.reports.page.summary import as_json as run_as_json
from dualprune.pipeline.reports.page.versus import Comparison, Place, mean

SPANS = 3
"""Stretches of rates that one sentence tells apart."""


def verdict(found: Comparison) -> str:
    """Which is better where: one sentence."""
    names = [group.name for group in found.groups]
    if len(names) == 1:
        return f"The runs of {found.groups[0].one.name} differ by their seeds alone."
    spans = [(what, [place.rate for place in places]) for what, places in groupby(found.places, _what)]
    if len(spans) > SPANS:
        wins = [sum(place.better == which for place in found.places) for which in range(len(names))]
        best = max(range(len(names)), key=lambda which: wins[which])
        level = sum(place.better is None for place in found.places)
        return f"{names[best]} is better at {wins[best]} of {len(found.places)} rates; at {level} the best are level."
    parts = []
    for which, ((better, alone), rates) in enumerate(spans):
        low, high = times(rates[0]), times(rates[-1])
        first, last = which == 0, which == len(spans) - 1
        where = (
            "at all rates"
            if first and last
            else f"up to {high}"
            if first
            else f"from {low} on"
            if last
            else f"to {high}"
        )
        who = "the best are level" if better is None else f"{names[better]} is better"
        parts.append(f"only {names[better]} goes to {high}" if alone and better is not None else f"{where} {who}")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _what(place: Place) -> tuple[int | None, bool]:
    """Who is better at a rate, and whether nobody else has such a network."""
    return place.better, sum(bool(values) for values in place.values) == 1


def came_to(found: Comparison) -> Table:
    """What each run came to."""
    of = found.measures
    unit = f", {of.unit}" if of.unit else ""
    devices = {"GPU" if run.gpus else "worker" for group in found.groups for run in group.runs}
    titles = (
        "run",
        "network",
        "fewer weights",
        f"test {of.best.replace('_', ' ')}{unit}",
        "against its dense",
        "bytes",
        "trained for",
        f"{' or '.join(sorted(devices))} hours",
    )
    return Table(titles, tuple(_row(run) for group in found.groups for run in group.runs))


def _row(run: Run) -> tuple[Cell, ...]:
    chosen, dense = run.chosen, run.dense
    assert chosen is not None
    unit, value, before = chosen.measures.unit, chosen.value(), None if dense is None else dense.value()
    apart = "-" if value is None or before is None else signed(value - before, unit)
    spent = [one for stage in run.done() if (one := hours(run, stage)) is not None]
    seconds = sum(stage.seconds or 0.0 for stage in run.done())
    return (
        run.name,
        chosen.name,
        times(run.fewer(chosen)),
        number(value, unit),
        apart,
        size(chosen.metric("bytes")),
        lasting(seconds) if seconds else "-",
        f"{sum(spent):.3g}" if spent else "-",
    )


def seeds(found: Comparison) -> Table | None:
    """What runs that differ by their seeds alone came to, together."""
    unit = found.measures.unit
    rows: list[tuple[Cell, ...]] = []
    for group in found.groups:
        values = [value for run in group.runs if run.chosen is not None and (value := run.chosen.value()) is not None]
        if len(values) > 1:
            middle = mean(values)
            deviation = (sum((value - middle) ** 2 for value in values) / (len(values) - 1)) ** 0.5
            shown = (number(one, unit) for one in (middle, deviation, min(values), max(values)))
            rows.append((group.name, len(values), *shown))
    titles = ("runs", "seeds", "mean", "standard deviation", "least", "most")
    return Table(titles, tuple(rows)) if rows else None


def differences(found: Comparison) -> Table | None:
    """Settings that are not the same."""
    rows = tuple((one.where, *one.values) for one in found.differences)
    return Table(("setting", *(group.name for group in found.groups)), rows) if rows else None


def as_json(found: Comparison) -> dict[str, object]:
    """One object, with each run's facts in it."""
    names = [group.name for group in found.groups]
    return {
        "verdict": verdict(found),
        "best": found.measures.best,
        "groups": [{"name": group.name, "runs": [run.name for run in group.runs]} for group in found.groups],
        "rates": [
            {
                "rate": place.rate,
                "values": {name: list(values) for name, values in zip(names, place.values, strict=True)},
                "better": None if place.better is None else names[place.better],
            }
            for place in found.places
        ],
        "differences": [
            {"setting": one.where, **{"values": dict(zip(names, one.values, strict=True))}} for one in found.differences
        ],
        "runs": [run_as_json(run) for group in found.groups for run in group.runs],
    }
