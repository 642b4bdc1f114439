"""What a tracker is told of a run, from its events, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from dualprune.pipeline.store.events import Event, read
from dualprune.pipeline.store.history import History, histories
from dualprune.pipeline.trackers.base import End, Link, Row, Stage, Summary, Tracker
from dualprune.pipeline.trackers.series import merged, of_epoch, of_place
from dualprune.stages.artefacts import manifest
from dualprune.stages.files.folder import Folder
from dualprune.stages.objectives.measures import measures

_log = logging.getLogger(__name__)

LOOKS = 8
"""Manifests that are read at once: an object store answers after a while, but many at a time."""


class Told:
    """Tells one tracker of one run. All on the tracker's own thread."""

    def __init__(self, run: str, store: Folder, tracker: Tracker) -> None:
        self.run, self.store, self.tracker = run, store, tracker
        self._config: Mapping[str, Any] = {}
        self._stages: dict[str, dict[str, Any]] = {}
        """What events have said of each stage, by name."""
        self._states: dict[str, str] = {}
        self._begun: dict[str, Stage] = {}
        """Stages at work, by key."""
        self._shown = set[str]()
        """Keys of stages that have ended: another stage of the same key shows nothing new."""
        self._over: Event | None = None
        self._report: Path | None = None

    def hear(self, event: Event) -> None:
        """Tell of what happened. Raises whatever the tracker does."""
        heard = _HEARD.get(event["event"])
        if heard is not None:
            heard(self, event)

    def attach(self, report: Path | None) -> None:
        """A page about the run, for its summary."""
        self._report = report

    def _run(self, event: Event) -> None:
        self._config = {name: event.get(name) for name in ("run", "settings", "version", "host", "wanted")}
        for name, said in event.get("stages", {}).items():
            self._stages[name] = dict(said)
            self._states[name] = said.get("state", "")

    def _submitted(self, event: Event) -> None:
        said = self._stages.setdefault(event["stage"], {})
        material = event.get("material", {})
        said |= {name: event[name] for name in ("key", "kind", "parents", "objective") if name in event}
        said.setdefault("spec", material.get("spec", {}))
        said.setdefault("data", material.get("data"))
        self._states[event["stage"]] = "running"

    def _stage(self, event: Event) -> Stage:
        """The stage that an event is of."""
        name, said = event["stage"], self._stages.get(event["stage"], {})
        parents = [one for one in [*said.get("parents", ()), event.get("chosen")] if one in self._stages]
        links = tuple(Link(one, self._stages[one]["key"]) for one in dict.fromkeys(parents))
        kind = said.get("kind") or event.get("kind") or "stage"
        config = {
            "run": self.run,
            "stage": name,
            "key": event["key"],
            "kind": kind,
            "parents": {link.name: link.key for link in links},
            "teacher": said.get("teacher"),
            "data": said.get("data"),
            "spec": said.get("spec", {}),
            "version": self._config.get("version"),
        }
        return Stage(name, event["key"], kind, links, config, measures(said))

    def _began(self, event: Event) -> None:
        stage = self._stage(event)
        known, self._begun[stage.key] = stage.key in self._begun, stage
        self._states[stage.name] = "running"
        past = self._past.get(stage.key) if not known and event["steps"] else None
        places = [place for place in past.places if place["steps"] <= event["steps"]] if past is not None else []
        self.tracker.begin(stage, merged(event.get("rows") or [], places))

    @cached_property
    def _past(self) -> dict[str, History]:
        """What earlier drivers of the run have told."""
        try:
            return histories(read(self.store, self.run))
        except Exception:  # noqa: BLE001 - whatever a store does: rows of epochs are told without it
            _log.warning("%s: its events can't be read; places within epochs are left out", self.run, exc_info=True)
            return {}

    def _epoch(self, event: Event) -> None:
        self._row(event, of_epoch(event))

    def _place(self, event: Event) -> None:
        self._row(event, of_place(event))

    def _row(self, event: Event, row: Row | None) -> None:
        stage = self._begun.get(event["key"])
        if stage is not None and row is not None:
            self.tracker.row(stage, row)

    def _done(self, event: Event) -> None:
        stage, found = self._stage(event), self._manifest(event["key"])
        self._states[stage.name] = "done"
        if stage.key not in self._begun:  # another run or stage has trained it, or it is a choice
            if stage.key in self._shown:
                return
            rows = found.get("rows", []) if found is not None and not event.get("chosen") else []
            self.tracker.begin(stage, merged(rows, []))
        said = {name: event[name] for name in ("chosen", "advice") if event.get(name)}
        self._ended(stage, End({**event.get("metrics", {}), **said}, found))

    def _failed(self, event: Event) -> None:
        stage = self._stage(event)
        self._states[stage.name] = "failed"
        if stage.key not in self._begun:
            self.tracker.begin(stage, [])
        self._ended(stage, End(failed=event["reason"]))

    def _ended(self, stage: Stage, end: End) -> None:
        self._begun.pop(stage.key, None)
        self._shown.add(stage.key)
        self.tracker.end(stage, end)

    def _ended_run(self, event: Event) -> None:
        self._over = event

    def finish(self) -> None:
        """Nothing more happens: summarize the run, if it has ended and was not killed."""
        if self._over is None:
            return
        names = list(self._stages)
        with ThreadPoolExecutor(LOOKS) as pool:
            found = list(pool.map(lambda name: self._manifest(self._stages[name].get("key")), names))
        rows = [self._account(name, one) for name, one in zip(names, found, strict=True)]
        self.tracker.summarize(Summary(self._config, rows, self._over.get("how", ""), self._report))

    def _account(self, name: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
        """A stage's row in the table of all."""
        said, metrics = self._stages[name], (found or {}).get("metrics", {})
        of = measures(found or said)
        row = {"stage": name, "kind": said.get("kind"), "state": self._states.get(name), "key": said.get("key")}
        row |= {what: metrics.get(what) for what in ("rate", "nonzeros", "macs", "residual")}
        row |= {"metric": of.best, "val": metrics.get(of.of("val")), "test": metrics.get(of.of("test"))}
        return row | {"seconds": metrics.get("seconds")}

    def _manifest(self, key: str | None) -> dict[str, Any] | None:
        try:
            return manifest.read(self.store / key) if key else None
        except Exception:  # noqa: BLE001 - whatever a store does
            _log.warning("the manifest of %s can't be read", key, exc_info=True)
            return None


_HEARD = {
    "begun": Told._run,
    "submitted": Told._submitted,
    "training": Told._began,
    "resumed": Told._began,
    "epoch": Told._epoch,
    "steps": Told._place,
    "done": Told._done,
    "failed": Told._failed,
    "ended": Told._ended_run,
}
