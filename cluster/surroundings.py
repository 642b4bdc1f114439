"""What a process is started in, where Ray, W&B and DeepSpeed would stumble over it: a home, folders, variables."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

LAUNCHERS = (
    "OMPI_COMM_",
    "OMPI_UNIVERSE_",
    "PMI_",
    "PMIX_",
    "PALS_",
    "MV2_COMM_",
    "MPI_LOCAL",
    "FLUX_TASK_",
    "TORCHELASTIC_",
    "SLURM_STEP_",
    "SLURM_SRUN_",
)
"""Beginnings of variables by which MPI's launchers, torchrun and srun tell a process which one of how many it is."""
SLURMS = (
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_GTIDS",
    "SLURM_TASK_PID",
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_NNODES",
    "SLURM_TASKS_PER_NODE",
    "SLURM_LAUNCH_NODE_IPADDR",
)
"""The other ones of Slurm's. Those that say what the job has been given stay."""
LONGEST = 107
"""Bytes that Linux allows the path of a socket."""
ROOM = 10_000_000
"""Bytes that must find room in Ray's folder: about what its processes log in a short run."""
SOCKET = ("sockets", "plasma_store")
"""The longest one of Ray's, in a session's folder."""


def give_home() -> None:
    """A user who has no home folder has `/`, as in a container: Ray Train and wandb won't be imported without one."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"


def writable(folder: Path) -> bool:
    """Whether this process may write into a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def ray_folder() -> str | None:
    """What is wrong with the folder in which a local Ray keeps its sockets and logs; None if nothing is."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    base = os.environ[name] if name is not None else "/tmp"
    if not os.path.isabs(base):
        return f"Ray's folder, {name}={base!r}, is no absolute path: set RAY_TMPDIR to one, such as /tmp"
    what = f"Ray's folder, {name}={base}," if name is not None else f"Ray's folder, {base},"
    longest = os.path.join(base, "ray", f"session_{'0' * len('2026-01-01_00-00-00_000000')}_{os.getpid()}", *SOCKET)
    if len(os.fsencode(longest)) > LONGEST:
        room = LONGEST - len(os.fsencode(longest)) + len(os.fsencode(base))
        return f"{what} is too long for the sockets in it: set RAY_TMPDIR to one of at most {room} bytes, such as /tmp"
    try:
        path = Path(base, "ray")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(ROOM))  # a full disk or quota lets files be made, but not filled
    except OSError as error:
        return f"{what} can't be written ({error}): set RAY_TMPDIR to a folder that can"
    return None


def drop_long_temporary() -> None:
    """Forget a TMPDIR that is too long for the sockets that the processes which read data pass tensors by."""
    longest = os.path.join(os.environ.get("TMPDIR", ""), "pymp-01234567", "listener-01234567")
    if len(os.fsencode(longest)) > LONGEST:
        del os.environ["TMPDIR"]
        tempfile.tempdir = None  # which is looked for once


def drop_launchers() -> None:
    """Forget which one of how many processes a launcher said that this one is: it is a rank of ours, or none at all."""
    for name in list(os.environ):
        if name.startswith(LAUNCHERS) or name in SLURMS:
            del os.environ[name]
