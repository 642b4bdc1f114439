"""What each rank of a lane does: it asks for a task, runs it, tells how it went, and asks again."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from dualprune.cluster.failures import failure
from dualprune.cluster.mailbox import Told, surely
from dualprune.cluster.surroundings import drop_launchers, drop_long_temporary

Log = Callable[[dict[str, Any]], None]
Stopping = Callable[[], bool]
"""Whether a task is to save where it is and return None. Only rank 0 is told; the ranks agree on it themselves."""
Work = Callable[[Any, Log, Stopping], Any]
"""What a lane does with a task's payload, on every rank; what it returns on rank 0 is the result."""


def serve(config: dict[str, Any]) -> None:
    """What each rank of a lane does."""
    import torch.distributed as dist

    drop_long_temporary()
    drop_launchers()  # of a node that was started by one: DeepSpeed takes them for this rank's
    rank = dist.get_rank()
    mailbox, work = config["mailbox"], config["work"]
    if config["logs"] is not None:
        _redirect(Path(config["logs"]) / f"{config['lane']}-rank-{rank}.log")
    attempt, nodes = _met()
    task = ""
    stop = threading.Event()
    told = Told(mailbox)

    def tell(kind: str, data: Any) -> None:
        told.add((kind, config["lane"], attempt, task, data))

    if rank == 0:
        tell("ready", nodes)
        # Also when the mailbox is gone: then so is the driver, and what is saved now is what its next run goes on from.
        surely(mailbox.stopped).remote(attempt).future().add_done_callback(lambda _: stop.set())
    for task, payload in _orders(mailbox, attempt):
        try:
            logging.info("%s begins on rank %d of %s", task, rank, config["lane"])
            result = work(payload, lambda row: tell("log", row), stop.is_set)
            logging.info("%s: %s", task, "stopped" if result is None else "done")
        except Exception as error:
            report = failure(error, traceback.format_exc(), rank)
            tell("failed", report)
            told.wait()
            raise
        if rank == 0:
            ending = "stopped" if result is None and stop.is_set() else "done"
            tell(ending, result)


def _met() -> tuple[str, list[str]]:
    """A name for this incarnation of the lane, and the machine that each of its ranks is on; the same for all ranks."""
    import ray
    import torch.distributed as dist

    box = [uuid.uuid4().hex]
    dist.broadcast_object_list(box, src=0)
    nodes = [""] * dist.get_world_size()
    dist.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    return box[0], nodes


def _orders(mailbox: Any, attempt: str) -> Iterator[tuple[str, Any]]:
    """Tasks, and what to do for each, until the lane is to end, or the driver is gone and its mailbox with it."""
    import ray

    for number in count():
        try:
            order = ray.get(surely(mailbox.order).remote(attempt, number))
        except ray.exceptions.RayError:
            return
        if order is None:
            return
        yield order


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
