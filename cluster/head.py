"""The head of a Ray cluster: whether it answers, and what to tell if it doesn't."""

from __future__ import annotations

import time

from dualprune.cluster.errors import ClusterError, ClusterGone
from dualprune.cluster.session import reach

AWAY = 30.0
"""Seconds that a cluster's head may be away, to be started anew. After a minute Ray would end this process."""


class Head:
    """The head at an address, HOST:PORT; `local` if this process has started it."""

    def __init__(self, address: str, local: bool) -> None:
        self.address, self.local = address, local
        self.heard = time.monotonic()
        """When it last answered."""

    def there(self) -> bool:
        """Whether it answers; asked anything while it does not, Ray blocks. Raises ClusterGone once that lasts."""
        try:
            reach(self.address)
        except ClusterError as error:
            if time.monotonic() > self.heard + AWAY:
                raise self._away(error) from error
            return False
        self.heard = time.monotonic()
        return True

    def gone(self, why: str) -> ClusterGone:
        """What to tell of an actor on this machine that is gone, or of the head, if that is."""
        try:
            reach(self.address)
        except ClusterError as error:
            return self._away(error)
        return ClusterGone(
            f"the actor that lanes report to, on this machine, has ended ({why}); the same command goes on"
        )

    def _away(self, error: ClusterError) -> ClusterGone:
        if self.local:
            return ClusterGone(f"the Ray that this run started has ended ({error}); the same command goes on")
        return ClusterGone(f"the Ray cluster went away ({error}); once it is back, the same command goes on")
