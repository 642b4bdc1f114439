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

import contextlib
import logging
import os
import queue
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from dualprune.cluster import group
from dualprune.cluster.capacity import Node, Shape, fits, shares
from dualprune.cluster.errors import ClusterError
from dualprune.cluster.failures import Failure
from dualprune.cluster.head import Head
from dualprune.cluster.importing import Importing
from dualprune.cluster.lane import Ending, Event, Lane, State, Why
from dualprune.cluster.machines import nodes, refusal
from dualprune.cluster.mailbox import Mailbox
from dualprune.cluster.private import LEADER, STARTING, end_actors, end_left, no_room, raylet, whole
from dualprune.cluster.serve import Work
from dualprune.cluster.session import head, near, settings, start
from dualprune.cluster.surroundings import give_home

SAVING = 15.0
"""Seconds that busy lanes get to save where they are, when all is to end."""
CLOSING = 3.0
"""Seconds that idle lanes get to end in order."""
IDLE = 30.0
"""Seconds that a lane is kept for which nothing waits."""
LEFT = 5.0
"""Seconds that processes of a local Ray get to end after it."""
GROWING = 60.0
"""Seconds that a lane works at its size before it is opened again with more workers."""
STUCK = 300.0
"""Seconds after which a lane's leader that still starts is killed, and started anew. It waits for no room, and takes
seconds; but one has been seen to hang in the dynamic loader, as it imported torch."""
LOOKING = 2.0
"""Seconds between two looks at the cluster's machines."""
TOLD = 300
"""Characters of Ray's own account of an end that are told; the log has all of them."""

_log = logging.getLogger(__name__)


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
        give_home()
        for name, value in settings(local=address is None).items():
            os.environ.setdefault(name, value)
        if shape.elastic:
            os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", group.START_LIMIT)
        importing = Importing(work)
        self._ray = start(address, modules or [])
        reason = refusal(self._ray, {name: shape.least * amount for name, amount in shape.worker.items()})
        if reason is not None:
            importing.join()
            self._ray.shutdown()
            raise ClusterError(reason)
        self.shape, self._logs, self._local = shape, logs, address is None
        self._raylet = raylet()
        self._mailbox = near(self._ray, Mailbox)
        self._waiting: deque[tuple[str, Any]] = deque()
        self._lanes: dict[str, Lane] = {}
        self._ended: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()
        self._most = most
        self._opened = self._stillborn = 0
        self._wary = False
        self._seen = 0
        self._taken: frozenset[str] = frozenset()
        self._looked = time.monotonic()
        self._head = Head(head(self._ray), local=address is None)
        try:
            self._work = importing.result()
        except ClusterError:
            self._ray.shutdown()
            raise

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
            if self._head.there():
                self._tend(self._nodes(), self._looked)
        if self._head.heard >= self._looked:
            self._assign()
        return events

    def save(self) -> list[Event]:
        """Let busy lanes save where their tasks are, and leave them. Returns what happened in the seconds they get."""
        events: list[Event] = []
        began = time.monotonic()
        for lane in self._lanes.values():
            if lane.state is State.BUSY:
                self._leave(lane, "idle")
        with contextlib.suppress(ClusterError):  # then nobody is left who could save anything
            while any(lane.task for lane in self._lanes.values()):
                # A Ray that was told to end together with this process has few words left.
                if time.monotonic() - began > (SAVING if whole() else group.ANSWERING):
                    break
                events += self._received(0.5, 1.0)
        return events

    def close(self) -> None:
        """End idle lanes in order, let go of busy ones, and end a local Ray with all its processes."""
        limit = time.monotonic() + CLOSING
        try:
            for lane in self._lanes.values():
                if lane.state is State.FREE:
                    self._leave(lane, "idle")
            for lane in self._lanes.values():
                if lane.state.leaving and lane.task is None and lane.thread is not None:
                    lane.thread.join(max(0.0, limit - time.monotonic()))
        finally:
            try:
                threads = [lane.thread for lane in self._lanes.values() if lane.thread is not None]
                group.end(self._ray, threads)
            finally:
                self._ray.shutdown()
                if self._raylet is not None:
                    end_left(self._raylet, LEFT)

    def _received(self, timeout: float, limit: float | None = None) -> list[Event]:
        """Events that come within `timeout` seconds; none if Ray itself takes longer than `limit` to say so."""
        try:
            raw = self._ray.get(self._mailbox.take.remote(self._seen, timeout), timeout=limit)
        except self._ray.exceptions.GetTimeoutError:
            return []
        except self._ray.exceptions.RayError as error:
            _log.warning("the mailbox is gone: %s", error)
            raise self._head.gone(textwrap.shorten(str(error), TOLD)) from error
        self._seen += len(raw)
        return [event for entry in raw for event in self._handle(*entry)]

    def _handle(self, kind: str, name: str, attempt: str, task: str, data: Any) -> list[Event]:
        """What a message from a lane means; nothing, of a lane or a task that has ended already."""
        if kind == "memory":
            return [Event("memory", "", data)]
        lane = self._lanes.get(name)
        if lane is None:
            return []
        if kind == "ready":
            return self._up(lane, attempt, data)
        if (lane.task, lane.attempt) != (task, attempt):
            return []
        if kind == "log":
            return [Event("log", task, data)]
        return self._over(lane, kind, data)  # type: ignore[arg-type]

    def _up(self, lane: Lane, attempt: str, nodes: list[str]) -> list[Event]:
        """A lane's workers ask for work, for the first time or after they were started anew."""
        lost = self._lost(lane, "a worker process or its machine died")
        lane.come_up(attempt, nodes)
        self._stillborn, self._wary = 0, False
        return lost

    def _over(self, lane: Lane, how: Ending, data: Any) -> list[Event]:
        """A lane's task has ended."""
        attempt = lane.attempt
        task, payload = lane.end(how)
        if how == "failed":
            # The group is coming down; it will be ready again with another attempt, or another in its place.
            lost = data.kind == "lost" and self._preempted(lane)
            return [Event("failed", task, replace(data, kind="preempted") if lost else data)]
        if lane.state.leaving:
            self._mailbox.give.remote(attempt, None)
        if how == "done":
            return [Event("done", task, data)]
        if lane.state is State.PREEMPTED:
            return [Event("failed", task, Failure("preempted", "", "a machine under it is to be taken away"))]
        self._waiting.appendleft((task, payload))
        return []

    def _lost(self, lane: Lane, text: str) -> list[Event]:
        """What is to be told of a lane whose ranks are gone."""
        task, lane.task, lane.payload = lane.task, None, None
        if task is None:
            return []
        kind: Literal["lost", "preempted"] = "preempted" if self._preempted(lane) else "lost"
        return [Event("failed", task, Failure(kind, "", text))]

    def _preempted(self, lane: Lane) -> bool:
        there = self._nodes() if self._head.there() else []
        return bool(lane.nodes & (self._taken | {node.identity for node in there if node.leaving}))

    def _closed(self, name: str, error: BaseException | None) -> list[Event]:
        """A lane's thread has ended, with an error or without."""
        lane = self._lanes.pop(name)
        if error is not None:
            _log.warning("%s ended: %s", name, error)
        # Of a traceback from the ranks, what it ends in.
        last = (str(error).strip() or repr(error)).splitlines()[-1].strip()
        text = f"its lane ended: {last}"
        events = self._lost(lane, text)
        if error is not None and not lane.state.came_up:
            events += self._never_up(lane, error, text)
        return events

    def _never_up(self, lane: Lane, error: BaseException, text: str) -> list[Event]:
        """A lane ended before it came up. If none does, the tasks that wait must hear of it: more lanes won't help."""
        if no_room(error):
            self._wary = True
            return []
        self._stillborn += 1
        tries = group.RESTARTS if self.shape.elastic or lane.state is State.STUCK else 0
        if self._lanes or self._stillborn <= tries:
            return []
        waiting, self._waiting = list(self._waiting), deque()
        return [Event("failed", task, Failure("error", "ClusterError", text)) for task, _ in waiting]

    def _assign(self) -> None:
        for lane in self._lanes.values():
            if self._waiting and lane.state is State.FREE:
                lane.begin(*self._waiting.popleft())
                self._mailbox.give.remote(lane.attempt, (lane.task, lane.payload))
        waiting = len(self._waiting) - sum(lane.state.coming for lane in self._lanes.values())
        if self._most is not None:
            waiting = min(waiting, self._most - len(self._lanes))
        if waiting > 0 and self._head.there():
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
        self._restart_stuck(now)
        for lane in self._lanes.values():
            if not lane.state.serving:
                continue
            if lane.nodes & self._taken:
                self._leave(lane, "preempted")
            elif lane.state is State.FREE and now - lane.since > IDLE:
                self._leave(lane, "idle")
        if not self._waiting and not any(lane.state.coming or lane.state.leaving for lane in self._lanes.values()):
            self._grow(there, now)  # else room is not what it will be in a moment

    def _restart_stuck(self, now: float) -> None:
        """Kill the leaders of lanes that don't come up, once none that starts is young."""
        starting = [lane for lane in self._lanes.values() if not lane.state.came_up]
        if starting and all(now - lane.since > STUCK for lane in starting) and self._end_stuck():
            _log.warning("a lane did not come up in %s s, and is started anew", STUCK)
            for lane in starting:
                lane.move("stuck")

    def _grow(self, there: list[Node], now: float) -> None:
        """Ask the smallest lane that could be larger to leave, if there is room for one more worker."""
        small = [lane for lane in self._lanes.values() if lane.state is State.BUSY and lane.size < self.shape.most]
        if small and fits((node.free for node in there if not node.leaving), self.shape.worker):
            smallest = min(small, key=lambda lane: lane.size)
            if now - smallest.since > GROWING:
                self._leave(smallest, "growing")

    def _end_stuck(self) -> int:
        """End the leaders that still start; how many."""
        return end_actors(self._ray, LEADER, (STARTING,))

    def _leave(self, lane: Lane, why: Why) -> None:
        lane.move(why)
        if lane.task is None:
            self._mailbox.give.remote(lane.attempt, None)
        else:
            self._mailbox.stop.remote(lane.attempt)

    def _nodes(self) -> list[Node]:
        return nodes(self._ray)

    def _open(self, size: int) -> None:
        lane = Lane(f"lane-{self._opened}", size)
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
