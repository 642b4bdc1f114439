"""What is shown where output is no terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from dualprune.pipeline.run import view as module
from dualprune.pipeline.run.view import View


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    time = monotonic


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


def test_on_a_terminal_a_stage_has_one_line_that_is_redrawn() -> None:
    """Only notes and last lines stay."""
    file = io.StringIO()
    with View(Console(file=file, width=100, force_terminal=True, legacy_windows=False)) as view:
        view.epoch("half", row(1))
        view.epoch("half", row(2))
        view.ended("half", "done")
    assert "half: done\n" in file.getvalue()


def test_on_a_terminal_there_are_no_more_lines_than_it_has_room_for(clock: Clock) -> None:
    """However many stages wait or run; the rest is counted."""
    view = View(Console(file=io.StringIO(), width=100, height=12, force_terminal=True))
    for number in range(1000):
        view.waiting(f"stage-{number}", "waits for its workers")
    shown = [str(line) for line in view._drawn().renderables]
    assert shown[0] == "stage-0: waits for its workers"
    assert shown[-1] == "and 990 more"
    assert len(shown) == 11
    assert len(view.lines()) == 1000
