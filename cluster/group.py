"""One Ray Train worker group: the ranks of a lane, from their start to their end."""

from __future__ import annotations

import tempfile
from typing import Any

from cluster.rank import serve
from cluster.room import Shape
from cluster.session import trainer

RESTARTS = 3
"""How often Ray Train starts a group again whose ranks died; then it ends."""
START_LIMIT = "20"
"""Seconds after which a group that finds no room is given up, to be opened again at the size that there is room for."""
LEADER = "TrainController"
"""Class of the actor that leads a group. When it ends, so do the ranks, and `run` raises."""


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
                failure_config=tries if shape.elastic else FailureConfig(max_failures=RESTARTS),
            ),
        ).fit()


def no_room(error: BaseException | None) -> bool:
    """Whether a group ended because its workers found no room in time."""
    return type(getattr(error, "controller_failure", None)).__name__ == "WorkerGroupStartupTimeoutError"
