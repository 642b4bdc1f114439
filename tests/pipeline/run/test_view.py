"""What is shown of a run: lines where output is no terminal, and a picture on one."""

from __future__ import annotations

import io
import re
import time as real
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from dualprune.pipeline.run import view as module
from dualprune.pipeline.run.picture import Doings, Stage
from dualprune.pipeline.run.view import View


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    time = monotonic
    strftime, gmtime = staticmethod(real.strftime), staticmethod(real.gmtime)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that `pipeline.run.view` sees."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def row(epoch: int, **more: Any) -> dict[str, Any]:
    """What a stage logs after an epoch."""
    return {
        "phase": "admm",
        "epoch": epoch,
        "epochs": 9,
        "loss": 0.5,
        "val_accuracy": 97.5,
        "best": "accuracy",
        "unit": "%",
        "seconds_left": 65.4,
        **more,
    }


def within(epoch: int, share: float) -> dict[str, Any]:
    """What it logs within one."""
    facts = {"event": "steps", "phase": "admm", "epoch": epoch, "epochs": 9, "loss": 0.5}
    return {**facts, "done": share, "seconds_left": 30.0}


def output(view: View) -> list[str]:
    """The lines that were printed."""
    assert isinstance(view.console.file, io.StringIO)
    return view.console.file.getvalue().splitlines()


@pytest.fixture
def view() -> View:
    """A view of no terminal, 40 columns wide."""
    return View(Console(file=io.StringIO(), width=40, force_terminal=False))


def test_an_epoch_is_one_line(view: View, clock: Clock) -> None:
    """Phase, epoch, loss, accuracy, time left; unbroken however narrow the output."""
    with view:
        view.epoch("half", row(1))
    assert output(view) == ["half: admm epoch 1/9  loss 0.5000  val 97.50 %  1:05 left"]


def test_samples_that_are_left_out_are_told_before_the_epoch(view: View, clock: Clock) -> None:
    """Unbroken, with shard and key."""
    with view:
        view.epoch("dense", row(1, left_out=["shards/train-0.tar: 9.jpg: it is no JPEG", "and 3 more"]))
        view.left_out("dense", ["shards/test-0.tar: 3.jpg: it is no JPEG"])
    lines = ["dense: left out shards/train-0.tar: 9.jpg: it is no JPEG", "dense: left out and 3 more"]
    assert output(view)[:-2] == lines
    assert output(view)[-1] == "dense: left out shards/test-0.tar: 3.jpg: it is no JPEG"


def test_a_residual_stays_in_sight(view: View, clock: Clock) -> None:
    """Epochs without an update of their own show the last one's."""
    view.epoch("half", row(1, residual=0.25))
    clock.now += 5
    view.epoch("half", row(2))
    assert all("residual 0.250" in line for line in output(view))


def test_lines_of_one_stage_keep_a_distance(view: View, clock: Clock) -> None:
    """A line now and then, each stage for itself; the last epoch always."""
    for epoch in range(1, 10):
        view.epoch("half", row(epoch))
        if epoch == 1:
            view.epoch("other", row(epoch))
        clock.now += module.EVERY / 4
    assert [line.split("  ")[0] for line in output(view)] == [
        "half: admm epoch 1/9",
        "other: admm epoch 1/9",
        "half: admm epoch 5/9",
        "half: admm epoch 9/9",
    ]


def test_beginnings_and_endings_are_always_shown(view: View, clock: Clock) -> None:
    """And nothing in them is taken for markup."""
    view.waiting("half", "training")
    view.waiting("half", "goes on after step 3")
    view.ended("half", "failed: ValueError: [/x] not in [red]")
    view.note("logs: /some/[path]")
    assert output(view) == [
        "half: training",
        "half: goes on after step 3",
        "half: failed: ValueError: [/x] not in [red]",
        "logs: /some/[path]",
    ]


def test_hours_are_shown_when_there_are_any(view: View, clock: Clock) -> None:
    """h:mm:ss."""
    view.epoch("half", row(1, seconds_left=3725.0))
    assert output(view)[0].endswith("1:02:05 left")


def test_long_epochs_are_told_of_now_and_then(view: View, clock: Clock) -> None:
    """How far they are: a line in half a minute, and one at their end."""
    view.begins("half", "training", {"event": "training", "steps": 0, "world": 2})
    for step in range(1, 101):
        clock.now += 2
        view.epoch("half", within(1, step / 100))
    view.epoch("half", row(1))
    shown = output(view)
    assert len(shown) == 1 + 200 // 30 + 1
    assert shown[1] == "half: admm epoch 1/9 15 %  loss 0.5000  0:30 left"
    assert shown[-1] == "half: admm epoch 1/9  loss 0.5000  val 97.50 %  1:05 left"


def test_an_epochs_line_is_not_put_off_by_those_within_it(view: View, clock: Clock) -> None:
    """Nor does one within the next epoch stand in for it."""
    view.epoch("half", row(1))
    for epoch in (2, 3):
        for share in (0.2, 0.5, 0.9):
            clock.now += 4
            view.epoch("half", within(epoch, share))
        clock.now += 3
        view.epoch("half", row(epoch))
    assert [line.split("  ")[0] for line in output(view)] == [
        "half: admm epoch 1/9",
        "half: admm epoch 2/9",
        "half: admm epoch 3/9",
    ]


def test_what_is_tried_again_is_told_once(view: View, clock: Clock) -> None:
    """And counted for those who watch, also once it is done."""
    view.waiting("half")
    view.begins("half", "training", {"event": "training", "steps": 0, "world": 2})
    view.epoch("half", row(1, residual=0.5))
    view.again("half", "its workers were lost; retry 1 of 3")
    assert view.lines() == {"half": "half: waits for its workers"}
    view.begins("half", "goes on after step 9", {"event": "resumed", "steps": 9, "rows": [row(1, residual=0.5)]})
    account = view.account()
    assert account["retries"] == {"half": ("its workers were lost; retry 1 of 3",)}
    assert account["works"]["half"]["residuals"] == (0.5,)
    assert list(account["since"]) == ["half"]
    view.ended("half", "done")
    account = view.account()
    assert (account["works"], account["since"]) == ({}, {})
    assert account["retries"] == {"half": ("its workers were lost; retry 1 of 3",)}
    assert output(view).count("half: its workers were lost; retry 1 of 3") == 1


def terminal(**more: Any) -> Console:
    """One of 80 columns and 24 lines."""
    size = {"width": 80, "height": 24}
    return Console(file=io.StringIO(), force_terminal=True, legacy_windows=False, _environ={**more}, **size)


def stages(*names: str) -> Callable[[Doings], tuple[Stage, ...]]:
    """A look at a run of stages that are all at work."""
    return lambda doings: tuple(Stage(name, "prune", "running", work=doings.works.get(name)) for name in names)


def test_on_a_terminal_a_picture_is_redrawn_below_what_stays(clock: Clock) -> None:
    """Only notes and last lines are printed; nothing is erased before it is written anew, and the screen never is."""
    console = terminal(TERM="xterm")
    view = View(console)
    view.run, view.look = "tiny", stages("half")
    with view:
        view.epoch("half", row(1))
        assert view._screen is not None
        view._screen.refresh()
        redrawn = output(view)
        view.note("a note")
        view.ended("half", "done")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "half: done" in shown
    assert "a note" in shown
    assert any("11 %" in line for line in redrawn)
    assert not any("\x1b[2K" in line for line in redrawn)
    assert "\x1b[2J" not in shown
    assert "\x1b[?1049h" not in shown


def test_without_colours(clock: Clock) -> None:
    """As NO_COLOR asks for; what is bold or dim stays."""
    for name, colours in (("NO_COLOR", False), ("ANY", True)):
        console = terminal(TERM="xterm-256color", **{name: "1"})
        view = View(console)
        view.run, view.look = "tiny", stages("half")
        with view:
            view.epoch("half", row(1))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert bool(re.search(r"\x1b\[(?:\d+;)*[349]\d", shown)) == colours
        assert "11 %" in shown


def test_of_a_run_that_is_planned_yet_nothing_is_drawn() -> None:
    """Notes are printed as anywhere."""
    console = terminal(TERM="xterm")
    with View(console) as view:
        view.note("digits: 4 stages")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|\r", "", shown).split("\n")[0] == "digits: 4 stages"
    assert "done" not in shown


def test_on_a_terminal_notes_are_broken_between_words() -> None:
    """But for one with a path that has no room in any line: it can be copied as it is."""
    console = terminal(TERM="xterm")
    path = "/folder" * 12
    with View(console) as view:
        view.note("word " * 20)
        view.note(f"logs: {path}")
        view.failed("half", "reason " * 15)
    shown = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|\r", "", console.file.getvalue()).split("\n")  # type: ignore[attr-defined]
    assert [line.strip() for line in shown[:3]] == [" ".join(["word"] * 16), " ".join(["word"] * 4), f"logs: {path}"]
