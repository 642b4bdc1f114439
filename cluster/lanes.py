"""Lanes: Ray Train worker groups that run task after task.

Starting a worker group costs seconds (processes, imports, process groups), so a lane keeps its
ranks: each asks the driver's mailbox for the next task, runs it, and asks again. Ray Train gives what
it is good at: a gang start, and a restart of the whole group when one of it dies. A restarted lane
asks again, and is given the task it was at, which goes on from its own checkpoint.

Lanes open while tasks wait and there is room, and close when they have had nothing to do for a
while. A lane is asked to leave, its task saved where it is, when a machine under it is going to be taken
away, and when it could be opened again with more workers.

What a task is, this package doesn't know: `work(payload, log, stopping)` is called on every rank of a
lane inside an initialised torch process group.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cluster import group
from cluster.failures import Failure
from cluster.rank import Mailbox, Work
from cluster.room import Node, Shape, fits, shares
from cluster.session import ClusterError, end_actors, near, nodes, refusal, settings, start

CLOSING = 6.0
"""Seconds in all that busy lanes get to save where they are, and idle ones to end in order."""
IDLE = 30.0
"""Seconds that a lane is kept for which nothing waits."""
ENDING = 20.0
"""Seconds at most that worker groups take to end that are not asked but made to."""
GROWING = 60.0
"""Seconds that a lane works at its size before it is opened again with more workers."""
LOOKING = 2.0
"""Seconds between two looks at the cluster's machines."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that happened to a task. `data` is a log row, a result, or a Failure."""

    kind: Literal["log", "done", "failed"]
    task: str
    data: Any


@dataclass
class _Lane:
    name: str
    size: int = 1
    """Workers."""
    thread: threading.Thread | None = None
    attempt: str | None = None
    """The worker group's present incarnation; None while there is none that asks for work."""
    task: str | None = None
    payload: Any = None
    nodes: frozenset[str] = frozenset()
    """The machines it is on."""
    came_up: bool = False
    """Whether its workers have ever asked for work."""
    leaving: Literal["", "idle", "growing", "preempted"] = ""
    """Why it was asked to end."""
    since: float = field(default_factory=time.monotonic)
    """When it came up, or last began or ended a task."""

    @property
    def free(self) -> bool:
        """Whether it waits for a task."""
        return self.attempt is not None and self.task is None and not self.leaving

    @property
    def coming(self) -> bool:
        """Whether it, or another one in its place, will soon wait for a task."""
        return self.leaving == "growing" or (self.attempt is None and not self.leaving)


def _imported(work: Callable[[], Work]) -> Work:
    """The work, and with it all modules that lanes need on this side."""
    import ray.train.torch  # noqa: F401

    return work()


class Lanes:
    """Runs tasks on as many lanes as wait for work and find room, up to `most`.

    `address` is a Ray cluster's; without one a local Ray is started with this machine's CPUs.
    `modules` are folders of packages that remote workers get sent. Raises ClusterError.
    """

    def __init__(
        self,
        work: Callable[[], Work],
        shape: Shape,
        address: str | None = None,
        modules: list[Path] | None = None,
        logs: Path | None = None,
        most: int | None = None,
    ) -> None:
        for name, value in settings(local=address is None).items():
            os.environ.setdefault(name, value)
        if shape.elastic:
            os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", group.START_LIMIT)
        # Imports on this side take about as long as Ray's processes take to start: let them overlap.
        imported: list[Work] = []
        importing = threading.Thread(target=lambda: imported.append(_imported(work)), name="import")
        importing.start()
        self._ray = start(address, modules or [])
        reason = refusal(self._ray, {name: shape.least * amount for name, amount in shape.worker.items()})
        if reason is not None:
            importing.join()
            self._ray.shutdown()
            raise ClusterError(reason)
        self.shape, self._logs, self._local = shape, logs, address is None
        self._mailbox = near(self._ray, Mailbox)
        self._waiting: deque[tuple[str, Any]] = deque()
        self._lanes: dict[str, _Lane] = {}
        self._ended: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()
        self._most = most
        self._opened = self._stillborn = 0
        self._wary = False
        self._taking: Any = None
        self._taken: frozenset[str] = frozenset()
        self._looked = time.monotonic()
        importing.join()
        if not imported:
            raise ClusterError("the work that lanes are to do could not be imported; see the error above")
        self._work = imported[0]

    def submit(self, task: str, payload: Any) -> None:
        """Queue a task, or queue it again after it failed."""
        self._waiting.append((task, payload))
        self._assign()

    def take(self, timeout: float) -> list[Event]:
        """Events since the last call, waiting up to `timeout` seconds for the first. Raises ClusterError."""
        events = self._received(timeout)
        while not self._ended.empty():
            events += self._closed(*self._ended.get())
        if time.monotonic() >= self._looked + LOOKING:
            self._looked = time.monotonic()
            self._tend(self._nodes(), self._looked)
        self._assign()
        return events

    def close(self) -> list[Event]:
        """Let busy lanes save where they are and idle ones end in order, and end a local Ray with all its processes.

        Returns what happened meanwhile. Both get a few seconds; an interrupt ends all of it at once.
        """
        limit = time.monotonic() + CLOSING
        events: list[Event] = []
        try:
            for lane in self._lanes.values():
                if lane.attempt is not None and not lane.leaving:
                    self._leave(lane, "idle")
            while any(lane.task for lane in self._lanes.values()) and time.monotonic() < limit:
                left = max(0.1, limit - time.monotonic())
                events += self._received(min(0.5, left), left)
            for lane in self._lanes.values():
                if lane.leaving and lane.task is None and lane.thread is not None:
                    lane.thread.join(max(0.0, limit - time.monotonic()))
        except ClusterError:
            pass  # nobody is left who could save anything
        finally:
            try:
                self._end()
            finally:
                self._ray.shutdown()
        return events

    def _end(self) -> None:
        """End the worker groups that are left, and so the threads that wait for them.

        Ray takes this whole process down, and leaves some of its own behind, if it is shut down while a thread waits.
        """
        limit = time.monotonic() + ENDING
        while any(lane.thread is not None and lane.thread.is_alive() for lane in self._lanes.values()):
            if time.monotonic() > limit:
                _log.warning("worker groups are left that did not end in %s s", ENDING)
                return
            end_actors(self._ray, group.LEADER)
            time.sleep(0.1)

    def _received(self, timeout: float, limit: float | None = None) -> list[Event]:
        if self._taking is None:
            self._taking = self._mailbox.take.remote(timeout)
        try:
            # An interrupt may come in the middle of this: what it was about to return is there for the next call.
            raw = self._ray.get(self._taking, timeout=limit)
        except self._ray.exceptions.RayError as error:
            raise ClusterError(f"the Ray cluster went away: {error}") from error
        self._taking = None
        return [event for entry in raw for event in self._handle(*entry)]

    def _handle(self, kind: str, name: str, attempt: str, task: str, data: Any) -> list[Event]:
        lane = self._lanes.get(name)
        if lane is None:
            return []  # it has ended
        if kind == "ready":
            lost = self._lost(lane, "a worker process or its machine died")
            lane.attempt, lane.nodes, lane.came_up, lane.leaving = attempt, frozenset(data), True, ""
            lane.since, self._stillborn, self._wary = time.monotonic(), 0, False
            return lost
        if lane.task != task or lane.attempt != attempt:
            return []  # an echo of a failure that was told
        if kind == "log":
            return [Event("log", task, data)]
        payload, lane.task, lane.payload, lane.since = lane.payload, None, None, time.monotonic()
        if kind == "failed":
            # The group is coming down; it will be ready again with another attempt, or another in its place.
            lane.attempt = None
            if data.kind == "lost" and self._preempted(lane):
                data = replace(data, kind="preempted")
        elif lane.leaving:
            self._mailbox.give.remote(attempt, None)
        if kind == "stopped":
            if lane.leaving == "preempted":
                return [Event("failed", task, Failure("preempted", "", "a machine under it is to be taken away"))]
            self._waiting.appendleft((task, payload))
            return []
        return [Event(kind, task, data)]  # type: ignore[arg-type]

    def _lost(self, lane: _Lane, text: str) -> list[Event]:
        """What is to be told of a lane whose ranks are gone."""
        task, lane.task, lane.payload = lane.task, None, None
        if task is None:
            return []
        kind: Literal["lost", "preempted"] = "preempted" if self._preempted(lane) else "lost"
        return [Event("failed", task, Failure(kind, "", text))]

    def _preempted(self, lane: _Lane) -> bool:
        return bool(lane.nodes & (self._taken | {node.identity for node in self._nodes() if node.leaving}))

    def _closed(self, name: str, error: BaseException | None) -> list[Event]:
        lane = self._lanes.pop(name)
        text = f"its lane ended: {error}"
        events = self._lost(lane, text)
        if error is not None and not lane.came_up:
            if group.no_room(error):
                self._wary = True
                return events
            self._stillborn += 1
            if self._waiting and not self._lanes and self._stillborn > (group.RESTARTS if self.shape.elastic else 0):
                # No lane comes up at all: the tasks that wait for one must hear of it, and more lanes won't help.
                waiting, self._waiting = list(self._waiting), deque()
                events += [Event("failed", task, Failure("error", "ClusterError", text)) for task, _ in waiting]
        return events

    def _assign(self) -> None:
        for lane in self._lanes.values():
            if self._waiting and lane.free:
                lane.task, lane.payload = self._waiting.popleft()
                lane.since = time.monotonic()
                self._mailbox.give.remote(lane.attempt, (lane.task, lane.payload))
        waiting = len(self._waiting) - sum(lane.coming for lane in self._lanes.values())
        if self._most is not None:
            waiting = min(waiting, self._most - len(self._lanes))
        if waiting > 0:
            for size in self._sizes(waiting):
                self._open(size)

    def _sizes(self, waiting: int) -> list[int]:
        """Sizes of the lanes to open now; one at least where there is none, which Ray may have to make room for."""
        there = [node for node in self._nodes() if not node.leaving]
        free = fits((node.total for node in there), self.shape.worker)
        free -= sum(lane.size for lane in self._lanes.values())
        if self._wary:
            # The last lane found no room where there should have been some: others hold it, or a machine was dead and
            # nobody knew yet. What is free just now is not always up to date, so it is not asked at other times.
            free = min(free, fits((node.free for node in there), self.shape.worker))
        return shares(free, waiting, self.shape) or ([] if self._lanes else [self.shape.least])

    def _tend(self, there: list[Node], now: float) -> None:
        """Ask lanes to leave that lose a machine, that have nothing to do, or that could be larger."""
        self._taken |= {node.identity for node in there if node.leaving}
        for lane in self._lanes.values():
            if lane.attempt is None or lane.leaving:
                continue
            if lane.nodes & self._taken:
                self._leave(lane, "preempted")
            elif lane.task is None and now - lane.since > IDLE:
                self._leave(lane, "idle")
        if self._waiting or any(lane.coming or lane.leaving for lane in self._lanes.values()):
            return  # room is not what it will be in a moment
        small = [lane for lane in self._lanes.values() if lane.task is not None and lane.size < self.shape.most]
        if small and fits((node.free for node in there if not node.leaving), self.shape.worker):
            smallest = min(small, key=lambda lane: lane.size)
            if now - smallest.since > GROWING:
                self._leave(smallest, "growing")

    def _leave(self, lane: _Lane, why: Literal["idle", "growing", "preempted"]) -> None:
        lane.leaving = why
        if lane.task is None:
            self._mailbox.give.remote(lane.attempt, None)
        else:
            self._mailbox.stop.remote(lane.attempt)

    def _nodes(self) -> list[Node]:
        return nodes(self._ray)

    def _open(self, size: int) -> None:
        lane = _Lane(f"lane-{self._opened}", size)
        self._opened += 1
        self._lanes[lane.name] = lane
        lane.thread = threading.Thread(target=self._run, args=(lane.name, size), name=lane.name, daemon=True)
        lane.thread.start()

    def _run(self, name: str, size: int) -> None:
        """A lane's life, in a thread of the driver's."""
        logs = None if self._logs is None else str(self._logs)
        config = {"mailbox": self._mailbox, "work": self._work, "logs": logs}
        try:
            group.run(name, size, self.shape, config, self._local)
        except Exception as error:  # noqa: BLE001 - handed to take(), which runs in the driver's own thread
            self._ended.put((name, error))
        else:
            self._ended.put((name, None))
