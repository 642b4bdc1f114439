"""Where a run is, left in its store for those who watch it from elsewhere.

    <store>/progress/<run>.json    the lines of its running stages, as its own terminal shows them

Written from a thread of its own, so that a store that is slow or away holds up no training.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from dualprune.stages.files.folder import Folder

EVERY = 2.0
"""Seconds between two writings, at least; nothing is written while nothing changes."""

_log = logging.getLogger(__name__)


class Progress:
    """Leaves what `lines` gives, by stage, while it is entered."""

    def __init__(self, store: Folder, run: str, lines: Callable[[], Mapping[str, str]], every: float = EVERY) -> None:
        self._folder, self._path, self._lines = store, _path(run), lines
        self._every, self._ending = every, threading.Event()
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Nothing runs any more: that is left as well, unless it takes too long.
        self._ending.set()
        self._thread.join(timeout=3.0)

    def _work(self) -> None:
        before: Mapping[str, str] | None = None
        while True:
            ending = self._ending.is_set()
            now = {} if ending else dict(self._lines())
            if now != before:
                try:
                    self._folder.write_json(self._path, {"lines": now})
                    before = now
                except Exception:  # noqa: BLE001 - a store that is away for a while may come back, and this is only for show
                    _log.warning("%s can't be written", self._path, exc_info=True)
            if ending:
                return
            self._ending.wait(self._every)


def running(store: Folder, run: str) -> dict[str, str]:
    """The line of each stage that runs, as the run itself left it last."""
    try:
        return dict(store.read_json(_path(run))["lines"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _path(run: str) -> str:
    return f"progress/{run}.json"
