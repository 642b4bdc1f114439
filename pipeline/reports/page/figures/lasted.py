"""When stages were trained, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import (
    Figure,
    Spec,
    Table,
    lasting,
    linear_ticks,
    plural,
    quantitative,
    tick_count,
)
from dualprune.pipeline.reports.page.figures.marks import axis, rows
from dualprune.pipeline.store.history import Attempt

DRAWN = 40
"""Stages, at most: those that took longest."""
UNITS = (("days", 86400.0, 3.0), ("hours", 3600.0, 2.0), ("minutes", 60.0, 2.0), ("seconds", 1.0, 0.0))
"""Name, seconds, and from how many on it is used."""


WAITED, GOING = "waited for its workers", "still going"
HOWS = {
    "done": "done",
    "stopped": "stopped, and saved",
    "lost": "broke off",
    "failed": "failed",
    None: "its run was killed",
}
"""How an attempt ended."""
LOOKS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("rule", (WAITED,), 0.12),
    ("blue", (HOWS["done"], HOWS["stopped"], GOING), 0.56),
    ("orange", (HOWS["lost"], HOWS["failed"], HOWS[None]), 0.56),
)
"""Colours and thicknesses by that."""


@dataclass(frozen=True)
class Spell:
    """A time of a stage, in seconds since the first one of all began, or of itself."""

    begin: float
    end: float
    how: str


def lasted(run: Run) -> Figure | None:
    """A line for each attempt where its times are known; else one for each stage, as long as it trained."""
    stages = [stage for stage in run.stages.values() if not stage.chooses]
    first = min((one.began for stage in stages for one in _attempts(stage)), default=None)
    spells = {stage.name: _spells(stage, first) for stage in stages}
    stages = [stage for stage in stages if spells[stage.name]]
    if not stages:
        return None
    logged = first is not None
    longest = sorted(stages, key=lambda stage: -(stage.seconds or 0.0))[:DRAWN]
    drawn = [stage for stage in stages if stage in longest]
    sentence = (
        "When each stage was trained, since the first began; orange broke off or failed."
        if logged
        else "Seconds for which each stage was trained."
    )
    sentence += (
        " Grey waited." if logged and any(one.how == WAITED for spell in spells.values() for one in spell) else ""
    )
    if len(drawn) < len(stages):
        sentence += f" The {len(drawn)} longest of {plural(len(stages), 'stage')}."
    device = "GPU hours" if run.gpus else "worker hours"
    table = Table(
        ("stage", "trained for", "ranks", device, "attempts", "retries"),
        tuple(
            (
                stage.name,
                lasting(stage.seconds),
                stage.world,
                _hours(run, stage),
                len(_attempts(stage)) or None,
                _retries(stage),
            )
            for stage in stages
        ),
    )
    return Figure("time", "Time and cost", sentence, partial(_spec, drawn, spells), table)


def hours(run: Run, stage: Stage) -> float | None:
    """Of GPUs, where the run has them, else of workers, that training took, without what was lost."""
    if stage.seconds is None or not stage.world:
        return None
    return stage.seconds * stage.world * (run.gpus or 1.0) / 3600


def _hours(run: Run, stage: Stage) -> str | None:
    found = hours(run, stage)
    return None if found is None else f"{found:.3g}"


def _attempts(stage: Stage) -> list[Attempt]:
    return [] if stage.history is None else stage.history.attempts


def _retries(stage: Stage) -> int | None:
    return (len(stage.history.retries) or None) if stage.history is not None else None


def _spells(stage: Stage, first: float | None) -> list[Spell]:
    known = _attempts(stage)
    if first is None or not known:
        return [] if not stage.seconds or first is not None else [Spell(0.0, stage.seconds, "done")]
    found = []
    submitted = stage.history.submitted if stage.history is not None else None
    if submitted is not None and submitted < known[-1].began:
        found.append(Spell(max(0.0, submitted - first), known[-1].began - first, WAITED))
    for one in known:
        going = one.ended is None and one is known[-1] and stage.state == "running"
        how = GOING if going else HOWS[one.ended]
        found.append(Spell(one.began - first, max(one.last, one.began) - first, how))
    return found


def _spec(stages: Sequence[Stage], spells: dict[str, list[Spell]], width: int) -> Spec:
    frame = rows([stage.name for stage in stages], [lasting(stage.seconds) for stage in stages], width)
    end = max(max(one.end for stage in stages for one in spells[stage.name]), 1e-3)
    unit, factor, _ = next(one for one in UNITS if end >= one[1] * one[2])
    ticks = linear_ticks(0, end / factor, tick_count(frame.width, 60))
    x = quantitative("x", (0, end / factor * 1.01), axis=axis(unit, ticks, "format(datum.value, '~r')"))
    data: list[dict[str, Any]] = []
    for number, stage in enumerate(stages):
        for one in spells[stage.name]:
            tip = f"{stage.name}: {lasting(one.end - one.begin)}, {one.how}"
            least = one.begin / factor + 0.002 * end / factor
            data.append(
                {"row": number, "x": one.begin / factor, "x2": max(one.end / factor, least), "how": one.how, "tip": tip}
            )
    layers = []
    for name, hows, thick in LOOKS:
        these = [one for one in data if one["how"] in hows]
        if these:
            layers.append(frame.bars(these, x, name, thick))
    return frame.spec([*layers, *frame.texts()])
