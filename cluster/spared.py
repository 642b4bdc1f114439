"""Signals that tell a run to save and leave, and from which the processes that it starts are spared.

A closed terminal sends SIGHUP to all of its processes, Slurm the signal of `--signal` to all of a job step's. Ray's
and W&B's would end of it before a stage is saved, so they are started with it blocked, as Ray starts its own with
SIGINT.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


@contextmanager
def spared() -> Iterator[None]:
    """Block them in this thread, and so in threads and processes that it starts. One that comes meanwhile waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
