"""Many jobs, one after the other, in processes of their own: one that dies or takes too long costs its row alone."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.bench.common import Row

MOST = 2 << 20
"""Kilobytes that a process may have taken at most to be given another job: big networks have one each."""

LIMIT = 16 << 30
"""Bytes of address space that a process may take: a library that leaks, or a network that is too large, costs its row,
not the machine."""

Work = Callable[..., Row]


def rows(work: Work, jobs: Sequence[tuple[Any, ...]], seconds: float) -> Iterator[Row]:
    """What `work` gives for each job, whose first argument is its name; a job has so many seconds."""
    left, process = list(jobs), None
    while left:
        if process is None:
            process = _Process(work)
        row, alive = process.row(left[0], seconds)
        print(f"{row['network']}: {row['result']}", flush=True)
        yield row
        left = left[1:]
        if not alive:
            process.end()
            process = None
    if process is not None:
        process.end()


class _Process:
    """A process that does one job after the other."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_served, args=(work, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def row(self, job: tuple[Any, ...], seconds: float) -> tuple[Row, bool]:
        """The job's row, and whether the process may have another."""
        self._ours.send(job)
        if not self._ours.poll(seconds):
            return {"network": job[0], "result": f"not finished in {seconds:g} s"}, False
        try:
            row, peak = self._ours.recv()
        except EOFError:
            return {"network": job[0], "result": "its process died"}, False
        return row, peak < MOST

    def end(self) -> None:
        """Stop it, at work or not."""
        self._process.kill()
        self._process.join()
        self._ours.close()


def _served(work: Work, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    while True:
        job = pipe.recv()
        row = work(*job)
        pipe.send((row, _peak()))


def _peak() -> int:
    """The most kilobytes that this process has had. `getrusage` counts the process that started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
