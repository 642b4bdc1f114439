"""A run seen from outside: in its store, while another process, or this one for it, works on it."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.run import view
from dualprune.pipeline.run import watch as module
from dualprune.pipeline.run.results import Result
from dualprune.pipeline.run.watch import watch
from dualprune.pipeline.run.work import Work, kept
from dualprune.pipeline.store.locks import Holder, Locks, run_lock
from dualprune.pipeline.store.progress import Progress, left
from dualprune.pipeline.store.store import Store
from dualprune.stages.files.folder import canonical
from tests.pipeline.common import artefact, loaded
from tests.pipeline.run.pictures import ADMM, LOST


class Clock:
    """Between two looks at the store, one thing happens."""

    def __init__(self, *happens: Callable[[], None]) -> None:
        self.happens = list(happens)

    def sleep(self, _: float) -> None:
        """Let the next thing happen."""
        assert self.happens, "watched on though nothing was to come"
        self.happens.pop(0)()


class Scene:
    """A store, a plan, and a run of it that goes as told."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.store: Store
        self.plan: list[Planned]
        self.store, self.plan = planning.make(*loaded(folder))
        self.file = io.StringIO()
        self.locks = Locks(self.store.folder, "tiny")
        self.lines: dict[str, str] = {}
        self.progress = Progress(self.store.folder, "tiny", lambda: self.lines, every=0.01)

    def begins(self) -> None:
        """The run takes its lock."""
        self.locks.__enter__()
        self.locks.take(run_lock("tiny"))
        self.progress.__enter__()

    def ends(self) -> None:
        """And lets go of it."""
        self.progress.__exit__()
        self.locks.__exit__(None, None, None)

    def shows(self, **lines: str) -> Callable[[], None]:
        """Its terminal shows these lines."""

        def happen() -> None:
            self.lines = {name: f"{name}: {text}" for name, text in lines.items()}
            while left(self.store.folder, "tiny").lines != self.lines:
                time.sleep(0.01)

        return happen

    def tells(self, retries: dict[str, list[str]] | None = None, **works: Work) -> Callable[[], None]:
        """Its stages tell this of themselves."""

        def happen() -> None:
            self.progress.account = lambda: {"works": kept(works), "retries": retries or {}, "began": time.time() - 90}
            self.shows(**{name: work.line for name, work in works.items()})()

        return happen

    def finishes(self, *names: str) -> Callable[[], None]:
        """Stages are committed."""

        def happen() -> None:
            for planned in self.plan:
                if not names or planned.node.name in names:
                    artefact(self.store.url, planned.node.key)

        return happen

    def watched(self, *happens: Callable[[], None], terminal: bool = False) -> list[Result]:
        """Watch it while this happens."""
        self.patch.setattr(module, "time", Clock(*happens))
        console = Console(file=self.file, width=120, force_terminal=terminal)
        return watch("tiny", self.plan, self.store, console)

    @property
    def printed(self) -> list[str]:
        """What was shown."""
        return self.file.getvalue().splitlines()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A store in which nothing has been done."""
    return Scene(tmp_path, monkeypatch)


def test_a_run_is_watched_to_its_end(scene: Scene) -> None:
    """Each line that is new is shown once; it ends when all is done."""
    scene.begins()
    try:
        rows = scene.watched(
            scene.shows(dense="training"),
            scene.finishes("dense"),
            scene.shows(half="training", other="training"),
            lambda: None,
            scene.shows(half="admm epoch 1/2", other="training"),
            scene.finishes(),
        )
    finally:
        scene.ends()
    assert [row.state for row in rows] == ["done"] * 4
    shown = ["dense: training", "half: training", "other: training", "half: admm epoch 1/2"]
    assert scene.printed == shown


def test_on_a_terminal_the_table_is_redrawn(scene: Scene) -> None:
    """With the line of each stage that runs."""
    scene.begins()
    try:
        scene.watched(scene.shows(dense="training  loss 0.5"), scene.finishes(), terminal=True)
    finally:
        scene.ends()
    shown = scene.file.getvalue()
    assert "training  loss 0.5" in shown
    assert "waits for dense" in shown


def test_on_a_terminal_what_stages_tell_is_drawn(scene: Scene) -> None:
    """How far they are, what they are compared with, what went wrong on the way, and how long others wait."""
    scene.begins()
    waiting = Work(asked=time.time() - 65)
    try:
        scene.watched(
            scene.finishes("dense"),
            scene.tells({"half": [LOST]}, half=replace(ADMM, value=96.5), other=waiting),
            scene.finishes(),
            terminal=True,
        )
    finally:
        scene.ends()
    shown = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", scene.file.getvalue())
    for text in ("1:30: 1 of 4 done", "41 %", "-1.00", f"tried again: {LOST}", "waits for its workers 1:05"):
        assert text in shown


def test_long_epochs_make_few_lines(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in half a minute, however often the store has news, and one at an epoch's end."""
    now = 1000.0
    monkeypatch.setattr(view, "time", SimpleNamespace(monotonic=lambda: now))

    def tells(epoch: int, share: float) -> Callable[[], None]:
        def happen() -> None:
            nonlocal now
            now += 2.5
            ended = epoch - (share < 1)
            scene.tells(dense=replace(ADMM, epoch=epoch, done=share, ended=ended, residuals=()))()

        return happen

    scene.begins()
    try:
        shares = [(epoch, step / 10) for epoch in (1, 2) for step in range(11)]
        scene.watched(*(tells(*one) for one in shares), scene.finishes())
    finally:
        scene.ends()
    epochs = [line.split("  ")[0] for line in scene.printed]
    assert epochs == ["dense: admm epoch 1/20 0 %", "dense: admm epoch 1/20", "dense: admm epoch 2/20"]


def test_a_run_that_fails(scene: Scene) -> None:
    """It ends with its run, and says what failed."""
    scene.begins()

    def fails() -> None:
        scene.store.note_failure(scene.plan[0].node.key, "ValueError: no")
        scene.ends()

    rows = scene.watched(scene.shows(dense="training"), fails)
    assert (rows[0].state, rows[0].why) == ("failed", "ValueError: no")
    assert {row.state for row in rows[1:]} == {"run"}


def test_it_waits_for_a_run_to_begin(scene: Scene) -> None:
    """And says so, once."""
    rows = scene.watched(lambda: None, lambda: None, scene.begins, scene.shows(dense="training"), scene.ends)
    assert {row.state for row in rows} == {"run"}
    waiting = f"no run of tiny is going on in {scene.store.url}; waits for one to begin"
    assert scene.printed == [waiting, "dense: training"]


def test_a_driver_that_was_killed(scene: Scene) -> None:
    """Its lock is still there, and its last lines are; the run does not go on for that."""
    scene.begins()
    scene.lines = {"dense": "dense: training"}

    def killed() -> None:
        scene.ends()
        (name,) = scene.store.folder.names(f"locks/names/{run_lock('tiny')}")
        holder = Holder("token", machine=scene.locks.me.machine, pid=2**22 + 1, started=1, run="tiny")
        path = f"locks/names/{run_lock('tiny')}/{int(name[:8]) + 1:08}.json"
        scene.store.folder.write(path, canonical(holder.__dict__))
        scene.store.folder.write_json("progress/tiny.json", {"lines": scene.lines})

    rows = scene.watched(scene.shows(dense="training"), killed)
    assert rows[0].state == "run"
    assert rows[0].why == "not run yet"


def test_all_done_before(scene: Scene) -> None:
    """There is nothing to wait for."""
    scene.finishes()()
    assert [row.state for row in scene.watched()] == ["done"] * 4
    assert scene.printed == []
