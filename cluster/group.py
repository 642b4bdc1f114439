"""One Ray Train worker group: the ranks of a lane, from their start to their end."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Collection
from typing import Any

from dualprune.cluster.capacity import Shape
from dualprune.cluster.mailbox import Told
from dualprune.cluster.private import LEADER, cause, end_actors, kill
from dualprune.cluster.serve import serve
from dualprune.cluster.session import trainer

RESTARTS = 3
"""How often Ray Train starts a group again whose ranks died; then it ends."""
START_LIMIT = "20"
"""Seconds after which a group that finds no room is given up, to be opened again at the size that there is room for."""

ENDING = 20.0
"""Seconds at most that worker groups take to end that are not asked but made to."""
ANSWERING = 5.0
"""Seconds that Ray gets for an answer when all is to end."""

_log = logging.getLogger(__name__)


def teller(mailbox: Any, lane: str) -> Any:
    """What tells the mailbox, from where a group is led, that Ray killed a rank of it for memory."""
    from ray.train import UserCallback

    told = Told(mailbox)

    class Teller(UserCallback):  # type: ignore[misc]
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for text in filter(None, map(out_of_memory, worker_exceptions.values())):
                told.add(("memory", lane, "", "", text))

    return Teller()


def out_of_memory(error: Exception) -> str | None:
    """What Ray says of a rank that it killed because its machine had little memory left; None for one that it did not.

    One that the kernel kills looks as one that is killed by anybody.
    """
    from ray.exceptions import OutOfMemoryError

    found = cause(error)
    return str(found).partition("\n")[0] if isinstance(found, OutOfMemoryError) else None


def run(name: str, size: int, shape: Shape, config: dict[str, Any], local: bool) -> None:
    """Start `size` workers that serve a lane, and wait for their end. Raises what Ray Train raises.

    A group of a fixed size comes back by itself. One that may differ in size ends when it loses a
    rank: how large the next one may be, the driver knows better than Ray Train's elastic policy,
    which counts CPUs of machines whoever holds them, and restarts healthy groups in mid-task.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    tries = FailureConfig(max_failures=0, controller_failure_limit=0)
    with tempfile.TemporaryDirectory(prefix="dualprune-") as folder:
        trainer(local)(
            serve,
            train_loop_config=config | {"lane": name},
            scaling_config=ScalingConfig(
                num_workers=size, use_gpu=shape.gpus > 0, resources_per_worker=dict(shape.worker)
            ),
            run_config=RunConfig(
                name=name,
                storage_path=folder,
                callbacks=[teller(config["mailbox"], name)],
                failure_config=tries if shape.elastic else FailureConfig(max_failures=RESTARTS),
            ),
        ).fit()


def end(ray: Any, threads: Collection[threading.Thread]) -> None:
    """End the worker groups that are left, and so the threads that wait for them, each in `run`.

    Ray takes this whole process down, and leaves some of its own behind, if it is shut down while a thread waits.
    """
    limit = time.monotonic() + ENDING
    while any(thread.is_alive() for thread in threads):
        if time.monotonic() > limit:
            _log.warning("worker groups are left that did not end in %s s", ENDING)
            return
        # Ray's call waits a minute for a head that is no more, and then takes this process down.
        asking = threading.Thread(target=end_actors, args=(ray, LEADER), name="end", daemon=True)
        asking.start()
        asking.join(ANSWERING)
        if asking.is_alive():
            _log.warning("Ray does not answer: what is left of it on this machine is killed")
            kill()
            return
        time.sleep(0.1)
