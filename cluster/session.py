"""Ray itself: a session on a cluster or on this machine, and the trainer that keeps a lane's ranks."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

from cluster.room import Node

_SETTINGS = {
    # Parts of Ray Train that look at a dashboard, or print to a terminal that is not theirs.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Machines that are going away are looked for here (`nodes`), for all lanes at once.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # A worker that was given no GPU sees none, so that its process group and its tensors agree on a device.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_PREEMPTED = 3
"""Ray's number (NodeDeathInfo.Reason) for a machine that was drained to be preempted."""


class ClusterError(RuntimeError):
    """A cluster that can't be reached or can't do what is asked."""


def settings(local: bool) -> dict[str, str]:
    """Environment that Ray is to find before it is imported for the first time."""
    # `ray start` asks for a token where one exists; a client offers it only if told to.
    return _SETTINGS | ({"RAY_AUTH_MODE": "token"} if not local and _has_token() else {})


def start(address: str | None, modules: list[Path]) -> Any:
    """Ray, connected to `address` or started here."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray

    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    handler = signal.getsignal(signal.SIGTERM)
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
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray put its own in its place, which leaves at once
    return ray


def refusal(ray: Any, needed: dict[str, float]) -> str | None:
    """Why a cluster can never hold what is needed all at once, or None if it can, or may grow to."""
    from ray._private.state import state

    there = ray.cluster_resources()
    grown = state.get_max_resources_from_cluster_config() or {}
    for name, amount in needed.items():
        most = max(there.get(name, 0.0), grown.get(name, 0.0))
        if amount > most:
            return f"a stage's workers need {amount:g} {name}s at once, and the cluster has {most:g}; use fewer workers"
    return None


def nodes(ray: Any) -> list[Node]:
    """The cluster's machines: those that are there, and those that were taken away."""
    from ray._private.state import state

    free, draining = state.available_resources_per_node(), state.get_draining_nodes()
    found = []
    for entry in ray.nodes():
        identity = entry["NodeID"]
        if entry["Alive"]:
            found.append(Node(identity, entry["Resources"], free.get(identity, {}), identity in draining))
        elif entry.get("DeathReason") == _PREEMPTED:
            found.append(Node(identity, {}, {}, leaving=True))
    return found


def near(ray: Any, kind: type) -> Any:
    """An actor on the driver's own machine, so that no other machine's end is its end."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(kind).options(scheduling_strategy=here).remote()


def _has_token() -> bool:
    """Whether this machine has a token for Ray clusters, in one of the places that Ray looks at."""
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return named or (Path.home() / ".ray" / "auth_token").is_file()


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def trainer(local: bool) -> Any:
    """Ray's TorchTrainer; without a dashboard, also without the actor that asks it each second whether we live."""
    from ray.train.torch import TorchTrainer

    class LocalTrainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [c for c in callbacks if type(c).__name__ != "PlacementGroupCleanerCallback"]

    return LocalTrainer if local else TorchTrainer
