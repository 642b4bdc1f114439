"""Runs side by side: which differ by their seeds alone, what else they differ in, and which is better where. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.uncertain import difference
from dualprune.stages.objectives.measures import Measures

MOST = 6
"""Groups of runs that colours can tell apart."""
SEED = "seed"
"""The setting that may differ within a group."""


class Unlike(Exception):
    """Runs that can't be compared. The message says why."""


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seeds alone; most often one."""

    name: str
    runs: tuple[Run, ...]

    def at(self, rate: float) -> list[float]:
        """Of each run that has a network of this rate or a higher one, the best value on test among those."""
        return [best for run in self.runs if (best := _best(run, rate)) is not None]

    @property
    def one(self) -> Run:
        """The first, which stands for all where one is enough."""
        return self.runs[0]


@dataclass(frozen=True)
class Place:
    """What the groups have at a rate or a higher one."""

    rate: float
    values: tuple[tuple[float, ...], ...]
    """By group, one of each run; none where it has no such network."""
    better: int | None
    """The group that is certainly better than all others; None where the best are level."""


@dataclass(frozen=True)
class Difference:
    """A setting that is not the same in all groups."""

    where: str
    values: tuple[str, ...]
    """By group."""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side."""

    groups: tuple[Group, ...]
    measures: Measures
    places: tuple[Place, ...]
    """By rate, the lowest first."""
    differences: tuple[Difference, ...]


def compare(runs: Sequence[Run]) -> Comparison:
    """Runs side by side. Raises Unlike for runs of which some have no network, or are measured by other things."""
    for run in runs:
        if run.chosen is None:
            raise Unlike(f"the run {run.name} has no finished network to compare")
    by = {run.name: run.chosen.measures for run in runs if run.chosen is not None}
    measures = next(iter(by.values()))
    other = next((name for name, one in by.items() if one.best != measures.best), None)
    if other is not None:
        text = f"{runs[0].name} is measured by {measures.best}, {other} by {by[other].best}"
        raise Unlike(f"{text}: there is no common axis")
    groups = _groups(runs)
    if len(groups) > MOST:
        raise Unlike(f"{len(groups)} runs differ by more than their seeds; at most {MOST} can be told apart")
    return Comparison(groups, measures, tuple(_places(groups, measures)), tuple(_differences(groups)))


def _groups(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Runs by their settings but for the seeds, in the order given; each run once."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(json.dumps(_settings(run, seeds=False), sort_keys=True), []).append(run)
    names = [_name(members) for members in found.values()]
    taken = [name if names.count(name) == 1 else f"{name} ({number + 1})" for number, name in enumerate(names)]
    return tuple(Group(name, tuple(members)) for name, members in zip(taken, found.values(), strict=True))


def _name(runs: Sequence[Run]) -> str:
    more = len(runs) - 1
    return runs[0].name if not more else f"{runs[0].name} and {more} more seed{'s' if more > 1 else ''}"


def _settings(run: Run, seeds: bool = True) -> dict[str, Any]:
    """What a run was asked for, by stage; trials are no settings."""
    return {
        name: {"parents": list(stage.parents), **_without(stage.spec, () if seeds else (SEED,))}
        for name, stage in run.stages.items()
        if "@" not in name
    }


def _without(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _without(one, names) for name, one in value.items() if name not in names}
    return [_without(one, names) for one in value] if isinstance(value, (list, tuple)) else value


def _best(run: Run, rate: float) -> float | None:
    """The best value on test of a run's networks that are at least so much smaller."""
    values = [
        value
        for stage in run.done()
        if (run.fewer(stage) or 0) >= rate * 0.999 and (value := stage.value()) is not None and math.isfinite(value)
    ]
    if not values:
        return None
    higher = next(run.done()).measures.higher
    return max(values) if higher else min(values)


def _places(groups: Sequence[Group], of: Measures) -> Iterator[Place]:
    """At the rates of all networks, those that are all but equal taken as one."""
    rates = sorted({round(rate, 6) for group in groups for run in group.runs for rate in _rates(run)})
    kept: list[float] = []
    for rate in rates:
        if not kept or rate > 1.01 * kept[-1]:
            kept.append(rate)
    for rate in kept:
        values = tuple(tuple(group.at(rate)) for group in groups)
        yield Place(rate, values, _better(groups, values, of))


def _rates(run: Run) -> list[float]:
    return [rate for stage in run.done() if (rate := run.fewer(stage)) and stage.value() is not None]


def _better(groups: Sequence[Group], values: Sequence[Sequence[float]], of: Measures) -> int | None:
    """The group whose values are told apart from, and better than, those of all others that have any."""
    sign = 1 if of.higher else -1
    there = [number for number, some in enumerate(values) if some]
    order = sorted(there, key=lambda number: -sign * mean(values[number]))
    if not order:
        return None
    first, *rest = order
    return first if all(apart(groups, values, first, other, sign) for other in rest) else None


def apart(groups: Sequence[Group], values: Sequence[Sequence[float]], one: int, other: int, sign: int) -> bool:
    """Whether one group is better than another for certain: by its seeds where both have several, none of which is
    worse than any of the other's; else by more than so many test examples can tell."""
    a, b = [sign * value for value in values[one]], [sign * value for value in values[other]]
    if len(a) > 1 and len(b) > 1:
        return min(a) > max(b)
    stages = [_like(groups[number].one, values[number]) for number in (one, other)]
    margin = difference(stages[0], stages[1], groups[one].one.samples)
    return mean(a) - mean(b) > (margin or 0.0)


def _like(run: Run, values: Sequence[float]) -> Stage:
    """A stage that scores the mean of some values."""
    chosen = run.chosen
    assert chosen is not None
    return Stage("", "", "", metrics={chosen.measures.of("test"): mean(values)}, measures=chosen.measures)


def mean(values: Sequence[float]) -> float:
    """Of at least one."""
    return sum(values) / len(values)


def _differences(groups: Sequence[Group]) -> Iterator[Difference]:
    """Settings of stages of one name; and which stages a group has alone."""
    settings = [_settings(group.one, seeds=False) for group in groups]
    names = dict.fromkeys(name for one in settings for name in one)
    for name in names:
        there = [name in one for one in settings]
        if not all(there):
            yield Difference(f"stage {name}", tuple("there" if one else "not there" for one in there))
        flat = [dict(_flat(one[name])) if name in one else None for one in settings]
        for where in dict.fromkeys(where for one in flat if one for where in one):
            values = [None if one is None else one.get(where, "-") for one in flat]
            known = [value for value in values if value is not None]
            if len(set(known)) > 1:
                yield Difference(f"{name}.{where}", tuple("-" if value is None else value for value in values))


def _flat(value: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """Settings by dotted paths."""
    if isinstance(value, Mapping) and value:
        for name, one in value.items():
            yield from _flat(one, f"{before}.{name}" if before else str(name))
    elif isinstance(value, (list, tuple)) and any(isinstance(one, Mapping) for one in value):
        for number, one in enumerate(value):
            yield from _flat(one, f"{before}[{number}]")
    else:
        yield before, "none" if value is None else json.dumps(value) if not isinstance(value, str) else value
