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
from dualprune.pipeline.reports.page import artefacts, gaps
from dualprune.pipeline.reports.page.facts import Run, Stage, State
from dualprune.pipeline.reports.page.way import way
from dualprune.pipeline.store import events as log
from dualprune.pipeline.store.events import Event
from dualprune.pipeline.store.history import History, histories
from dualprune.pipeline.store.locks import Holder, lives, newest, run_lock, stage_lock
from dualprune.pipeline.store.progress import Left, left
from dualprune.pipeline.store.store import Store
from dualprune.stages.files.folder import AT_ONCE
from dualprune.stages.files.public import public
from dualprune.stages.objectives.measures import CLASSIFY, Measure, Measures

HOW = {"done": "finished", "failed": "failed", "interrupted": "interrupted", "broken": "broken"}
"""States of a run, by what its last event says."""
SAID = {
    "going": "is still going",
    "finished": "has finished",
    "failed": "has failed",
    "interrupted": "was interrupted",
    "broken": "broke off: it lost its cluster or its locks",
    "killed": "was killed: its process is gone without a last word",
    "unfinished": "is not finished; it is older than the log of events: whether it was stopped or killed is not known",
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
    began = _begun(events)
    stages = _looked(store, _known(plan, began, histories(events)), now)
    if wanted is not None and not stages[wanted].metrics:
        raise KeyError(wanted)
    state = _state(stages, events, now)
    found = Run(
        name,
        public(store.url),
        state,
        SAID[state],
        stages,
        way(stages, wanted),
        asked=_asked(plan, began),
        began=next((event["at"] for event in events), None),
        ended=events[-1]["at"] if events and state != "going" else None,
        environment=tuple(_environment(began, stages)),
        gpus=((began.get("settings") or {}).get("cluster") or {}).get("gpus"),
        drivers=sum(event["event"] == "begun" for event in events),
    )
    overlap, lost = artefacts.overlap(store, found)
    looked = artefacts.looked(store, found.chosen)
    return replace(
        found,
        overlap=overlap,
        looked=looked,
        missing=tuple(public(text) for text in gaps.gaps(found, bool(events), lost)),
    )


class _Now:
    """What is at work at one look."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self.names = set(store.folder.names("locks/names"))
        self.clock = cache(store.probe)
        self.going = self.holder(run_lock(run)) is not None
        self.left = left(store.folder, run) if self.going else Left()

    def holder(self, lock: str) -> Holder | None:
        """The living process that has a lock, if any; one on another machine counts while its heartbeat is fresh."""
        holder = newest(self.store.folder, lock) if lock in self.names else None
        return holder if holder is not None and self._lives(holder) else None

    def _lives(self, holder: Holder) -> bool:
        try:
            return lives(self.store.folder, holder, self.clock)
        except OSError:  # a store that can't be written has no clock, and nobody who works in it
            return False


def _known(plan: Mapping[str, Any], began: Event, of: Mapping[str, History]) -> dict[str, Stage]:
    """The run's stages, parents before children, each trial before its choice, as they were planned last."""
    listed: Mapping[str, Any] = began.get("stages") or {}
    names = {entry["key"]: name for name, entry in plan.items()}
    found: dict[str, Stage] = {}
    for name in listed or sorted(plan, key=_natural):
        entry = listed.get(name) or plan[name]
        teacher, spec = entry.get("teacher"), entry.get("spec") or {}
        parents = [*entry.get("parents", ()), *([teacher] if teacher else [])]
        parents = [names.get(parent, parent) for parent in parents]  # a plan has keys
        kind, key = entry.get("kind") or spec.get("kind", ""), entry["key"]
        found[name] = Stage(name, key, kind, tuple(dict.fromkeys(parents)), spec=spec, history=of.get(key))
    order = in_order({name: tuple(one for one in stage.parents if one in found) for name, stage in found.items()})
    stages = [found[name] for name in order]
    return {one.name: one for stage in stages for one in (*_trials(stage, of), stage)}


def _trials(choice: Stage, of: Mapping[str, History]) -> Iterator[Stage]:
    """What a choice has tried, as the log of events has it."""
    for key, one in of.items():
        if one.name.startswith(f"{choice.name}@"):
            yield Stage(one.name, key, one.kind or "prune", choice.parents, spec=choice.trained, history=one)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def _looked(store: Store, known: Mapping[str, Stage], now: _Now) -> dict[str, Stage]:
    """Each stage with what the store has of it; before a choice, the trials that only artefacts name."""

    def look(stage: Stage) -> Stage:
        found = artefacts.look(store, _told(stage))
        return found if found.state == "done" else _standing(store, found, now)

    found: dict[str, Stage] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for stage in pool.map(look, known.values()):
            if stage.chosen is not None and stage.chosen not in known:
                keys = {one.key: one.name for one in (*known.values(), *found.values())}
                found |= {one.name: one for one in artefacts.behind(store, stage, keys)}
            found[stage.name] = stage
    return {name: _missed(_placed(stage, found), found) for name, stage in found.items()}


def _placed(stage: Stage, stages: Mapping[str, Stage]) -> Stage:
    """A trial with the parents that its artefact names: another trial, most often."""
    known = tuple(name for name in stage.started if name in stages)
    return replace(stage, parents=known) if "@" in stage.name and known else stage


def _missed(stage: Stage, stages: Mapping[str, Stage]) -> Stage:
    """A stage without a trace from which others were made: it has been there."""
    made = [one.name for one in stages.values() if one.state == "done" and stage.name in one.parents]
    if stage.state != "not begun" or not made:
        return stage
    return replace(
        stage, state="lost", why=f"its artefact is not in the store any more, though {made[0]} was made of it"
    )


def _told(stage: Stage) -> Stage:
    """A stage with what its events say; should its artefact be lost, there is nothing else."""
    one = stage.history
    if one is None:
        return stage
    last = one.rows[-1] if one.rows else {}
    measures = stage.measures
    if "best" in last:
        named = {last["best"]: Measure(last.get("unit", ""))}
        measures = Measures(last["best"], named) if last["best"] != CLASSIFY.best else CLASSIFY
    rows = tuple(artefacts.light(row) for row in one.rows)
    return replace(
        stage,
        rows=rows,
        epochs=last.get("epochs"),
        metrics=one.metrics or {},
        measures=measures,
        chosen=one.chosen,
        finished=one.done,
    )


def _standing(store: Store, stage: Stage, now: _Now) -> Stage:
    """How a stage stands that has no sound artefact."""
    state, why = _how(store, stage, now)
    return replace(stage, state=state, why=why)


def _how(store: Store, stage: Stage, now: _Now) -> tuple[State, str | None]:
    holder = now.holder(stage_lock(stage.key))
    if holder is not None and holder.run != now.run:
        return "running", f"is at work in the run {holder.run}"
    if holder is not None or stage.name in now.left.lines:
        line, since = now.left.line(stage.name), now.left.since.get(stage.name)
        return ("queued", line or "waits for its workers") if since is None else ("running", line or "is being trained")
    reason = store.failure(stage.key)
    if reason is not None:
        return "failed", public(reason)
    if stage.state == "lost":
        return "lost", stage.why
    if stage.finished is not None:
        return "lost", "it was done, and its artefact is not in the store any more"
    step = store.checkpoint_steps(stage.key)
    if step is not None:
        return "stopped", f"goes on from its checkpoint after step {step:,}"
    if stage.history is not None and stage.history.attempts:
        return "stopped", "it had begun, and has no checkpoint: it begins anew"
    if now.going and (now.left.asked is None or stage.name in now.left.asked):
        return "queued", "waits for its turn"
    return "not begun", None


def _state(stages: Mapping[str, Stage], events: Sequence[Event], now: _Now) -> Any:
    if now.going:
        return "going"
    if events:
        ends = [event for event in events if event["event"] in ("begun", "ended")]
        over = bool(ends) and ends[-1]["event"] == "ended"
        return HOW.get(str(ends[-1].get("how")), "interrupted") if over else "killed"
    if all(stage.state == "done" for stage in stages.values()):
        return "finished"
    return "failed" if any(stage.state == "failed" for stage in stages.values()) else "unfinished"


def _begun(events: Sequence[Event]) -> Event:
    """How the last driver began; nothing where no event says it."""
    return next((event for event in reversed(events) if event["event"] == "begun"), {})


def _asked(plan: Mapping[str, Any], began: Event) -> str | None:
    """The settings that the last driver had, with all defaults; from before the log of events, those of stages."""
    listed: Mapping[str, Any] = began.get("stages") or plan
    if not listed:
        return None
    stages = [
        {
            "name": name,
            **{role: entry[role] for role in ("parents", "teacher") if began and entry.get(role)},
            **entry["spec"],
        }
        for name, entry in listed.items()
        if "spec" in entry
    ]
    found = {**(began.get("settings") or {}), "stages": stages}
    return yaml.safe_dump(public(found), sort_keys=False, width=100, default_flow_style=None)


def _environment(began: Event, stages: Mapping[str, Stage]) -> Iterator[tuple[str, str]]:
    """Versions and machines, what they are and what is to be said."""
    if began.get("host"):
        yield "driver", f"dualprune {began.get('version', '-')} on {began['host']}, process {began.get('pid', '-')}"
    made: dict[tuple[str, str], list[str]] = {}
    versioned = [stage for stage in stages.values() if stage.versions]
    for stage in versioned:
        for name, version in stage.versions:
            made.setdefault((name, str(version)), []).append(stage.name)
    for (name, version), whose in sorted(made.items()):
        yield name, version if len(whose) == len(versioned) else f"{version} ({gaps.listed(whose)})"
    worlds = sorted({stage.world for stage in stages.values() if stage.world})
    if worlds:
        yield "ranks of a stage", ", ".join(map(str, worlds))
