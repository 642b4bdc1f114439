"""Lanes: Ray Train worker groups that run task after task. Ray's one door.

Starting a worker group costs seconds (processes, imports, process groups), so a lane keeps its
ranks: each asks the driver's mailbox for the next task, runs it, and asks again. Ray Train gives what
it is good at: a gang start, and a restart of the whole group when one of it dies. A restarted lane
asks again, and is given the task it was at, which goes on from its own checkpoint.

What a task is, this package doesn't know: `work(payload, log)` is called on every rank of a lane
inside an initialised torch process group.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.failures import Failure, failure

Log = Callable[[dict[str, Any]], None]
Work = Callable[[Any, Log], Any]

_SETTINGS = {
    # Parts of Ray Train that look at a dashboard, or print to a terminal that is not theirs.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


CLOSING = 10.0
"""Seconds that idle lanes get to end in order."""


class ClusterError(RuntimeError):
    """A cluster that can't be reached or can't do what is asked."""


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
    given: int = 0
    task: str | None = None


class Mailbox:
    """The actor between the driver and the lanes: events one way, orders the other."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.orders: dict[str, list[Any]] = {}
        self.changed = asyncio.Condition()

    async def tell(self, event: Any) -> None:
        """Leave an event for the driver."""
        async with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    async def take(self, timeout: float) -> list[Any]:
        """All events since the last call, waiting up to `timeout` seconds for the first."""
        async with self.changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: self.events), timeout)
            events, self.events = self.events, []
            return events

    async def give(self, attempt: str, order: Any) -> None:
        """Add an order for a lane's incarnation."""
        async with self.changed:
            self.orders.setdefault(attempt, []).append(order)
            self.changed.notify_all()

    async def order(self, attempt: str, number: int) -> Any:
        """The number-th order for an incarnation, waiting for it. Each of its ranks asks for the same ones."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.orders.get(attempt, [])) > number)
            return self.orders[attempt][number]


def _lane(config: dict[str, Any]) -> None:
    """What each rank of a lane does."""
    import ray
    import torch.distributed as dist

    rank = dist.get_rank()
    mailbox, work = config["mailbox"], config["work"]
    if config["logs"] is not None:
        _redirect(Path(config["logs"]) / f"{config['lane']}-rank-{rank}.log")
    box = [uuid.uuid4().hex]
    dist.broadcast_object_list(box, src=0)
    attempt, number, task = box[0], 0, ""
    if rank == 0:
        mailbox.tell.remote(("ready", config["lane"], attempt, None, None))

    def log(row: dict[str, Any]) -> None:
        mailbox.tell.remote(("log", config["lane"], attempt, task, row))

    while True:
        try:
            order = ray.get(mailbox.order.remote(attempt, number))
        except ray.exceptions.RayError:
            return  # the driver is gone, and its mailbox with it
        number += 1
        if order is None:
            return
        task, payload = order
        try:
            logging.info("%s begins on rank %d of %s", task, rank, config["lane"])
            result = work(payload, log)
            logging.info("%s is done", task)
        except Exception as error:
            report = failure(error, traceback.format_exc(), rank)
            ray.get(mailbox.tell.remote(("failed", config["lane"], attempt, task, report)))
            raise
        if rank == 0:
            mailbox.tell.remote(("done", config["lane"], attempt, task, result))


def _imported(work: Callable[[], Work]) -> Work:
    """The work, and with it all modules that lanes need on this side."""
    import ray.train.torch  # noqa: F401

    return work()


def _redirect(path: Path) -> None:
    """Send this process's output to a file, where the folder is there to be written on this machine."""
    if not path.parent.is_dir():
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )


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
        settings = dict(_SETTINGS)
        if address is None:
            # On one machine there is nobody to announce a preemption: one process less to start.
            settings["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
        elif _has_token():
            # `ray start` asks for a token where one exists; a client offers it only if told to, before its import.
            settings["RAY_AUTH_MODE"] = "token"
        for name, value in settings.items():
            os.environ.setdefault(name, value)
        # Imports on this side take about as long as Ray's processes take to start: let them overlap.
        imported: list[Work] = []
        importing = threading.Thread(target=lambda: imported.append(_imported(work)), name="import")
        importing.start()
        self._ray = _start(address, modules or [])
        self.shape, self._logs, self._local = shape, logs, address is None
        self._mailbox = self._ray.remote(num_cpus=0)(Mailbox).remote()
        self._waiting: deque[tuple[str, Any]] = deque()
        self._payloads: dict[str, Any] = {}
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
        self._payloads[task] = payload
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
            lane.attempt, lane.given, lane.task = attempt, 0, None
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
        if error is not None and not self._lanes and self._waiting:
            # No lane came up at all: the tasks that wait for one must hear of it.
            waiting, self._waiting = list(self._waiting), deque()
            return [Event("failed", task, Failure("lost", "", text)) for task, _ in waiting]
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
                _trainer(self._local)(
                    _lane,
                    train_loop_config=config,
                    scaling_config=ScalingConfig(
                        num_workers=self.shape.workers,
                        use_gpu=self.shape.gpus > 0,
                        resources_per_worker=resources,
                    ),
                    # Whether a task is tried again is the driver's to decide; the group comes back in any case.
                    run_config=RunConfig(name=name, storage_path=folder, failure_config=FailureConfig(max_failures=-1)),
                ).fit()
        except Exception as error:  # noqa: BLE001 - handed to take(), which runs in the driver's own thread
            self._ended.put((name, error))
        else:
            self._ended.put((name, None))


def _trainer(local: bool) -> Any:
    """Ray's TorchTrainer; without a dashboard, also without the actor that asks it each second whether we live."""
    from ray.train.torch import TorchTrainer

    class LocalTrainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [c for c in callbacks if type(c).__name__ != "PlacementGroupCleanerCallback"]

    return LocalTrainer if local else TorchTrainer


def _start(address: str | None, modules: list[Path]) -> Any:
    """Ray, connected to `address` or started here."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray

    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    try:
        if address is None:
            # Workers on this machine import the same packages from the same places.
            paths = [str(module.parent) for module in modules] + os.environ.get("PYTHONPATH", "").split(os.pathsep)
            os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
            ray.init(address="local", num_cpus=cpus(), include_dashboard=False, **options)
        else:
            ray.init(address=address, runtime_env={"py_modules": [str(module) for module in modules]}, **options)
    except Exception as error:
        where = "a local Ray could not be started" if address is None else f"no Ray cluster answers at {address}"
        raise ClusterError(f"{where}: {error}") from error
    return ray


def _has_token() -> bool:
    """Whether this machine has a token for Ray clusters, in one of the places that Ray looks at."""
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return named or (Path.home() / ".ray" / "auth_token").is_file()


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
