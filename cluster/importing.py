"""The import of what lanes are to do, beside Ray's start."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from dualprune.cluster.errors import ClusterError
from dualprune.cluster.private import TRAIN, check
from dualprune.cluster.serve import Work


def imported(work: Callable[[], Work]) -> Work:
    """The work, and with it all modules that lanes need on this side. Raises ClusterError if Ray Train lacks some."""
    import ray.train.torch  # noqa: F401

    check(TRAIN)
    return work()


class Importing:
    """The import of the work, in a thread beside Ray's start: each takes about as long as the other."""

    def __init__(self, work: Callable[[], Work]) -> None:
        self._work = work
        self._found: list[Work] = []
        self._thread = threading.Thread(target=self._try, name="import")
        self._thread.start()

    def _try(self) -> None:
        with contextlib.suppress(Exception):  # of a real one more in `result`, where the same is done again
            self._found.append(imported(self._work))

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def result(self) -> Work:
        """The work. Raises ClusterError."""
        self.join()
        try:
            # Two threads that import one package at once can find it half there: alone, it is whole.
            return self._found[0] if self._found else imported(self._work)
        except ClusterError:
            raise
        except Exception as error:
            raise ClusterError(f"the work that lanes are to do can't be imported: {error!r}") from error
