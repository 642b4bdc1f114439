"""What the driver knows of one lane, the states that it goes through, and what is heard of the tasks on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

Why = Literal["idle", "growing", "preempted"]
"""Why a lane is asked to leave: nothing waits for it, it could be larger, or a machine under it is taken away."""
Ending = Literal["done", "stopped", "failed"]
"""How a task on it ends."""
Move = Literal["stuck", "ready", "given"] | Ending | Why
"""What happens to a lane: its leader is killed, its workers ask for work, they are given a task, the task ends in one
of three ways, or it is asked to leave."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a task. `data` is a log row, a result, or a Failure.

    Of a worker that was killed for memory (`memory`) it is Ray's account; what that does to its task is told apart.
    """

    kind: Literal["log", "done", "failed", "memory"]
    task: str
    data: Any


class State(Enum):
    """Where a lane is in its life."""

    STARTING = "starting"
    """Its workers have not asked for work yet."""
    STUCK = "stuck"
    """Nor for so long that its leader was killed."""
    FREE = "free"
    """It waits for a task."""
    BUSY = "busy"
    """It is at a task."""
    RETURNING = "returning"
    """Its workers failed: it will ask for work again, or another one in its place."""
    IDLE = "idle"
    """It was asked to leave since nothing waited for it. As in the next two, its task may not have ended yet."""
    GROWING = "growing"
    """It was asked to leave, to be opened again with more workers."""
    PREEMPTED = "preempted"
    """It was asked to leave a machine that is going to be taken away."""

    @property
    def came_up(self) -> bool:
        """Whether its workers have ever asked for work."""
        return self not in (State.STARTING, State.STUCK)

    @property
    def serving(self) -> bool:
        """Whether it waits for a task or is at one, and is to go on with that."""
        return self in (State.FREE, State.BUSY)

    @property
    def leaving(self) -> bool:
        """Whether it was asked to leave."""
        return self in _LEAVING

    @property
    def coming(self) -> bool:
        """Whether it, or another one in its place, will soon wait for a task."""
        return self in (State.STARTING, State.STUCK, State.RETURNING, State.GROWING)


_LEAVING = (State.IDLE, State.GROWING, State.PREEMPTED)
_STILL = {state: state for state in _LEAVING}
_NEXT: dict[Move, dict[State, State]] = {
    "stuck": {State.STARTING: State.STUCK, State.STUCK: State.STUCK},
    "ready": dict.fromkeys(State, State.FREE),
    "given": {State.FREE: State.BUSY},
    "done": {State.BUSY: State.FREE} | _STILL,
    # By nobody's wish it would stop each task that it is given: another lane goes on.
    "stopped": {State.BUSY: State.IDLE} | _STILL,
    "failed": {State.BUSY: State.RETURNING} | _STILL,
    "idle": dict.fromkeys((State.FREE, State.BUSY), State.IDLE),
    "growing": dict.fromkeys((State.FREE, State.BUSY), State.GROWING),
    "preempted": dict.fromkeys((State.FREE, State.BUSY), State.PREEMPTED),
}


def after(state: State, move: Move) -> State:
    """The state that a lane is in after that. Raises ValueError for what can't happen in its present one."""
    if state not in _NEXT[move]:
        raise ValueError(f"a lane that is {state.value} can't become {move}")
    return _NEXT[move][state]


@dataclass
class Lane:
    """One worker group, as the driver knows it."""

    name: str
    size: int = 1
    """Workers."""
    state: State = State.STARTING
    thread: threading.Thread | None = None
    attempt: str | None = None
    """The worker group's present incarnation; None while there is none that asks for work."""
    task: str | None = None
    payload: Any = None
    nodes: frozenset[str] = frozenset()
    """The machines it is on."""
    since: float = field(default_factory=time.monotonic)
    """When it came up, or last began or ended a task."""

    def move(self, move: Move) -> None:
        """Go to the next state. Raises ValueError where that can't be."""
        self.state = after(self.state, move)

    def come_up(self, attempt: str, nodes: Iterable[str]) -> None:
        """Its workers, on these machines, ask for work. Raises ValueError as `move` does, as do the next two."""
        self.move("ready")
        self.attempt, self.nodes, self.since = attempt, frozenset(nodes), time.monotonic()

    def begin(self, task: str, payload: Any) -> None:
        """It is given a task."""
        self.move("given")
        self.task, self.payload, self.since = task, payload, time.monotonic()

    def end(self, how: Ending) -> tuple[str, Any]:
        """Its task has ended; returns that, and its payload. After a failure there are no workers that ask for more."""
        self.move(how)
        assert self.task is not None
        task, payload = self.task, self.payload
        self.task, self.payload, self.since = None, None, time.monotonic()
        if how == "failed":
            self.attempt = None
        return task, payload
