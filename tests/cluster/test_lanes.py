"""Lanes without Ray: the mailbox as a plain class, and what a lane's messages mean."""

from __future__ import annotations

import asyncio
import queue
import time
from collections import deque
from typing import Any

import pytest

from cluster.failures import Failure
from cluster.lanes import Event, Lanes, Shape, _Lane
from cluster.rank import Mailbox


def test_events_are_taken_once_and_in_order() -> None:
    """All that are there, without waiting."""

    async def script() -> None:
        box = Mailbox()
        for number in range(3):
            await box.tell(number)
        assert await box.take(10.0) == [0, 1, 2]
        assert await box.take(0.01) == []

    asyncio.run(script())


def test_take_waits_for_the_first_event() -> None:
    """And returns with it long before its timeout."""

    async def script() -> None:
        box = Mailbox()
        taking = asyncio.create_task(box.take(30.0))
        await asyncio.sleep(0.01)
        assert not taking.done()
        began = time.monotonic()
        await box.tell("event")
        assert await taking == ["event"]
        assert time.monotonic() - began < 10.0

    asyncio.run(script())


def test_take_gives_up_after_its_timeout() -> None:
    """With no events, and nothing is lost of those that come later."""

    async def script() -> None:
        box = Mailbox()
        assert await box.take(0.01) == []
        await box.tell("late")
        assert await box.take(0.01) == ["late"]

    asyncio.run(script())


def test_each_rank_is_given_the_same_orders() -> None:
    """By number, waiting for those that are not there yet; another incarnation's are not seen."""

    async def script() -> None:
        box = Mailbox()
        ranks = [asyncio.create_task(box.order("attempt", number)) for number in (0, 0, 1)]
        other = asyncio.create_task(box.order("other", 0))
        await asyncio.sleep(0.01)
        await box.give("attempt", "first")
        assert await asyncio.gather(*ranks[:2]) == ["first", "first"]
        assert not ranks[2].done()
        await box.give("attempt", None)
        assert await ranks[2] is None
        assert await box.order("attempt", 0) == "first"
        assert not other.done()
        await box.give("other", "its own")
        assert await other == "its own"

    asyncio.run(script())


class Cluster:
    """Stands in for Ray: so many CPUs, and a mailbox whose orders are listed."""

    def __init__(self, cpus: float) -> None:
        self.cpus = cpus
        self.given: list[tuple[str, Any]] = []
        self.give = self

    def cluster_resources(self) -> dict[str, float]:
        """All there are."""
        return {"CPU": self.cpus}

    def remote(self, attempt: str, order: Any) -> None:
        """What `mailbox.give.remote` was called with."""
        self.given.append((attempt, order))


class Open(Lanes):
    """Lanes whose worker groups are only noted."""

    def __init__(self, cpus: float = 2, workers: int = 1, most: int | None = None) -> None:
        self.cluster = Cluster(cpus)
        self._ray = self._mailbox = self.cluster
        self.shape, self._most, self._opened = Shape(workers, 1, 0), most, 0
        self._waiting, self._lanes = deque(), {}
        self._ended = queue.SimpleQueue()

    def _open(self) -> None:
        self._lanes[f"lane-{self._opened}"] = _Lane(f"lane-{self._opened}")
        self._opened += 1

    def say(self, kind: str, attempt: str, task: str = "", data: Any = None, lane: str = "lane-0") -> list[Event]:
        """A message from a lane, and what is assigned after it."""
        events = self._handle(kind, lane, attempt, task, data)
        self._assign()
        return events

    def end(self, error: BaseException | None, lane: str = "lane-0") -> list[Event]:
        """A lane's thread has ended."""
        events = self._closed(lane, error)
        self._assign()
        return events


def lost(events: list[Event], task: str) -> bool:
    """Whether a task's loss is all that is told."""
    return [(e.kind, e.task, e.data.kind) for e in events] == [("failed", task, "lost")]


def test_a_lane_runs_task_after_task() -> None:
    """It is opened for the first and asked again for the next; rows and results come through."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.submit("b", 2)
    assert list(lanes._lanes) == ["lane-0"]
    assert lanes.say("ready", "x") == []
    assert lanes.cluster.given == [("x", ("a", 1))]
    assert lanes.say("log", "x", "a", "row") == [Event("log", "a", "row")]
    assert lanes.say("done", "x", "a", "result") == [Event("done", "a", "result")]
    assert lanes.cluster.given == [("x", ("a", 1)), ("x", ("b", 2))]


@pytest.mark.parametrize(
    ("cpus", "workers", "most", "tasks", "opened"),
    [
        (4, 1, None, 3, 3),
        (2, 1, None, 3, 2),
        (4, 2, None, 3, 2),
        (4, 1, 1, 3, 1),
        (1, 4, None, 3, 1),
        (4, 1, None, 1, 1),
    ],
)
def test_lanes_are_opened_while_tasks_wait_and_there_is_room(
    cpus: float, workers: int, most: int | None, tasks: int, opened: int
) -> None:
    """At least one; never more than `most`, than find room, or than there are tasks."""
    lanes = Open(cpus, workers, most)
    for task in range(tasks):
        lanes.submit(str(task), None)
    assert len(lanes._lanes) == opened


def test_a_group_that_comes_back_has_lost_its_task() -> None:
    """Nobody reported a failure, so the processes died; the task is given to the new incarnation."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    assert lost(lanes.say("ready", "y"), "a")
    lanes.submit("a", 1)
    assert lanes.cluster.given[-1] == ("y", ("a", 1))


def test_a_failure_is_told_once() -> None:
    """What its peers report is an echo; the group's return is no second failure."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    error = Failure("error", "ValueError Exception", "no", rank=1)
    assert lanes.say("failed", "x", "a", error) == [Event("failed", "a", error)]
    assert lanes.say("failed", "x", "a", Failure("lost", "RuntimeError", "Connection closed by peer")) == []
    assert lanes.say("log", "x", "a", "row") == []
    assert lanes.say("done", "x", "a", "result") == []
    assert lanes.say("ready", "y") == []


def test_nothing_is_given_to_a_group_that_comes_down() -> None:
    """The next task waits for its return, and no second lane is opened where there is no room."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    lanes.say("failed", "x", "a", Failure("error", "ValueError Exception", "no"))
    lanes.submit("b", 2)
    assert lanes.cluster.given == [("x", ("a", 1))]
    assert list(lanes._lanes) == ["lane-0"]
    lanes.say("ready", "y")
    assert lanes.cluster.given[-1] == ("y", ("b", 2))


def test_a_dead_incarnations_late_report_leaves_the_present_one_alone() -> None:
    """It speaks of an attempt that was counted as lost already."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    assert lost(lanes.say("ready", "y"), "a")
    lanes.submit("a", 1)
    assert lanes.say("failed", "x", "a", Failure("lost", "RuntimeError", "Connection closed by peer")) == []
    assert lanes.say("done", "y", "a", "result") == [Event("done", "a", "result")]
    lanes.submit("b", 2)
    assert lanes.cluster.given[-1] == ("y", ("b", 2))


def test_a_lane_that_ends_loses_its_task() -> None:
    """With the reason; another lane is opened for what waits."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    events = lanes.end(RuntimeError("the node is gone"))
    assert lost(events, "a")
    assert "the node is gone" in events[0].data.message
    lanes.submit("a", 1)
    assert list(lanes._lanes) == ["lane-1"]


def test_tasks_hear_of_a_lane_that_never_came_up() -> None:
    """Else they would wait for ever; while another lane is there, they wait for that."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.submit("b", 2)
    events = lanes._closed("lane-0", RuntimeError("no resources"))
    assert [(event.task, event.data.kind) for event in events] == [("a", "error"), ("b", "error")]
    two = Open(cpus=2)
    two.submit("a", 1)
    two.submit("b", 2)
    assert two._closed("lane-0", RuntimeError("no resources")) == []
    assert [task for task, _ in two._waiting] == ["a", "b"]


def test_a_message_from_a_lane_that_has_ended_is_passed_over() -> None:
    """Messages and endings come by different ways."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    lanes.end(RuntimeError("gone"))
    assert lanes.say("log", "x", "a", "row") == []
