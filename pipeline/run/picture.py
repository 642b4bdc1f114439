"""What there is to see of a run at one moment: values, made alike in the run itself and beside it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dualprune.pipeline.run.results import Result
from dualprune.pipeline.run.work import Work

State = Literal["done", "running", "waiting", "queued", "failed", "skipped", "left out"]
STATES: dict[str, State] = {
    "done": "done",
    "cached": "done",
    "running": "running",
    "queued": "queued",
    "run": "queued",
    "resume": "queued",
    "gone": "queued",
    "failed": "failed",
    "skipped": "skipped",
    "left out": "left out",
}
"""By the states of rows."""


@dataclass(frozen=True)
class Stage:
    """One stage, or a search's trial."""

    name: str
    kind: str
    state: State
    depth: int = 0
    """How many stages are before it on the longest way from a root."""
    rate: float | None = None
    value: float | None = None
    """What it is measured by, on validation."""
    dense: float | None = None
    """The same of the root that it comes from, where that is done and measured alike."""
    best: str = ""
    unit: str = ""
    seconds: float | None = None
    why: str = ""
    """Why it failed, was skipped or waits."""
    work: Work | None = None
    """What it has told, while it is at work."""
    retries: tuple[str, ...] = ()
    """Why it was tried again, each time."""


@dataclass(frozen=True)
class Picture:
    """A run at one moment. Times are seconds since 1970."""

    run: str
    now: float
    stages: tuple[Stage, ...] = ()
    """Each below one of those that it comes from: see `tree`."""
    began: float | None = None
    notice: str = ""
    """What there is to say where no run is going on."""


@dataclass(frozen=True)
class Doings:
    """What stages do, and why they were tried again, by name."""

    works: Mapping[str, Work] = field(default_factory=dict)
    retries: Mapping[str, Sequence[str]] = field(default_factory=dict)


def tree(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Names in the order in which they are shown, with their depths: each below all its parents, and right below the
    last of them as far as its siblings allow. Else as they were given. Parents that are not given don't count."""
    before = {name: [one for one in found if one in parents] for name, found in parents.items()}
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, found in before.items():
        for one in dict.fromkeys(found):
            children[one].append(name)
    waits = {name: len(set(found)) for name, found in before.items()}
    depths: dict[str, int] = {}
    left = [name for name in reversed(before) if not waits[name]]
    while left:
        name = left.pop()
        depths[name] = max((depths[one] + 1 for one in before[name]), default=0)
        for child in reversed(children[name]):
            waits[child] -= 1
            if not waits[child]:
                left.append(child)
    return depths


def stages(rows: Sequence[Result], parents: Mapping[str, Sequence[str]], doings: Doings) -> tuple[Stage, ...]:
    """Rows and what is told of them, as a tree. `parents` are the stages'; a trial comes below the search it is of."""
    by_name = {row.name: row for row in rows}
    for name in doings.works:
        search = by_name.get(name.partition("@")[0])
        if name not in by_name and search is not None:
            by_name[name] = Result(name, search.kind, "", "queued", measures=search.measures)
    above = {name: _above(name, parents) for name in by_name}
    roots: dict[str, str] = {}
    found = []
    for name, depth in tree(above).items():
        first = next((one for one in above[name] if one in roots), None)
        roots[name] = name if first is None else roots[first]
        found.append(_stage(by_name[name], by_name[roots[name]], depth, doings))
    return tuple(found)


def _above(name: str, parents: Mapping[str, Sequence[str]]) -> Sequence[str]:
    search, trial, _ = name.partition("@")
    return (search,) if trial else parents.get(name, ())


def _stage(row: Result, root: Result, depth: int, doings: Doings) -> Stage:
    work = doings.works.get(row.name)
    state, why = STATES[row.state], row.why or ""
    if work is not None and state not in ("done", "failed"):
        state, why = ("running" if work.trains else "waiting"), ""
    elif state == "running":  # by one of its trials, which has a line of its own, or in a run that says no more
        state = "queued" if any(name.startswith(f"{row.name}@") for name in doings.works) else state
    alike = root is not row and root.measures.best == row.measures.best
    return Stage(
        row.name,
        row.kind,
        state,
        depth,
        row.rate,
        row.val if work is None or state == "done" else work.value,
        root.val if alike else None,
        row.measures.best,
        row.measures.unit,
        row.seconds,
        why,
        work if state in ("running", "waiting") else None,
        tuple(doings.retries.get(row.name, ())),
    )
