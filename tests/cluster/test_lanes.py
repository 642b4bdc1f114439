"""Lanes without Ray: what a lane's messages mean."""

from __future__ import annotations

import queue
import socket
import time
from collections import deque
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dualprune.cluster import head
from dualprune.cluster import lanes as module
from dualprune.cluster.capacity import Node, Shape
from dualprune.cluster.errors import ClusterGone
from dualprune.cluster.failures import Failure
from dualprune.cluster.head import Head
from dualprune.cluster.lane import Event, Lane, State
from dualprune.cluster.lanes import Lanes


class Box:
    """Stands in for the mailbox: notes the orders that lanes were given, and which were asked to stop."""

    def __init__(self) -> None:
        self.given: list[tuple[str, Any]] = []
        self.stopped: list[str] = []
        self.give = SimpleNamespace(remote=lambda attempt, order: self.given.append((attempt, order)))
        self.stop = SimpleNamespace(remote=self.stopped.append)


class NoRoom(Exception):
    """As Ray Train tells that a group's workers found no room."""

    controller_failure = type("WorkerGroupStartupTimeoutError", (Exception,), {})()


class Open(Lanes):
    """Lanes whose worker groups are only noted, on machines of one CPU each."""

    def __init__(self, cpus: int = 2, workers: int = 1, most: int | None = None, up_to: int | None = None) -> None:
        self._mailbox = self.box = Box()
        self.there = [Node(f"node-{n}", {"CPU": 1.0}, {"CPU": 1.0}) for n in range(cpus)]
        self.shape, self._most = Shape(workers, up_to or workers, 1, 0), most
        self._opened, self._stillborn, self._wary, self._taken = 0, 0, False, frozenset()
        self._waiting, self._lanes = deque(), {}
        self._ended = queue.SimpleQueue()
        self._head = Head("", local=False)
        self.stuck = 0

    def _nodes(self) -> list[Node]:
        return self.there

    def _end_stuck(self) -> int:
        return self.stuck

    def _open(self, size: int) -> None:
        self._lanes[f"lane-{self._opened}"] = Lane(f"lane-{self._opened}", size)
        self._opened += 1

    @property
    def sizes(self) -> dict[str, int]:
        """Of all lanes."""
        return {name: lane.size for name, lane in self._lanes.items()}

    def machine(self, number: int, **changes: Any) -> None:
        """Change what is known of a machine."""
        self.there[number] = replace(self.there[number], **changes)

    def look(self, later: float = 0.0) -> None:
        """A look at the machines, so many seconds from now."""
        self._tend(self.there, time.monotonic() + later)
        self._assign()

    def say(self, kind: str, attempt: str, task: str = "", data: Any = (), lane: str = "lane-0") -> list[Event]:
        """A message from a lane, and what is assigned after it."""
        events = self._handle(kind, lane, attempt, task, data)
        self._assign()
        return events

    def end(self, error: BaseException | None, lane: str = "lane-0") -> list[Event]:
        """A lane's thread has ended."""
        events = self._closed(lane, error)
        self._assign()
        return events


def lost(events: list[Event], task: str, kind: str = "lost") -> bool:
    """Whether a task's loss is all that is told."""
    return [(e.kind, e.task, e.data.kind) for e in events] == [("failed", task, kind)]


def test_a_lane_runs_task_after_task() -> None:
    """It is opened for the first and asked again for the next; rows and results come through."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.submit("b", 2)
    assert list(lanes._lanes) == ["lane-0"]
    assert lanes.say("ready", "x") == []
    assert lanes.box.given == [("x", ("a", 1))]
    assert lanes.say("log", "x", "a", "row") == [Event("log", "a", "row")]
    assert lanes.say("done", "x", "a", "result") == [Event("done", "a", "result")]
    assert lanes.box.given == [("x", ("a", 1)), ("x", ("b", 2))]


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
    cpus: int, workers: int, most: int | None, tasks: int, opened: int
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
    assert lanes.box.given[-1] == ("y", ("a", 1))


def test_a_worker_killed_for_memory_is_told_whatever_its_lane_does() -> None:
    """The word comes from where the group is led, before or after those of its other workers."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    told = [Event("memory", "", "1 worker")]
    assert lanes.say("memory", "", data="1 worker") == told
    assert lost(lanes.end(RuntimeError("gone")), "a")
    assert lanes.say("memory", "", data="1 worker") == told


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
    assert lanes.box.given == [("x", ("a", 1))]
    assert list(lanes._lanes) == ["lane-0"]
    lanes.say("ready", "y")
    assert lanes.box.given[-1] == ("y", ("b", 2))


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
    assert lanes.box.given[-1] == ("y", ("b", 2))


def test_a_lane_that_ends_loses_its_task() -> None:
    """With the reason, of a traceback what it ends in; another lane is opened for what waits."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    events = lanes.end(RuntimeError("Traceback (most recent call last):\n  File ...\nValueError: the node is gone\n"))
    assert lost(events, "a")
    assert events[0].data.message == "its lane ended: ValueError: the node is gone"
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


def test_a_lane_that_is_stuck_as_it_starts_is_started_anew() -> None:
    """If it is its leader that does not come up; but not for ever."""
    lanes = Open(cpus=2)
    lanes.submit("a", 1)
    lanes.look(later=module.STUCK + 1)
    assert lanes._lanes["lane-0"].state is State.STARTING, "it waits for room"
    lanes.stuck = 1
    lanes.look(later=module.STUCK - 1)
    assert lanes._lanes["lane-0"].state is State.STARTING
    for number in range(module.group.RESTARTS):
        lanes.look(later=module.STUCK + 1)
        assert lanes.end(RuntimeError("killed"), f"lane-{number}") == []
    lanes.look(later=module.STUCK + 1)
    events = lanes.end(RuntimeError("killed"), f"lane-{module.group.RESTARTS}")
    assert [(event.task, event.data.kind) for event in events] == [("a", "error")]


def test_a_leader_that_starts_may_be_a_young_lanes() -> None:
    """Then none is killed."""
    lanes = Open(cpus=2)
    lanes.stuck = 1
    lanes.submit("a", 1)
    lanes.submit("b", 2)
    lanes._lanes["lane-1"].since += 10
    lanes.look(later=module.STUCK + 1)
    assert all(lane.state is State.STARTING for lane in lanes._lanes.values())
    lanes.look(later=module.STUCK + 11)
    assert all(lane.state is State.STUCK for lane in lanes._lanes.values())


def test_a_message_from_a_lane_that_has_ended_is_passed_over() -> None:
    """Messages and endings come by different ways."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    lanes.end(RuntimeError("gone"))
    assert lanes.say("log", "x", "a", "row") == []


def test_a_lane_that_has_nothing_to_do_is_let_go() -> None:
    """After a while, and not while tasks wait; its place can then be taken again."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    lanes.look(later=module.IDLE + 1)
    lanes.say("done", "x", "a", "result")
    lanes.look(later=module.IDLE - 1)
    assert lanes.box.given == [("x", ("a", 1))]
    lanes.look(later=module.IDLE + 1)
    lanes.look(later=module.IDLE + 2)
    assert lanes.box.given == [("x", ("a", 1)), ("x", None)]
    lanes.submit("b", 2)
    assert list(lanes._lanes) == ["lane-0"]
    lanes.end(None)
    assert list(lanes._lanes) == ["lane-1"]


def test_lanes_of_any_size_share_the_room() -> None:
    """One task takes all of it; several go side by side."""
    for tasks, sizes in ((1, [4]), (2, [3, 2]), (4, [2, 1, 1, 1]), (9, [1] * 5)):
        lanes = Open(cpus=5, workers=1, up_to=4)
        lanes._waiting.extend((str(task), None) for task in range(tasks))
        lanes._assign()
        assert sorted(lanes.sizes.values(), reverse=True) == sizes


def test_a_lane_that_lost_a_machine_goes_on_with_the_rest() -> None:
    """At the size that there is room for, once that is known."""
    lanes = Open(cpus=2, workers=1, up_to=2)
    lanes.submit("a", 1)
    assert lanes.sizes == {"lane-0": 2}
    lanes.say("ready", "x", data=["node-0", "node-1"])
    assert lost(lanes.say("failed", "x", "a", Failure("lost", "RuntimeError", "Connection closed by peer")), "a")
    lanes.submit("a", 1)
    assert lanes.sizes == {"lane-0": 2}
    # That the machine is dead nobody knows yet.
    lanes.end(RuntimeError("a worker died"))
    assert lanes.sizes == {"lane-1": 2}
    lanes.machine(1, free={})
    assert lanes.end(NoRoom(), "lane-1") == []
    assert lanes.sizes == {"lane-2": 1}
    lanes.say("ready", "y", data=["node-0"], lane="lane-2")
    assert lanes.box.given[-1] == ("y", ("a", 1))


def test_a_lane_takes_back_what_returns() -> None:
    """It is asked to save its task and leave; the next one, which is larger, is given the task."""
    lanes = Open(cpus=2, workers=1, up_to=2)
    lanes.machine(1, total={}, free={})
    lanes.submit("a", 1)
    lanes.say("ready", "x", data=["node-0"])
    lanes.machine(0, free={})
    lanes.look(later=module.GROWING + 1)
    assert lanes.box.stopped == []
    lanes.machine(1, total={"CPU": 1.0}, free={"CPU": 1.0})
    lanes.look(later=module.GROWING - 1)
    assert lanes.box.stopped == []
    lanes.look(later=module.GROWING + 1)
    lanes.look(later=module.GROWING + 2)
    assert lanes.box.stopped == ["x"]
    assert lanes.say("log", "x", "a", "saved") == [Event("log", "a", "saved")]
    assert lanes.say("stopped", "x", "a") == []
    assert lanes.box.given[-1] == ("x", None)
    assert lanes.sizes == {"lane-0": 1}
    lanes.end(None)
    assert lanes.sizes == {"lane-1": 2}
    lanes.say("ready", "y", data=["node-0", "node-1"], lane="lane-1")
    assert lanes.box.given[-1] == ("y", ("a", 1))


def test_a_lane_does_not_grow_into_what_waiting_tasks_need() -> None:
    """Nor while another lane is coming, or beyond its most."""
    lanes = Open(cpus=2, workers=1, up_to=2, most=1)
    lanes.machine(1, total={}, free={})
    lanes.submit("a", 1)
    lanes.say("ready", "x", data=["node-0"])
    lanes.machine(1, total={"CPU": 1.0}, free={"CPU": 1.0})
    lanes.submit("b", 2)
    lanes.look(later=module.GROWING + 1)
    assert lanes.box.stopped == []
    whole = Open(cpus=3, workers=1, up_to=2)
    whole.submit("a", 1)
    whole.say("ready", "x", data=["node-0", "node-1"])
    whole.look(later=module.GROWING + 1)
    assert whole.box.stopped == []


def test_a_task_that_ends_while_its_lane_is_to_leave_is_done() -> None:
    """And the lane is given no other."""
    lanes = Open(cpus=2, workers=1, up_to=2)
    lanes.machine(1, total={}, free={})
    lanes.submit("a", 1)
    lanes.say("ready", "x", data=["node-0"])
    lanes.machine(1, total={"CPU": 1.0}, free={"CPU": 1.0})
    lanes.look(later=module.GROWING + 1)
    assert lanes.say("done", "x", "a", "result") == [Event("done", "a", "result")]
    lanes.submit("b", 2)
    assert lanes.box.given[-1] == ("x", None)
    lanes.end(None)
    assert lanes.sizes == {"lane-1": 2}


def test_a_machine_that_is_to_be_taken_away_is_left() -> None:
    """The task is saved first; it counts as preempted. No lane is opened on that machine."""
    lanes = Open(cpus=2)
    lanes.submit("a", 1)
    lanes.say("ready", "x", data=["node-0"])
    lanes.submit("b", 2)
    lanes.say("ready", "y", data=["node-1"], lane="lane-1")
    lanes.machine(0, leaving=True)
    lanes.look()
    lanes.look()
    assert lanes.box.stopped == ["x"]
    assert lost(lanes.say("stopped", "x", "a"), "a", "preempted")
    lanes.submit("a", 1)
    lanes.end(None)
    assert lanes.sizes == {"lane-1": 1}
    lanes.say("done", "y", "b", "result", lane="lane-1")
    assert lanes.box.given[-1] == ("y", ("a", 1))


@pytest.mark.parametrize("seen", [True, False])
def test_a_loss_to_a_machine_that_was_taken_away_is_no_fault(seen: bool) -> None:
    """Whether its going was announced in time, or stands in the table of the dead only."""
    for ending in (
        lambda lanes: lanes.say("failed", "x", "a", Failure("lost", "RuntimeError", "Connection closed by peer")),
        lambda lanes: lanes.say("ready", "y"),
        lambda lanes: lanes.end(RuntimeError("gone")),
    ):
        lanes = Open(cpus=2, workers=2)
        lanes.submit("a", 1)
        lanes.say("ready", "x", data=["node-0", "node-1"])
        if seen:
            lanes.machine(1, leaving=True)
            lanes.look()
            lanes.machine(1, leaving=False, total={}, free={})
        else:
            lanes.machine(1, leaving=True, total={}, free={})
        assert lost(ending(lanes), "a", "preempted")


def test_lanes_of_any_size_are_tried_again_before_they_are_given_up() -> None:
    """Ray Train does not do it for them; that there is no room yet is no reason."""
    lanes = Open(cpus=1, workers=1, up_to=2)
    lanes.submit("a", 1)
    for number in range(6):
        assert lanes.end(NoRoom(), f"lane-{number}") == []
    for number in range(6, 9):
        assert lanes.end(RuntimeError("no module"), f"lane-{number}") == []
    assert [event.data.kind for event in lanes.end(RuntimeError("no module"), "lane-9")] == ["error"]


@pytest.mark.parametrize("whole", [True, False])
def test_lanes_are_heard_until_they_have_saved(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """No longer than that; and not for long where Ray was ended too, which may have taken the last word with it."""
    monkeypatch.setattr(module, "whole", lambda: whole)
    monkeypatch.setattr(module.group, "ANSWERING", 0.05)
    lanes = Open(cpus=1)
    lanes._ray = None
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    silent = 3 if whole else 1_000_000

    def received(*_: float) -> list[Event]:
        nonlocal silent
        silent -= 1
        time.sleep(0.02)
        return [] if silent else lanes._handle("log", "lane-0", "x", "a", "saved") + lanes.say("stopped", "x", "a")

    lanes._received = received  # type: ignore[method-assign]
    began = time.monotonic()
    assert lanes.save() == ([Event("log", "a", "saved")] if whole else [])
    assert time.monotonic() - began < module.SAVING / 2
    assert lanes.box.stopped == ["x"]


def test_a_loss_while_the_head_is_away_asks_ray_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither why it was lost, nor where the task could go on; a lane is opened once the head is back."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x", data=["node-0"])
    lanes._head.address = "127.0.0.1:1"
    monkeypatch.setattr(lanes, "_nodes", lambda: pytest.fail("Ray was asked"))
    assert lost(lanes.end(RuntimeError("gone")), "a")
    lanes.submit("a", 1)
    assert lanes.sizes == {}
    monkeypatch.undo()
    lanes._head.address = ""
    lanes._assign()
    assert lanes.sizes == {"lane-1": 1}


def test_a_lane_that_stops_though_nobody_asked_gets_no_other_task() -> None:
    """As one whose connection broke: it would stop each of them. The task goes on in a new one."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x", data=["node-0"])
    assert lanes.say("stopped", "x", "a") == []
    assert lanes.box.given == [("x", ("a", 1)), ("x", None)]
    lanes.end(None)
    assert lanes.sizes == {"lane-1": 1}
    lanes.say("ready", "y", data=["node-0"], lane="lane-1")
    assert lanes.box.given[-1] == ("y", ("a", 1))


@pytest.mark.parametrize(
    ("local", "text"), [(False, "the Ray cluster went away"), (True, "the Ray that this run started has ended")]
)
def test_a_head_that_is_away_is_given_some_time(monkeypatch: pytest.MonkeyPatch, local: bool, text: str) -> None:
    """Ray is asked nothing meanwhile, since it would not answer, and nothing is opened; what lanes tell is heard."""
    lanes = Open(cpus=1)
    lanes.submit("a", 1)
    lanes.say("ready", "x")
    lanes._head, lanes._looked = Head("127.0.0.1:1", local), 0.0
    lanes._received = lambda *_: lanes._handle("log", "lane-0", "x", "a", "row")  # type: ignore[method-assign]
    monkeypatch.setattr(lanes, "_nodes", lambda: pytest.fail("Ray was asked"))
    lanes._waiting.append(("b", 2))
    assert lanes.take(0.0) == lanes.take(0.0) == [Event("log", "a", "row")]
    monkeypatch.setattr(head, "AWAY", -1.0)
    lanes._looked = 0.0
    with pytest.raises(ClusterGone, match=rf"^{text} \(nothing answers at 127.0.0.1:1: "):
        lanes.take(0.0)
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as server:
        lanes._head.address, lanes._looked = f"127.0.0.1:{server.getsockname()[1]}", 0.0
        lanes.take(0.0)
    assert list(lanes._lanes) == ["lane-0"]
    assert lanes._head.heard >= lanes._looked
