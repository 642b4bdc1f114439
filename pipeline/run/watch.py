"""A run seen from outside, in its store alone: what `dualprune watch` shows until the run ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import time as now
from typing import Protocol

from rich.console import Console
from rich.text import Text

from dualprune.pipeline.output import need_reader, redraws
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.run.drawing import Glyphs, drawn
from dualprune.pipeline.run.picture import Doings, Picture, stages
from dualprune.pipeline.run.results import Result, status
from dualprune.pipeline.run.screen import Screen
from dualprune.pipeline.run.standing import scene
from dualprune.pipeline.run.view import Lines
from dualprune.pipeline.run.work import told
from dualprune.pipeline.store.locks import Watch, newest, run_lock
from dualprune.pipeline.store.progress import Left, left
from dualprune.pipeline.store.store import Store

EVERY = 2.0
"""Seconds between two looks at the store."""


def watch(run: str, plan: list[Planned], store: Store, console: Console) -> list[Result]:
    """Show a run until it ends: until all its stages are done, or it lets go of its lock, or its driver is dead.

    Waits for a run to begin if none is going on. Returns what came of each stage.
    """
    alive, seen = Watch(store.folder / "locks"), False
    with _shown(console, run) as shown:
        while True:
            holder = newest(store.folder, run_lock(run))
            look = "dead" if holder is None else alive.look(holder)
            plan = [_again(planned, store) for planned in plan]
            said = left(store.folder, run) if look != "dead" else Left()
            rows = status(plan, store, scene(run, plan, store, lambda one: alive.look(one) != "dead"))
            if all(planned.state == "cached" for planned in plan) or (look == "dead" and seen):
                return rows
            notice = f"no run of {run} is going on in {store.url}; waits for one to begin" if look == "dead" else ""
            shown.shows(plan, rows, said, notice)
            need_reader()
            seen = seen or look != "dead"
            time.sleep(EVERY)


def _again(planned: Planned, store: Store) -> Planned:
    """What is planned, or its artefact if that has come since. One that was found is not looked for again."""
    if planned.state == "cached":
        return planned
    manifest = store.artefact(planned.node.key)
    return planned if manifest is None else replace(planned, state="cached", why="done", manifest=manifest)


class _Shown(Protocol):
    def shows(self, plan: list[Planned], rows: list[Result], said: Left, notice: str) -> None:
        """Show how a run stands by what it has left, and a notice where none is going on."""


@contextmanager
def _shown(console: Console, run: str) -> Iterator[_Shown]:
    """On a terminal a picture that is redrawn; elsewhere each line that is new."""
    if not redraws(console):
        yield _Printed(console)
        return
    drawing = _Drawing(run)
    with Screen(console, drawing.drawn) as drawing.screen:
        yield drawing


class _Drawing:
    """A picture of what was seen last, whose clocks go on."""

    def __init__(self, run: str) -> None:
        self._picture = Picture(run, now())
        self.screen: Screen | None = None

    def shows(self, plan: list[Planned], rows: list[Result], said: Left, notice: str) -> None:
        """Take up what is shown from now on."""
        parents = {planned.node.name: planned.node.parents for planned in plan}
        retries = {name: tuple(reasons) for name, reasons in said.retries.items()}
        seen = stages(rows, parents, Doings(told(said), retries))
        self._picture = replace(self._picture, stages=seen, began=said.began, notice=notice)
        if self.screen is not None:
            self.screen.refresh()

    def drawn(self, width: int, height: int, glyphs: Glyphs) -> list[Text]:
        """The picture now; nothing before the first look."""
        return drawn(replace(self._picture, now=now()), width, height, glyphs) if self._picture.stages else []


class _Printed:
    """Lines, each once; those of one stage at a distance."""

    def __init__(self, console: Console) -> None:
        self._lines = Lines(console)

    def shows(self, plan: list[Planned], rows: list[Result], said: Left, notice: str) -> None:
        """Print what is new."""
        works = told(said)
        for name, line in ({"": notice} if notice else said.lines).items():
            self._lines.tell(name, line, works.get(name))
