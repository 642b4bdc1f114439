"""A run's events, handed to trackers from outside its work: whatever they raise and however slow they are.

Each tracker has a thread of its own, so that none waits for another, and training waits for none.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from dualprune.cluster.spared import spared
from dualprune.pipeline.store.events import Event
from dualprune.pipeline.trackers.base import Tracker
from dualprune.pipeline.trackers.told import Told
from dualprune.stages.files.folder import Folder

PATIENCE = 20.0
"""Seconds that trackers have at a run's end for what they have still to do."""
HURRY = 2.0
"""The same of a run that was interrupted."""
GRACE = 1.0
"""Seconds that their threads have after that, in which they let go of what lasts."""

_log = logging.getLogger(__name__)


class Mirror:
    """Feeds trackers while it is entered. No method raises for their sake; problems go to the log."""

    def __init__(self, run: str, store: Folder, trackers: Mapping[str, Tracker], tell: Callable[[str], None]) -> None:
        """`tell` hears at the end what a person should know."""
        self.patience = PATIENCE
        self._tell = tell
        self._feeds = [_Feed(name, tracker, Told(run, store, tracker)) for name, tracker in trackers.items()]

    def __enter__(self) -> Mirror:
        for feed in self._feeds:
            feed.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        limit = time.monotonic() + self.patience
        for feed in self._feeds:
            feed.queue.put(partial(feed.close, limit))
        for feed in self._feeds:
            feed.thread.join(max(0.0, limit + GRACE - time.monotonic()))
            for line in feed.left():
                self._tell(line)

    def hear(self, event: Event) -> None:
        """Something has happened. Returns at once."""
        for feed in self._feeds:
            feed.queue.put(partial(feed.told.hear, event))

    @property
    def wanted(self) -> bool:
        """Whether there is any tracker."""
        return bool(self._feeds)

    def attach(self, report: Path | None) -> None:
        """Show a page about the run with its summary. Returns at once."""
        for feed in self._feeds:
            feed.queue.put(partial(feed.told.attach, report))


class _Feed:
    """One tracker and its thread."""

    def __init__(self, name: str, tracker: Tracker, told: Told) -> None:
        self.name, self.tracker, self.told = name, tracker, told
        self.queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closed = False
        self.thread = threading.Thread(target=spared()(self._work), name=name, daemon=True)

    def close(self, limit: float) -> None:
        """Tell the tracker of the run's end, close it, and end the thread."""
        self._closed = True
        try:
            self.told.finish()
        finally:
            self.tracker.close(max(0.0, limit - time.monotonic()))

    def left(self) -> list[str]:
        """What is to be told of a tracker at the end."""
        if self.thread.is_alive():
            _log.warning("%s did not finish in time and was left behind", self.name)
        try:
            return self.tracker.left()
        except Exception:  # noqa: BLE001 - whatever it raises
            _log.warning("%s can't say what is left undone", self.name, exc_info=True)
            return []

    def _work(self) -> None:
        while not self._closed:
            call = self.queue.get()
            try:
                call()
            except Exception:  # noqa: BLE001 - whatever a tracker raises, training goes on
                _log.warning("%s failed; training goes on", self.name, exc_info=True)
