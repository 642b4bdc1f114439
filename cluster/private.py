"""All that is used of Ray beyond its documentation, and of /proc for its sake.

What Ray calls private may be called otherwise in a version to come. So it is in this file alone, behind functions of
ours, and `check` looks for each name at the start.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from dualprune.cluster.errors import ClusterError
from dualprune.cluster.names import Names, lacking

LEADER = "TrainController"
"""Class of the actor that leads a worker group. When it ends, so do the ranks, and `fit` raises."""
STARTING = "PENDING_CREATION"
"""Ray's name for the state of an actor whose process starts: it has found its room."""
SETTINGS = {"RAY_agent_register_timeout_ms": "60000"}
"""Environment that Ray doesn't document, and passes over where it doesn't know it. A local Ray gives its agents 15 s to
start, and dies of it on a machine that is busy."""
_THERE = ("DEPENDENCIES_UNREADY", STARTING, "ALIVE", "RESTARTING")
_GUARD = "PlacementGroupCleanerCallback"
"""Of Ray Train, as is the next one; where Ray has none (its older versions), there is nothing to leave out."""
_DATASETS = "DatasetsCallback"
_NO_ROOM = "WorkerGroupStartupTimeoutError"
_PARENT = "RAY_RAYLET_PID"
"""The environment variable by which Ray's workers know the process that started them."""

USED: Names = (
    ("ray._private.node", "Node.all_processes"),
    ("ray._private.node", "Node.dead_processes"),
    ("ray._private.node", "Node.get_logs_dir_path"),
    ("ray._private.node", "Node.kill_all_processes"),
    ("ray._private.ray_constants", "PROCESS_TYPE_RAYLET"),
    ("ray._private.ray_constants", f"RAY_INTERNAL_FLAGS.{_PARENT}"),
    ("ray._private.services", "ProcessInfo.process"),
    ("ray._private.state", "actors"),
    ("ray._private.state", "state.available_resources_per_node"),
    ("ray._private.state", "state.get_draining_nodes"),
    ("ray._private.state", "state.get_max_resources_from_cluster_config"),
    ("ray._private.worker", "_global_node"),
    ("ray._private.worker", "connect.core_worker"),
    ("ray._private.worker", "global_worker"),
    ("ray._raylet", "CoreWorker.kill_actor"),
    ("ray.core.generated.common_pb2", "NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED"),
    *(("ray.core.generated.gcs_pb2", f"ActorTableData.{state}") for state in _THERE),
)
"""Names of Ray's that are used here."""
TRAIN: Names = (
    ("ray.train.v2._internal.exceptions", _NO_ROOM),
    ("ray.train.v2._internal.exceptions", "WorkerHealthCheckFailedError.health_check_failure"),
    ("ray.train.v2._internal.execution.controller.controller", LEADER),
    ("ray.train.v2.api.exceptions", "ControllerError.controller_failure"),
    ("ray.train.torch", "TorchTrainer._create_default_callbacks"),
)
"""And of Ray Train's. Its import takes as long as Ray's start, and is done beside it; these are looked for after it."""

_log = logging.getLogger(__name__)


def check(used: Names = USED) -> None:
    """Raise ClusterError if the Ray that is installed lacks what is used of it."""
    import ray

    problem = lacking("Ray", ray.__version__, used)
    if problem is not None:
        raise ClusterError(problem)


def most_resources() -> dict[str, float]:
    """What a cluster may grow to, of each resource that its configuration gives a limit."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config() or {}


def free_resources() -> dict[str, dict[str, float]]:
    """What nobody has reserved at present, by machine."""
    from ray._private.state import state

    free: dict[str, dict[str, float]] = state.available_resources_per_node()
    return free


def draining() -> Collection[str]:
    """The machines that are going to be taken away."""
    from ray._private.state import state

    found: Collection[str] = state.get_draining_nodes()
    return found


def preempted(entry: dict[str, Any]) -> bool:
    """Whether a dead machine, an entry of `ray.nodes()`, was taken away by the cluster's owner."""
    from ray.core.generated.common_pb2 import NodeDeathInfo

    return bool(entry.get("DeathReason") == NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)


def end_actors(ray: Any, kind: str, states: Collection[str] = _THERE) -> int:
    """End the actors of a class that this driver has started and that are in such a state; how many."""
    from ray._private.state import actors
    from ray._private.worker import global_worker

    job = ray.get_runtime_context().get_job_id()
    found = [
        ray.ActorID(bytes.fromhex(identity))
        for identity, actor in actors().items()
        if (actor["JobID"], actor["ActorClassName"]) == (job, kind) and actor["State"] in states
    ]
    for actor in found:
        global_worker.core_worker.kill_actor(actor, True)
    return len(found)


def whole() -> bool:
    """Whether all processes of a local Ray are there; of another cluster, nothing is known, and so True."""
    node = _local()
    return node is None or not node.dead_processes()


def kill() -> None:
    """Kill the processes of a local Ray at once. Another cluster's are not ours."""
    node = _local()
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False)


def raylet() -> int | None:
    """The process of a local Ray that starts its workers; None for another cluster's."""
    from ray._private.ray_constants import PROCESS_TYPE_RAYLET

    node = _local()
    found = node.all_processes.get(PROCESS_TYPE_RAYLET) if node is not None else None
    return found[0].process.pid if found else None


def _local() -> Any:
    """The processes of a Ray that this one has started; None where it is connected to another, or to none."""
    from ray._private import worker

    return worker._global_node


def kill_half_started(error: BaseException) -> Path | None:
    """Kill what a start of Ray that failed with `error` has left behind; where its processes logged.

    Ray knows them only once all are up: till then the node that started them is found where the error was raised.
    """
    from ray._private.node import Node

    logs = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, Node):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            logs = Path(node.get_logs_dir_path())
    return logs


def end_left(raylet: int, patience: float) -> None:
    """Kill the workers of a local Ray that was shut down and that are still there after `patience` seconds.

    They end by themselves, but wait without a limit for what they are at; and they are in process groups of their own.
    """
    limit = time.monotonic() + patience
    while (left := _marked(f"{_PARENT}={raylet}".encode())) and time.monotonic() < limit:
        time.sleep(0.1)
    for process in left:
        _log.warning("the worker process %d of a Ray that was shut down is killed", process)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _marked(variable: bytes) -> list[int]:
    """Processes that were started with an environment variable, NAME=VALUE; zombies are not among them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it is gone, or not ours
            if variable in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
    return found


def spare(trainer: Any, local: bool) -> Any:
    """A trainer of Ray Train's without actors that nothing here needs; each is a process, and takes a second to start.

    One hands out Ray's own data sets. Of a `local` Ray, one asks each second, by way of a dashboard, whether we live,
    and one asks for machines, of which there are no others.
    """
    left_out = {_DATASETS, _GUARD} if local else {_DATASETS}

    class Spare(trainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if type(callback).__name__ not in left_out]

        def _initialize_and_run_controller(self, **given: Any) -> Any:
            if local and (policy := given.get("scaling_policy")) is not None:
                policy.__class__ = _unasking(type(policy))
            return super()._initialize_and_run_controller(**given)

    return Spare


def _unasking(policy: Any) -> Any:
    """How Ray Train sizes a worker group, without its requests to who starts machines."""

    class Unasking(policy):  # type: ignore[misc]
        def after_controller_start(self, *_: Any) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    return Unasking


def no_room(error: BaseException | None) -> bool:
    """Whether a worker group ended because its workers found no room in time."""
    return type(getattr(error, "controller_failure", None)).__name__ == _NO_ROOM


def cause(error: Exception) -> Exception:
    """Why a rank did not answer, as Ray itself says it; of another error, that one."""
    found: Exception = getattr(error, "health_check_failure", error)
    return found
