"""The rank's side of a lane, and the mailbox between it and the driver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dualprune.cluster.failures import failure
from dualprune.cluster.surroundings import drop_launchers, drop_long_temporary

Log = Callable[[dict[str, Any]], None]
Stopping = Callable[[], bool]
"""Whether a task is to save where it is and return None. Only rank 0 is told; the ranks agree on it themselves."""
Work = Callable[[Any, Log, Stopping], Any]
"""What a lane does with a task's payload, on every rank; what it returns on rank 0 is the result."""

TELLING = 10.0
"""Seconds that the mailbox has to answer before a rank goes on without."""


class Mailbox:
    """The actor between the driver and the lanes: events one way, orders the other."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.forgotten = 0
        self.heard: dict[str, int] = {}
        self.orders: dict[str, list[Any]] = {}
        self.stopping: set[str] = set()
        self.changed = asyncio.Condition()

    async def tell(self, event: Any, sender: str, number: int) -> None:
        """Leave an event for the driver: each sender's 1, 2, 3, ... in this order, and each once."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.heard.get(sender, 0) >= number - 1)
            if self.heard.get(sender, 0) == number - 1:
                self.heard[sender] = number
                self.events.append(event)
                self.changed.notify_all()

    async def take(self, seen: int, timeout: float) -> list[Any]:
        """All events from number `seen` on, waiting up to `timeout` seconds for the first; earlier ones are forgotten.

        An answer that is lost on its way, to an interrupt, takes nothing with it: the next one has it all again.
        """
        async with self.changed:
            del self.events[: max(0, seen - self.forgotten)]
            self.forgotten = max(seen, self.forgotten)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: self.events), timeout)
            return list(self.events)

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

    async def stop(self, attempt: str) -> None:
        """Ask a lane's incarnation to save where its task is, and to leave it."""
        async with self.changed:
            self.stopping.add(attempt)
            self.changed.notify_all()

    async def stopped(self, attempt: str) -> None:
        """Return when an incarnation is asked to stop."""
        async with self.changed:
            await self.changed.wait_for(lambda: attempt in self.stopping)


class Told:
    """What one process tells the mailbox, numbered: calls may overtake each other, and are sent again if one breaks."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox, self.sender = mailbox, uuid.uuid4().hex
        self.number = 0
        self.last: Any = None

    def add(self, event: Any) -> None:
        """Leave an event for the driver."""
        self.number += 1
        self.last = surely(self.mailbox.tell).remote(event, self.sender, self.number)

    def wait(self) -> None:
        """Return when the mailbox has all events, is gone, or has not answered in time."""
        import ray

        if self.last is not None:
            ray.wait([self.last], timeout=TELLING)


def surely(method: Any) -> Any:
    """A call to an actor that is sent again when its connection breaks. It may come twice."""
    return method.options(max_task_retries=-1)


def serve(config: dict[str, Any]) -> None:
    """What each rank of a lane does."""
    import ray
    import torch.distributed as dist

    drop_long_temporary()
    drop_launchers()  # of a node that was started by one: DeepSpeed takes them for this rank's
    rank = dist.get_rank()
    mailbox, work = config["mailbox"], config["work"]
    if config["logs"] is not None:
        _redirect(Path(config["logs"]) / f"{config['lane']}-rank-{rank}.log")
    box = [uuid.uuid4().hex]
    dist.broadcast_object_list(box, src=0)
    attempt, number, task = box[0], 0, ""
    nodes = [""] * dist.get_world_size()
    dist.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    stop = threading.Event()
    told = Told(mailbox)

    def tell(kind: str, data: Any) -> None:
        told.add((kind, config["lane"], attempt, task, data))

    if rank == 0:
        tell("ready", nodes)
        # Also when the mailbox is gone: then so is the driver, and what is saved now is what its next run goes on from.
        surely(mailbox.stopped).remote(attempt).future().add_done_callback(lambda _: stop.set())

    def log(row: dict[str, Any]) -> None:
        tell("log", row)

    while True:
        try:
            order = ray.get(surely(mailbox.order).remote(attempt, number))
        except ray.exceptions.RayError:
            return  # the driver is gone, and its mailbox with it
        number += 1
        if order is None:
            return
        task, payload = order
        try:
            logging.info("%s begins on rank %d of %s", task, rank, config["lane"])
            result = work(payload, log, stop.is_set)
            logging.info("%s: %s", task, "stopped" if result is None else "done")
        except Exception as error:
            report = failure(error, traceback.format_exc(), rank)
            tell("failed", report)
            told.wait()
            raise
        if rank == 0:
            ending = "stopped" if result is None and stop.is_set() else "done"
            tell(ending, result)


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
