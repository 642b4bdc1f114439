"""The mailbox between the driver and the lanes' ranks: an actor, and what tells it something."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any

TELLING = 10.0
"""Seconds that the mailbox has to answer before a rank goes on without."""


class Mailbox:
    """The actor between the driver and the lanes: events one way, orders the other."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.forgotten = 0
        self.heard: dict[str, int] = {}
        self.orders: dict[str, list[Any]] = {}
        self.stopping: set[str] = set()
        self.changed = asyncio.Condition()

    async def tell(self, event: Any, sender: str, number: int) -> None:
        """Leave an event for the driver: each sender's 1, 2, 3, ... in this order, and each once."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.heard.get(sender, 0) >= number - 1)
            if self.heard.get(sender, 0) == number - 1:
                self.heard[sender] = number
                self.events.append(event)
                self.changed.notify_all()

    async def take(self, seen: int, timeout: float) -> list[Any]:
        """All events from number `seen` on, waiting up to `timeout` seconds for the first; earlier ones are forgotten.

        An answer that is lost on its way, to an interrupt, takes nothing with it: the next one has it all again.
        """
        async with self.changed:
            del self.events[: max(0, seen - self.forgotten)]
            self.forgotten = max(seen, self.forgotten)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: self.events), timeout)
            return list(self.events)

    async def give(self, attempt: str, order: Any) -> None:
        """Add an order for a lane's incarnation."""
        async with self.changed:
            self.orders.setdefault(attempt, []).append(order)
            self.changed.notify_all()

    async def order(self, attempt: str, number: int) -> Any:
        """The number-th order for an incarnation, waiting for it. Each of its ranks asks for the same ones."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.orders.get(attempt, [])) > number)
            return self.orders[attempt][number]

    async def stop(self, attempt: str) -> None:
        """Ask a lane's incarnation to save where its task is, and to leave it."""
        async with self.changed:
            self.stopping.add(attempt)
            self.changed.notify_all()

    async def stopped(self, attempt: str) -> None:
        """Return when an incarnation is asked to stop."""
        async with self.changed:
            await self.changed.wait_for(lambda: attempt in self.stopping)


class Told:
    """What one process tells the mailbox, numbered: calls may overtake each other, and are sent again if one breaks."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox, self.sender = mailbox, uuid.uuid4().hex
        self.number = 0
        self.last: Any = None

    def add(self, event: Any) -> None:
        """Leave an event for the driver."""
        self.number += 1
        self.last = surely(self.mailbox.tell).remote(event, self.sender, self.number)

    def wait(self) -> None:
        """Return when the mailbox has all events, is gone, or has not answered in time."""
        import ray

        if self.last is not None:
            ray.wait([self.last], timeout=TELLING)


def surely(method: Any) -> Any:
    """A call to an actor that is sent again when its connection breaks. It may come twice."""
    return method.options(max_task_retries=-1)
