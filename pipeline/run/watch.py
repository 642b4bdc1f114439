"""A run seen from outside, in its store alone: what `dualprune watch` shows until the run ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dualprune.pipeline.output import need_reader, redraws, say
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.run.results import Result, as_table, status
from dualprune.pipeline.run.standing import scene
from dualprune.pipeline.store.locks import Watch, newest, run_lock
from dualprune.pipeline.store.progress import running
from dualprune.pipeline.store.store import Store

EVERY = 2.0
"""Seconds between two looks at the store."""


def watch(run: str, plan: list[Planned], store: Store, console: Console) -> list[Result]:
    """Show a run until it ends: until all its stages are done, or it lets go of its lock, or its driver is dead.

    Waits for a run to begin if none is going on. Returns what came of each stage.
    """
    alive, seen = Watch(store.folder / "locks"), False
    with _shown(console) as show:
        while True:
            holder = newest(store.folder, run_lock(run))
            look = "dead" if holder is None else alive.look(holder)
            plan = [_again(planned, store) for planned in plan]
            lines = running(store.folder, run) if look != "dead" else {}
            rows = status(plan, store, scene(run, plan, store, lambda one: alive.look(one) != "dead"))
            if all(planned.state == "cached" for planned in plan) or (look == "dead" and seen):
                return rows
            if look == "dead":
                show(rows, {"": f"no run of {run} is going on in {store.url}; waits for one to begin"})
            else:
                show(rows, lines)
            need_reader()
            seen = seen or look != "dead"
            time.sleep(EVERY)


def _again(planned: Planned, store: Store) -> Planned:
    """What is planned, or its artefact if that has come since. One that was found is not looked for again."""
    if planned.state == "cached":
        return planned
    manifest = store.artefact(planned.node.key)
    return planned if manifest is None else replace(planned, state="cached", why="done", manifest=manifest)


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[Iterable[Result], dict[str, str]], None]]:
    """On a terminal a table that is redrawn; elsewhere each line that is new."""
    if redraws(console):
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda rows, lines: live.update(Group(as_table(rows), *map(Text, lines.values())), refresh=True)
        return
    printed: dict[str, str] = {}

    def show(_: Iterable[Result], lines: dict[str, str]) -> None:
        for name, line in lines.items():
            if printed.get(name) != line:
                say(console, line)
        printed.clear()
        printed.update(lines)

    yield show
