"""What the driver knows of one lane, and what it hears of the tasks on it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Event:
    """Something that happened to a task. `data` is a log row, a result, or a Failure.

    Of a worker that was killed for memory (`memory`) it is Ray's account; what that does to its task is told apart.
    """

    kind: Literal["log", "done", "failed", "memory"]
    task: str
    data: Any


@dataclass
class Lane:
    """One worker group, as the driver knows it."""

    name: str
    size: int = 1
    """Workers."""
    thread: threading.Thread | None = None
    attempt: str | None = None
    """The worker group's present incarnation; None while there is none that asks for work."""
    task: str | None = None
    payload: Any = None
    nodes: frozenset[str] = frozenset()
    """The machines it is on."""
    came_up: bool = False
    """Whether its workers have ever asked for work."""
    stuck: bool = False
    """Whether its leader was killed because it did not come up."""
    leaving: Literal["", "idle", "growing", "preempted"] = ""
    """Why it was asked to end."""
    since: float = field(default_factory=time.monotonic)
    """When it came up, or last began or ended a task."""

    @property
    def free(self) -> bool:
        """Whether it waits for a task."""
        return self.attempt is not None and self.task is None and not self.leaving

    @property
    def coming(self) -> bool:
        """Whether it, or another one in its place, will soon wait for a task."""
        return self.leaving == "growing" or (self.attempt is None and not self.leaving)
