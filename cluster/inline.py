"""One lane of one worker without Ray: a thread of this process, which runs task after task.

The way to debug a task, and to run what is small: nothing has to start. The thread is as a rank's of Ray Train, so a
task can't tell the difference.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from dualprune.cluster.errors import ClusterError
from dualprune.cluster.failures import failure
from dualprune.cluster.lane import Event
from dualprune.cluster.lanes import CLOSING, SAVING
from dualprune.cluster.serve import Work
from dualprune.cluster.spared import WARNINGS
from dualprune.cluster.surroundings import drop_launchers, drop_long_temporary, give_home

ENDING = 20.0
"""Seconds that a task gets to end that is broken off."""
SEEN = "CUDA_VISIBLE_DEVICES"
"""What says which GPUs a process sees, until it has looked at them once."""
THREADS = "OMP_NUM_THREADS"
"""What says how many threads a process computes on."""
_ENDED = ctypes.py_object(SystemExit)

_log = logging.getLogger(__name__)


class Inline:
    """Runs tasks one after another in this process; to who submits them it is as `Lanes` are.

    `cpus` and `gpus` are a worker's: a task computes on so many threads, where OMP_NUM_THREADS says nothing else, as
    Ray has it, and on this process's first GPU or on none. Raises ClusterError where that can't be.
    """

    def __init__(self, work: Callable[[], Work], cpus: float, gpus: float) -> None:
        give_home()
        drop_long_temporary()
        drop_launchers()
        _alone()
        self._threads = None if THREADS in os.environ else max(1, int(cpus))
        self._work, self._seen = work(), os.environ.get(SEEN)
        try:
            _look(gpus)
        except ClusterError:
            self._see_again()
            raise
        self._waiting: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="inline", daemon=True)
        self._thread.start()

    def submit(self, task: str, payload: Any) -> None:
        """Queue a task, or queue it again after it failed."""
        self._waiting.put((task, payload))

    def take(self, timeout: float) -> list[Event]:
        """Events since the last call, waiting up to `timeout` seconds for the first."""
        events: list[Event] = []
        try:
            events.append(self._events.get(timeout=timeout))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            return events

    def save(self) -> list[Event]:
        """Let the task that is at work save where it is. Returns what happened in the seconds that it gets."""
        events: list[Event] = []
        limit = time.monotonic() + SAVING
        self._end()
        while self._thread.is_alive() and time.monotonic() < limit:
            events += self.take(timeout=0.1)
        return events + self.take(timeout=0.0)

    def close(self) -> None:
        """Begin no other task, and break off one that is at work."""
        self._end()
        self._thread.join(CLOSING)
        if self._thread.is_alive():
            # At its next step in Python. One that this process ended with in the midst of C++ would crash it.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident or 0), _ENDED)
            self._thread.join(ENDING)
        if self._thread.is_alive():
            _log.warning("a task is left that did not end in %s s; it ends with this process", ENDING)
        self._see_again()

    def _end(self) -> None:
        """Ask the thread to end, whether it is at a task or waits for one."""
        self._stop.set()
        self._waiting.put(None)

    def _see_again(self) -> None:
        """Show this process's GPUs to processes that it starts from now on."""
        if self._seen is None:
            os.environ.pop(SEEN, None)
        else:
            os.environ[SEEN] = self._seen

    def _serve(self) -> None:
        """The thread's life."""
        import torch

        # Signals are the driver's to hear: what is started here, to read data, would end of them before all is saved.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *WARNINGS))
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            while (given := self._waiting.get()) is not None and not self._stop.is_set():
                self._carry_out(*given)
        finally:
            torch.set_num_threads(before)

    def _carry_out(self, task: str, payload: Any) -> None:
        try:
            _log.info("%s begins", task)
            result = self._work(payload, lambda row: self._events.put(Event("log", task, row)), self._stop.is_set)
        except BaseException as error:  # noqa: BLE001 - handed to take(), in the driver's own thread; sys.exit() too
            self._events.put(Event("failed", task, failure(error, traceback.format_exc(), 0)))
            return
        stopped = result is None and self._stop.is_set()
        _log.info("%s: %s", task, "stopped" if stopped else "done")
        if not stopped:
            self._events.put(Event("done", task, result))


def _alone() -> None:
    """Raise ClusterError in a process that is one rank of several, which would all do the same task together."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        raise ClusterError(f"this process is one of {dist.get_world_size()} of a process group, and inline is for one")


def _look(gpus: float) -> None:
    """Look at this process's GPUs, or hide them from it. Raises ClusterError if it has none, or uses some already."""
    import torch

    if not gpus:
        os.environ[SEEN] = ""
    there = torch.cuda.is_available()
    if gpus and not there:
        raise ClusterError("a worker needs a GPU, and this machine has none; train on CPUs with `cluster.gpus: 0`")
    if there and not gpus:
        text = "this process uses GPUs already, and `cluster.gpus: 0` is to use none"
        raise ClusterError(f"{text}; set `cluster.gpus: 1`, or run without inline")
