"""Lanes: Ray Train worker groups that run task after task.

Starting a worker group costs seconds (processes, imports, process groups), so a lane keeps its
ranks: each asks the driver's mailbox for the next task, runs it, and asks again. Ray Train gives what
it is good at: a gang start, and a restart of the whole group when one of it dies. A restarted lane
asks again, and is given the task it was at, which goes on from its own checkpoint.

What a task is, this package doesn't know: `work(payload, log)` is called on every rank of a lane
inside an initialised torch process group.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.failures import Failure
from cluster.rank import Mailbox, Work, serve
from cluster.session import ClusterError, refusal, settings, start, trainer

RESTARTS = 3
"""How often a lane's worker group is started again; then the lane ends, and another one takes its place."""
CLOSING = 10.0
"""Seconds that idle lanes get to end in order."""


@dataclass(frozen=True)
class Shape:
    """What a lane is made of."""

    workers: int
    cpus: float
    """Of each worker."""
    gpus: float
    """Of each worker."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a task. `data` is a log row, a result, or a Failure."""

    kind: Literal["log", "done", "failed"]
    task: str
    data: Any


@dataclass
class _Lane:
    name: str
    thread: threading.Thread | None = None
    attempt: str | None = None
    """The worker group's present incarnation; None while there is none that asks for work."""
    task: str | None = None
    came_up: bool = False
    """Whether its workers have ever asked for work."""


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
        # Imports on this side take about as long as Ray's processes take to start: let them overlap.
        imported: list[Work] = []
        importing = threading.Thread(target=lambda: imported.append(_imported(work)), name="import")
        importing.start()
        self._ray = start(address, modules or [])
        reason = refusal(self._ray, {"CPU": shape.workers * shape.cpus, "GPU": shape.workers * shape.gpus})
        if reason is not None:
            importing.join()
            self._ray.shutdown()
            raise ClusterError(reason)
        self.shape, self._logs, self._local = shape, logs, address is None
        self._mailbox = self._ray.remote(num_cpus=0)(Mailbox).remote()
        self._waiting: deque[tuple[str, Any]] = deque()
        self._lanes: dict[str, _Lane] = {}
        self._ended: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()
        self._most = most
        self._opened = 0
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
        try:
            raw = self._ray.get(self._mailbox.take.remote(timeout))
        except self._ray.exceptions.RayError as error:
            raise ClusterError(f"the Ray cluster went away: {error}") from error
        events = [event for entry in raw for event in self._handle(*entry)]
        while not self._ended.empty():
            events += self._closed(*self._ended.get())
        self._assign()
        return events

    def close(self) -> None:
        """End idle lanes in order, let go of busy ones, and end a local Ray with all its processes."""
        limit = time.monotonic() + CLOSING
        for lane in self._lanes.values():
            if lane.attempt is not None and lane.task is None:
                self._mailbox.give.remote(lane.attempt, None)
        for lane in self._lanes.values():
            if lane.attempt is not None and lane.task is None and lane.thread is not None:
                lane.thread.join(max(0.0, limit - time.monotonic()))
        self._ray.shutdown()

    def _handle(self, kind: str, name: str, attempt: str, task: str, data: Any) -> list[Event]:
        lane = self._lanes.get(name)
        if lane is None:
            return []  # it has ended
        if kind == "ready":
            lost = lane.task
            lane.attempt, lane.task, lane.came_up = attempt, None, True
            if lost is not None:
                return [Event("failed", lost, Failure("lost", "", "a worker process or its machine died"))]
            return []
        if lane.task != task or lane.attempt != attempt:
            return []  # an echo of a failure that was told
        if kind == "failed":
            # The group is coming down; it will be ready again with another attempt.
            lane.attempt, lane.task = None, None
        elif kind == "done":
            lane.task = None
        return [Event(kind, task, data)]  # type: ignore[arg-type]

    def _closed(self, name: str, error: BaseException | None) -> list[Event]:
        lane = self._lanes.pop(name)
        text = f"its lane ended: {error}"
        if lane.task is not None:
            return [Event("failed", lane.task, Failure("lost", "", text))]
        if error is not None and not lane.came_up and not self._lanes and self._waiting:
            # No lane comes up at all: the tasks that wait for one must hear of it, and more lanes won't help.
            waiting, self._waiting = list(self._waiting), deque()
            return [Event("failed", task, Failure("error", "ClusterError", text)) for task, _ in waiting]
        return []

    def _assign(self) -> None:
        for lane in self._lanes.values():
            if self._waiting and lane.attempt is not None and lane.task is None:
                task, payload = self._waiting.popleft()
                lane.task = task
                self._mailbox.give.remote(lane.attempt, (task, payload))
        coming = sum(lane.attempt is None for lane in self._lanes.values())
        while len(self._waiting) > coming and len(self._lanes) < self._room():
            self._open()
            coming += 1

    def _room(self) -> int:
        """How many lanes of this shape the cluster holds; at least one, which Ray may have to make room for."""
        total = self._ray.cluster_resources()
        room = [int(total.get("CPU", 0) / (self.shape.cpus * self.shape.workers))] if self.shape.cpus else []
        if self.shape.gpus:
            room.append(int(total.get("GPU", 0) / (self.shape.gpus * self.shape.workers)))
        fits = max(1, min(room, default=1))
        return fits if self._most is None else min(fits, self._most)

    def _open(self) -> None:
        lane = _Lane(f"lane-{self._opened}")
        self._opened += 1
        self._lanes[lane.name] = lane
        lane.thread = threading.Thread(target=self._run, args=(lane.name,), name=lane.name, daemon=True)
        lane.thread.start()

    def _run(self, name: str) -> None:
        """A lane's life, in a thread of the driver's."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        resources = {"CPU": self.shape.cpus} | ({"GPU": self.shape.gpus} if self.shape.gpus else {})
        config = {
            "mailbox": self._mailbox,
            "lane": name,
            "work": self._work,
            "logs": None if self._logs is None else str(self._logs),
        }
        try:
            with tempfile.TemporaryDirectory(prefix="dualprune-") as folder:
                trainer(self._local)(
                    serve,
                    train_loop_config=config,
                    scaling_config=ScalingConfig(
                        num_workers=self.shape.workers,
                        use_gpu=self.shape.gpus > 0,
                        resources_per_worker=resources,
                    ),
                    # Whether a task is tried again is the driver's to decide; the group comes back in any case,
                    # but for one that does not come up: a lane that ends is replaced if there is work.
                    run_config=RunConfig(
                        name=name, storage_path=folder, failure_config=FailureConfig(max_failures=RESTARTS)
                    ),
                ).fit()
        except Exception as error:  # noqa: BLE001 - handed to take(), which runs in the driver's own thread
            self._ended.put((name, error))
        else:
            self._ended.put((name, None))
