"""Ray itself: a session on a cluster or on this machine, and the trainer that keeps a lane's ranks."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dualprune.cluster import private
from dualprune.cluster.errors import ClusterError, NotStarted
from dualprune.cluster.spared import spared
from dualprune.cluster.surroundings import drop_launchers, drop_long_temporary, ray_folder

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
    **private.SETTINGS,
}

STARTS = 3
"""How often a local Ray is started at most: on a busy machine it may not come up in the time that it gives itself."""
SAID = 200
"""Characters of what a process of Ray's printed that are told."""
WAITING = 100_000
"""Calls that may wait in an actor at a time: each rank of each lane has one or two there."""
REACHING = 10.0
"""Seconds that a cluster may take to accept a connection."""
WAY_IN = (
    "put the cluster's token into ~/.ray/auth_token, or into a file that RAY_AUTH_TOKEN_PATH names; on a machine of"
    " the cluster, `ray get-auth-token` prints it"
)
"""What to do for a cluster that wants a token."""

_log = logging.getLogger(__name__)


def settings(local: bool) -> dict[str, str]:
    """Environment that Ray is to find before it is imported for the first time."""
    if local:
        # A Ray of our own has a token of its own, or it would look for one in the user's home, and leave one there.
        return _SETTINGS | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # `ray start` asks for a token where one exists; a client offers it only if told to.
    return _SETTINGS | ({"RAY_AUTH_MODE": "token"} if token() else {})


def start(address: str | None, modules: list[Path]) -> Any:
    """Ray, connected to `address` or started here. Raises ClusterError."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray

    private.check()
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            _import_from(modules)
            _start_here(ray, options)
        else:
            reach(address)
            with _muted():
                ray.init(
                    address=address,
                    runtime_env={} if _sent() else {"py_modules": [str(module) for module in modules]},
                    **options,
                )
    except ClusterError:
        raise
    except SystemExit:
        # A SIGTERM while Ray started: its own handler, in the place of ours, leaves without a word.
        if callable(handler):
            handler(signal.SIGTERM, None)
        raise
    except Exception as error:
        raise ClusterError(f"no Ray cluster lets us in at {address}: {error}{_way_in(error)}") from error
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray put its own in its place, which leaves at once
    return ray


def _import_from(modules: list[Path]) -> None:
    """Let workers on this machine import the same packages from the same places."""
    paths = [str(module.parent) for module in modules] + os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))


def _way_in(error: Exception) -> str:
    """What to do about an error, if it is about a token."""
    return f"; {WAY_IN}" if "token" in str(error).lower() or "auth" in type(error).__name__.lower() else ""


def _sent() -> bool:
    """Whether this process is a job whose workers get its packages already (cluster.jobs): Ray takes them once only."""
    return "py_modules" in os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "")


def _start_here(ray: Any, options: dict[str, Any]) -> None:
    """A Ray of this machine's own, started again if it does not come up.

    Raises ClusterError for what is known to be wrong beforehand, else what Ray raised the last time.
    """
    problem = ray_folder()
    if problem is not None:
        raise ClusterError(problem)
    drop_launchers()
    drop_long_temporary()
    for number in range(1, STARTS + 1):
        try:
            with spared():
                ray.init(address="local", num_cpus=cpus(), include_dashboard=False, **options)
            return
        except Exception as error:
            logs = _end_half(ray, error)
            if number == STARTS or isinstance(error, OSError):  # which would come again
                tries = f" in {number} tries" if number > 1 else ""
                raise NotStarted(f"a local Ray did not come up{tries}: {error}{logs}") from error
            _log.warning("a local Ray did not come up, and is started again: %s", error)


def _end_half(ray: Any, error: Exception) -> str:
    """End what a start that failed has left behind; what its processes said, and where, in words."""
    logs = private.kill_half_started(error)
    ray.shutdown()
    return "" if logs is None else _said(logs)


def _said(logs: Path) -> str:
    """What the processes of a local Ray printed first as they failed, and where all of it is."""
    for name in ("raylet.err", "gcs_server.err"):
        with suppress(OSError):
            text = textwrap.shorten((logs / name).read_text(errors="replace"), SAID)
            if text:
                return f"; Ray's {name.removesuffix('.err')} said: {text}; the rest is in {logs}"
    return f"; what its processes logged is in {logs}"


def reach(address: str) -> None:
    """Raise ClusterError for a HOST:PORT where nothing answers: Ray would try for minutes. Other forms are Ray's."""
    host, colon, port = address.rpartition(":")
    if "/" in host or not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHING).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"nothing answers at {address}: {error}") from error


def head(ray: Any) -> str:
    """Where the cluster's head accepts connections."""
    return str(ray.get_runtime_context().gcs_address)


@contextmanager
def _muted() -> Iterator[None]:
    """Send this process's standard error nowhere: Ray warns there each second while a cluster turns it away."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def near(ray: Any, kind: type) -> Any:
    """An actor on the driver's own machine, so that no other machine's end is its end, with room for many that wait."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(kind).options(scheduling_strategy=here, max_concurrency=WAITING).remote()


def token() -> str | None:
    """Where this machine has a token for Ray clusters, of the places that Ray looks at; None if it has none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH ({path})"
    default = os.path.expanduser("~/.ray/auth_token")
    return default if os.path.isfile(default) else None


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def trainer(local: bool) -> Any:
    """Ray's TorchTrainer, without the actors that it starts beside the ranks and that nothing here needs."""
    from ray.train.torch import TorchTrainer

    return private.spare(TorchTrainer, local)
