"""A run's facts from its store alone: what was planned, what its events say, what artefacts there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import yaml

from dualprune.pipeline.dag import in_order
from dualprune.pipeline.reports.page import artefacts, gaps, told
from dualprune.pipeline.reports.page.facts import Run, Stage, State
from dualprune.pipeline.reports.page.told import Event, Told
from dualprune.pipeline.reports.page.way import way
from dualprune.pipeline.store import events as log
from dualprune.pipeline.store.locks import Holder, lives, newest, run_lock, stage_lock
from dualprune.pipeline.store.progress import Left, left
from dualprune.pipeline.store.store import LOOKS, Store

HOW = {"done": "finished", "failed": "failed", "interrupted": "interrupted"}
"""States of a run, by what its last event says."""
SAID = {
    "going": "is still going",
    "finished": "has finished",
    "failed": "has failed",
    "interrupted": "was interrupted",
    "killed": "was killed: its process is gone without a last word",
    "unfinished": "is not finished; it is older than the log of events, so whether it was stopped or killed is not known",
}


class NoRun(LookupError):
    """A store has no run of a name. The message says which it has."""


def runs(store: Store) -> list[str]:
    """Names of the runs that a store knows, sorted."""
    planned = {name.removesuffix(".json") for name in store.folder.names("plans")}
    return sorted(planned | set(store.folder.names("events")))


def collect(store: Store, name: str, wanted: str | None = None) -> Run:
    """All that a store tells of a run, the stage `wanted` as the one it came to. Raises NoRun, and KeyError for a
    stage that is none of the run's."""
    events, plan = log.read(store.folder, name), store.last_plan(name)
    if not events and not plan:
        there = runs(store)
        hint = f"it has {', '.join(there)}" if there else "it has none"
        raise NoRun(f"{store.url} has no run {name!r}; {hint}")
    now = _Now(store, name)
    of = told.told(events)
    stages = _looked(store, _known(plan, events, of), of, now)
    if wanted is not None and not stages[wanted].metrics:
        raise KeyError(wanted)
    state = _state(stages, events, now)
    found = Run(
        name,
        store.url,
        state,
        SAID[state],
        stages,
        way(stages, wanted),
        asked=_asked(plan, events),
        began=next((event.get("at") for event in events), None),
        ended=events[-1].get("at") if events and state != "going" else None,
        environment=tuple(_environment(events, stages)),
        gpus=_gpus(events),
        drivers=sum(event.get("event") == "begun" for event in events),
    )
    found = replace(found, samples=artefacts.samples(store, found.dense))
    overlap, lost = artefacts.overlap(store, found)
    return replace(found, overlap=overlap, missing=tuple(gaps.gaps(found, bool(events), lost)))


class _Now:
    """What is at work at one look."""

    def __init__(self, store: Store, run: str) -> None:
        self.store = store
        self.names = set(store.folder.names("locks/names"))
        self.clock = cache(store.probe)
        self.going = self.holds(run_lock(run))
        self.left = left(store, run) if self.going else Left()

    def holds(self, lock: str) -> bool:
        """Whether a living process has a lock; one on another machine counts while its heartbeat is fresh."""
        holder = newest(self.store.folder, lock) if lock in self.names else None
        return holder is not None and self._lives(holder)

    def _lives(self, holder: Holder) -> bool:
        try:
            return lives(self.store.folder, holder, self.clock)
        except OSError:  # a store that can't be written has no clock, and nobody who works in it
            return False


def _known(plan: Mapping[str, Any], events: Sequence[Event], of: Mapping[str, Told]) -> dict[str, Stage]:
    """The run's stages, parents before children, each trial before its choice, as they were planned last."""
    began = told.begun(events) or {}
    listed: Mapping[str, Any] = began.get("stages") or {}
    names = {entry["key"]: name for name, entry in plan.items()}
    found: dict[str, Stage] = {}
    for name, entry in listed.items():
        teacher = entry.get("teacher")
        parents = [*entry.get("parents", ()), *([teacher] if teacher else [])]
        found[name] = Stage(name, entry["key"], entry.get("kind", ""), tuple(dict.fromkeys(parents)))
    for name, entry in plan.items():
        spec, parents = entry.get("spec", {}), [names[key] for key in entry.get("parents", ()) if key in names]
        before = found.get(name) or Stage(name, entry["key"], spec.get("kind", ""), tuple(dict.fromkeys(parents)))
        found[name] = replace(before, key=entry["key"], **_settings(spec))
    order = sorted(found, key=_natural) if not listed else list(found)
    found = {name: found[name] for name in in_order({name: _within(found[name], found) for name in order})}
    return {one.name: one for stage in found.values() for one in (*_trials(stage, of), stage)}


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage was asked for that its figures show."""
    inner = spec.get("stage", spec)
    return {"seed": inner.get("seed"), "tolerance": (inner.get("admm") or {}).get("tolerance") or None}


def _within(stage: Stage, stages: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(parent for parent in stage.parents if parent in stages)


def _trials(choice: Stage, of: Mapping[str, Told]) -> Iterator[Stage]:
    for name, one in of.items():
        if name.startswith(f"{choice.name}@"):
            yield Stage(name, one.key, one.kind or "prune", choice.parents, seed=choice.seed, tolerance=choice.tolerance)


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _looked(store: Store, known: Mapping[str, Stage], of: Mapping[str, Told], now: _Now) -> dict[str, Stage]:
    """Each stage with what the store has of it; before a choice, the trials that only artefacts name."""

    def look(stage: Stage) -> Stage:
        found = artefacts.look(store, _with_events(stage, of.get(stage.name)))
        return found if found.state == "done" else _standing(store, found, of.get(stage.name), now)

    found: dict[str, Stage] = {}
    with ThreadPoolExecutor(LOOKS) as pool:
        for stage in pool.map(look, known.values()):
            if stage.chosen is not None and stage.chosen not in known:
                keys = {one.key: one.name for one in (*known.values(), *found.values())}
                found |= {one.name: one for one in artefacts.behind(store, stage, keys)}
            found[stage.name] = stage
    return found


def _with_events(stage: Stage, one: Told | None) -> Stage:
    """A stage with what its events say of how it went; its metrics as they were when it was done."""
    if one is None or (one.key and one.key != stage.key):
        return stage
    return replace(
        stage,
        attempts=tuple(one.attempts),
        submitted=one.submitted,
        retries=tuple(one.retries),
        failed_at=one.failed_at,
        epochs=one.epochs,
        rows=tuple(one.rows),
        metrics=one.metrics,
        chosen=one.chosen,
        finished=one.done_at,
    )


def _standing(store: Store, stage: Stage, one: Told | None, now: _Now) -> Stage:
    """How a stage stands that has no sound artefact."""
    state, why = _how(store, stage, one, now)
    return replace(stage, state=state, why=why)


def _how(store: Store, stage: Stage, one: Told | None, now: _Now) -> tuple[State, str | None]:
    reason = store.failure(stage.key)
    if now.holds(stage_lock(stage.key)) or stage.name in now.left.lines:
        line, since = now.left.line(stage.name), now.left.since.get(stage.name)
        return ("queued", line or "waits for its workers") if since is None else ("running", line or "is being trained")
    if reason is not None:
        return "failed", reason
    if stage.state == "lost":
        return "lost", stage.why
    if stage.metrics or (one is not None and one.done_at is not None):
        return "lost", "it was done, and its artefact is not in the store any more"
    step = store.checkpoint_steps(stage.key)
    if step is not None:
        return "stopped", f"goes on from its checkpoint after step {step:,}"
    if stage.attempts:
        return "stopped", "it had begun, and has no checkpoint: it begins anew"
    if now.going and (now.left.asked is None or stage.name in now.left.asked):
        return "queued", "waits for its turn"
    return "not begun", None


def _state(stages: Mapping[str, Stage], events: Sequence[Event], now: _Now) -> Any:
    if now.going:
        return "going"
    last = told.ended(events)
    if events:
        return "killed" if last is None else HOW.get(str(last.get("how")), "interrupted")
    if all(stage.state == "done" for stage in stages.values()):
        return "finished"
    return "failed" if any(stage.state == "failed" for stage in stages.values()) else "unfinished"


def _asked(plan: Mapping[str, Any], events: Sequence[Event]) -> str | None:
    """The configuration as the last run had it; from before the log of events, the settings of each stage."""
    config = (told.begun(events) or {}).get("config")
    if config:
        return str(config)
    specs = [{"name": name, **entry["spec"]} for name, entry in plan.items() if "spec" in entry]
    return yaml.safe_dump({"stages": specs}, sort_keys=False, width=100, default_flow_style=None) if specs else None


def _gpus(events: Sequence[Event]) -> float | None:
    """Of each rank, by the configuration."""
    try:
        config = yaml.safe_load((told.begun(events) or {}).get("config") or "")
        return float(config["cluster"]["gpus"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return None


def _environment(events: Sequence[Event], stages: Mapping[str, Stage]) -> Iterator[tuple[str, str]]:
    """Versions and machines, what they are and what is to be said."""
    began = told.begun(events) or {}
    if began.get("host"):
        yield "driver", f"{began['host']}, process {began.get('pid', '-')}"
    versions = dict(began.get("versions") or {})
    made: dict[tuple[str, str], list[str]] = {}
    for stage in stages.values():
        for name, version in stage.versions:
            made.setdefault((name, version), []).append(stage.name)
    for name, version in versions.items():
        yield str(name), str(version)
    for (name, version), whose in made.items():
        if versions.get(name) == version:
            continue
        only = "" if len(whose) == sum(bool(one.versions) for one in stages.values()) else f" ({', '.join(whose)})"
        yield f"{name} of artefacts" if name in versions else name, f"{version}{only}"
    worlds = sorted({stage.world for stage in stages.values() if stage.world})
    if worlds:
        yield "ranks of a stage", ", ".join(map(str, worlds))
