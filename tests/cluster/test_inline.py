"""Lanes without Ray: tasks on a thread of this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from dualprune.cluster import inline
from dualprune.cluster.errors import ClusterError
from dualprune.cluster.inline import Inline
from dualprune.cluster.lane import Event


@contextmanager
def opened(work: Callable[..., Any], cpus: float = 1) -> Iterator[Inline]:
    """A lane that does this with each task, closed in the end."""
    lane = Inline(lambda: work, cpus, 0)
    try:
        yield lane
    finally:
        lane.close()


def heard(lane: Inline, endings: int) -> list[Event]:
    """All events until so many tasks have ended."""
    events: list[Event] = []
    limit = time.monotonic() + 30
    while sum(event.kind != "log" for event in events) < endings:
        assert time.monotonic() < limit, events
        events += lane.take(0.2)
    return events


def test_tasks_run_one_after_another() -> None:
    """In their order, with what each tells; one that fails doesn't end the lane, however it ends."""

    def work(payload: Any, log: Any, stopping: Any) -> Any:
        log({"event": "training", "payload": payload})
        if isinstance(payload, BaseException):
            raise payload
        return {"result": payload}

    with opened(work) as lane:
        error = ValueError("it is no good")
        error.add_note("at a line")
        for task, payload in (("a", 1), ("b", error), ("c", SystemExit(3)), ("d", 2)):
            lane.submit(task, payload)
        events = heard(lane, 4)
    told = [(event.kind, event.task) for event in events]
    assert told == [("log", "a"), ("done", "a"), ("log", "b"), ("failed", "b"), ("log", "c"), ("failed", "c"),
                    ("log", "d"), ("done", "d")]  # fmt: skip
    assert (events[1].data, events[0].data["payload"]) == ({"result": 1}, 1)
    assert (events[3].data.kind, events[3].data.message, events[3].data.notes) == (
        "error",
        "it is no good",
        ("at a line",),
    )
    assert "in work" in events[3].data.trace
    assert events[5].data.error == "SystemExit"


def test_a_task_saves_where_it_is() -> None:
    """It is told to stop; what it says on the way is heard, its end is not news, and no other one begins."""
    begun = []

    def work(payload: Any, log: Any, stopping: Any) -> None:
        begun.append(payload)
        while not stopping():
            time.sleep(0.01)
        log({"event": "stopped"})

    with opened(work) as lane:
        lane.submit("a", 1)
        lane.submit("b", 2)
        while not begun:
            assert lane.take(0.1) == []
        assert [(event.kind, event.data) for event in lane.save()] == [("log", {"event": "stopped"})]
    assert begun == [1]


def test_a_task_that_does_not_stop_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that it gets."""
    monkeypatch.setattr(inline, "SAVING", 0.2)
    monkeypatch.setattr(inline, "CLOSING", 0.1)
    steps = []

    def work(payload: Any, log: Any, stopping: Any) -> None:
        while True:
            steps.append(time.sleep(0.01))

    with opened(work) as lane:
        lane.submit("a", 1)
        assert lane.save() == []
    there = len(steps)
    time.sleep(0.1)
    assert len(steps) == there


def test_a_task_has_what_a_worker_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads as many as CPUs, unless the environment says how many; no GPU; signals go to who drives the run.

    All of it is as it was in the end.
    """
    monkeypatch.setenv(inline.SEEN, "0")
    found: list[tuple[int, str | None, bool]] = []

    def work(payload: Any, log: Any, stopping: Any) -> bool:
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        found.append((torch.get_num_threads(), os.environ.get(inline.SEEN), blocked))
        return True

    before = torch.get_num_threads()
    for variable in (None, "1"):
        if variable is None:
            monkeypatch.delenv(inline.THREADS, raising=False)
        else:
            monkeypatch.setenv(inline.THREADS, variable)
        with opened(work, cpus=before + 2.5) as lane:
            lane.submit("a", None)
            heard(lane, 1)
        assert (os.environ[inline.SEEN], torch.get_num_threads()) == ("0", before)
    assert found == [(before + 2, "", True), (before, "", True)]


@pytest.mark.parametrize(
    ("there", "gpus", "reason"),
    [(False, 1.0, "a worker needs a GPU, and this machine has none"), (True, 0.0, "uses GPUs already")],
)
def test_gpus_that_are_not_as_asked_for(monkeypatch: pytest.MonkeyPatch, there: bool, gpus: float, reason: str) -> None:
    """Are told before anything starts, and stay as they were."""
    monkeypatch.setenv(inline.SEEN, "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    with pytest.raises(ClusterError, match=reason):
        Inline(lambda: print, 1, gpus)
    assert os.environ[inline.SEEN] == "3"


def test_a_rank_of_several_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranks would do each task together, and write the same files."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    with pytest.raises(ClusterError, match="one of 4"):
        Inline(lambda: print, 1, 0)


def test_a_process_ends_in_order_though_a_task_computes() -> None:
    """With the exit code that it has anyway, while the task computes in C++."""
    code = """
import sys, torch
from dualprune.cluster import inline
inline.SAVING = inline.CLOSING = 0.5

def work(payload, log, stopping):
    log({"event": "training"})
    one = torch.rand(500, 500)
    while True:
        one @ one

lane = inline.Inline(lambda: work, 1, 0)
lane.submit("a", None)
while not lane.take(0.1):
    pass
lane.save()
lane.close()
sys.exit(7)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "", "")
