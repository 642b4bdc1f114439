"""Entries that stand for several stages, written out: ladders and beams. Values in, values out.

    ladder: [4, 10, 25]                                  targets in order, each from the one before
    beam: {pool: [15, 18, 21], targets: [24, 27, 30]}    the pool of Ye et al. 2018, section 2.4:
        each target is tried from every member, and the best candidate takes its member's place

Both name their stages after the targets (`NAME-4x`); NAME itself stands for the last one. A list in the
place of a value of the stage's settings, or of a whole mapping (`admm: [null, {...}]`), has one value for each
target (the pool's first), and a constraint that says no amount gets the target as its rate.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from dualprune.pipeline.choices.base import Kept
from dualprune.pipeline.choices.table import searches
from dualprune.pipeline.config.problems import Problems, brief, explained
from dualprune.pipeline.config.yamlfile import Path
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.sets import SETS, Amount, Pattern


def varying() -> set[str]:
    """Settings in which a list gives each target its own value."""
    return {name for kind in KINDS.values() for name in kind.varies}


WHOLE = tuple(Pattern.model_fields)
"""Settings that are lists themselves: which tensors a constraint is for."""

Target = Annotated[float, Field(gt=0)]


class Ladder(Settings):
    """Targets in order: a stage for each, from the one before. A list in place of a value has one for each target."""

    targets: list[Target] = Field(min_length=1)
    """Rates of the constraints that say no amount."""


class Beam(Settings):
    """A pool of partial prunes, and targets that are tried from each of its members."""

    pool: list[Target] = Field(min_length=2, max_length=26)
    """Rates of the partial prunes, each from the parent."""
    targets: list[Target] = Field(min_length=1)
    """Rates in order, each tried from every member of the pool."""
    metric: Kept | None = None
    """What the best candidate is best by; left out, the best of the objective, on `val`."""


@dataclass(frozen=True)
class Expanded:
    """What an entry stands for: entries of single stages, and the name of the last one."""

    entries: list[dict[str, Any]]
    last: str


def expand(entry: dict[str, Any], at: Path, problems: Problems) -> Expanded | None:
    """The stages that an entry with `ladder` or `beam` stands for; None, and problems noted, where it is not sound."""
    rest = {key: value for key, value in entry.items() if key not in ("ladder", "beam")}
    several = ("ladder", "beam", *searches())
    if sum(name in entry for name in several) > 1:
        *names, last = (f"`{name}`" for name in several)
        problems.add(at, f"an entry has one of {', '.join(names)} and {last}")
        return None
    able = [name for name, kind in KINDS.items() if kind.varies]
    if rest.get("kind") not in able:
        *names, last = able
        text = f"a ladder or a beam is of {', '.join(names)} or {last} stages, not {brief(repr(rest.get('kind')))}"
        problems.add((*at, "kind"), text)
        return None
    try:
        if "ladder" in entry:
            ladder = Ladder.model_validate({"targets": entry["ladder"]})
            rungs = _rungs(rest, ladder.targets, at, "ladder", problems)
            return _ladder(rest, rungs, ladder) if rungs else None
        beam = Beam.model_validate(entry["beam"])
    except ValidationError as error:
        for path, text in explained(error, Beam):
            place = ("ladder", *path[1:]) if "ladder" in entry else ("beam", *path)
            problems.add((*at, *place), text)
        return None
    rungs = _rungs(rest, beam.pool + beam.targets, at, "beam", problems)
    return _beam(rest, rungs, beam) if rungs else None


def _ladder(entry: dict[str, Any], rungs: list[dict[str, Any]], ladder: Ladder) -> Expanded:
    entries, parent = [], entry.get("parent")
    for target, settings in zip(ladder.targets, rungs, strict=True):
        entries.append({**settings, "name": _name(entry, target), "parent": parent})
        parent = entries[-1]["name"]
    return Expanded(entries, entries[-1]["name"])


def _beam(entry: dict[str, Any], rungs: list[dict[str, Any]], beam: Beam) -> Expanded:
    entries = []
    places = string.ascii_lowercase[: len(beam.pool)]
    by = {} if beam.metric is None else {"metric": beam.metric}
    pool: list[str] = []
    for target, settings in zip(beam.pool, rungs, strict=False):
        pool.append(_name(entry, target))
        entries.append({**settings, "name": pool[-1], "parent": entry.get("parent")})
    last = ""
    for number, (target, settings) in enumerate(zip(beam.targets, rungs[len(beam.pool) :], strict=True)):
        last = _name(entry, target)
        candidates = [f"{last}-{place}" for place in places]
        entries += [
            {**settings, "name": candidate, "parent": member}
            for candidate, member in zip(candidates, pool, strict=True)
        ]
        entries.append({"name": last, "kind": "select", "parents": candidates, **by})
        if number == len(beam.targets) - 1:
            break
        before, pool = pool, [f"{last}-pool-{place}" for place in places]
        for place, (name, held) in enumerate(zip(pool, before, strict=True)):
            choice = {"kind": "replace", **by, "candidate": place}
            entries.append({"name": name, **choice, "parents": [held, *candidates]})
    return Expanded(entries, last)


def _name(entry: dict[str, Any], target: float) -> str:
    return f"{entry.get('name')}-{target:g}x"


def _rungs(
    entry: dict[str, Any], targets: list[float], at: Path, recipe: str, problems: Problems
) -> list[dict[str, Any]]:
    """The entry's settings for each target; nothing, and problems noted, where lists don't fit."""
    unfit = [(place, len(values)) for place, values in _varying(entry) if len(values) != len(targets)]
    for place, count in unfit:
        text = f"has {count} values for {len(targets)} targets; give one value, or one for each"
        problems.add((*at, *place), text)
    names = [_name(entry, target) for target in targets]
    if len(set(names)) < len(names):
        problems.add((*at, recipe), f"two of its targets are the same: {', '.join(names)}")
    if unfit or len(set(names)) < len(names):
        return []
    return [
        {key: _setting(key, value, n, target) if key in varying() else value for key, value in entry.items()}
        for n, target in enumerate(targets)
    ]


def _varying(value: Any, path: Path = ()) -> Iterator[tuple[Path, list[Any]]]:
    """Lists that give each target its own value, with their places."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in WHOLE and (path or key in varying()):
                yield from _varying(inner, (*path, key))
    elif isinstance(value, list):
        if path == ("constraints",):
            for number, inner in enumerate(value):
                yield from _varying(inner, (*path, number))
        else:
            yield path, value


def _picked(value: Any, number: int) -> Any:
    """A setting for the number-th target."""
    if isinstance(value, dict):
        return {key: inner if key in WHOLE else _picked(inner, number) for key, inner in value.items()}
    return value[number] if isinstance(value, list) else value


def _setting(key: str, value: Any, number: int, target: float) -> Any:
    """A setting for the number-th target; constraints that say no amount get the target as their rate."""
    if key != "constraints" or not isinstance(value, list):
        return _picked(value, number)
    return [
        {**one, "rate": target}
        if isinstance(one, dict)
        and issubclass(SETS.get(str(one.get("set")), object), Amount)
        and not {"rate", "keep", "count", "macs"} & set(one)
        else one
        for one in (_picked(constraint, number) for constraint in value)
    ]
