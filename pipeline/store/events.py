"""The event log of a run, in its store: what happened to its stages, and when, for those who look later.

    <store>/events/<run>/<time>-<number>.jsonl    of each driver its own files, a line an event

Nothing can be appended to a file on an object store: the newest file is written anew until it is SIZE long. That is
done on a thread of its own, so that a store that is slow or away holds up no training. A driver that is killed loses
what it heard in its last seconds; a stage that goes on tells its earlier epochs again.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from dualprune.stages.files.folder import Folder
from dualprune.stages.files.public import public

Event = dict[str, Any]
"""`at`, seconds since 1970; `event`, what it is; of a stage its name `stage` and its `key`; and facts of its own."""
EVERY = 2.0
"""Seconds between two writings, at least; nothing is written while nothing happens."""
STEPS = 15.0
"""Seconds between two places within the epochs of a stage that are written, at least."""
SIZE = 1 << 18
"""Bytes of a file after which another one is begun."""

_log = logging.getLogger(__name__)


class Events:
    """Writes the events of one driver while it is entered."""

    def __init__(self, store: Folder, run: str, every: float = EVERY) -> None:
        self.listeners: list[Callable[[Event], None]] = []
        """Each is called with all events, in order, on the thread that adds them: it must not take time, nor raise."""
        self._folder = store / _path(run)
        self._stem = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:4]}"
        self._number = 0
        self._lines: list[str] = []
        self._lock, self._changed, self._ending = threading.Lock(), threading.Event(), threading.Event()
        self._writing = threading.Lock()
        self._every, self._steps = every, dict[str | None, float]()
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)

    def __enter__(self) -> Events:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # What is left is written as well, unless that takes too long.
        self._ending.set()
        self._changed.set()
        self._thread.join(timeout=5.0)

    def add(self, event: str, stage: str | None = None, **facts: Any) -> None:
        """Note what has happened now."""
        named = {} if stage is None else {"stage": stage}
        found = public({"at": time.time(), "event": event, **named, **facts})
        for listener in self.listeners:
            listener(found)
        if self._kept(found):
            with self._lock:
                self._lines.append(json.dumps(found) + "\n")
            self._changed.set()

    def flush(self) -> None:
        """Write what was added until now. Returns when that is done, or can't be."""
        self._write()

    def _kept(self, event: Event) -> bool:
        """Whether an event is written: of places within epochs only some are."""
        if event["event"] != "steps":
            return True
        stage, at = event.get("stage"), event["at"]
        if at - self._steps.get(stage, 0.0) < STEPS:
            return False
        self._steps[stage] = at
        return True

    def _work(self) -> None:
        while not self._ending.is_set():
            self._changed.wait()
            self._ending.wait(self._every)
            self._changed.clear()
            self._write()

    def _write(self) -> None:
        with self._writing:
            self._written()

    def _written(self) -> None:
        with self._lock:
            lines = list(self._lines)
        data = "".join(lines).encode()
        if not data:
            return
        try:
            self._folder.write(f"{self._stem}-{self._number:06}.jsonl", data)
        except Exception:  # noqa: BLE001 - a store that is away for a while may come back; training goes on
            _log.warning("%s can't be written", self._folder.url, exc_info=True)
            return
        if len(data) >= SIZE:
            self._number += 1
            with self._lock:
                del self._lines[: len(lines)]


def read(store: Folder, run: str) -> list[Event]:
    """All events of all drivers of a run, in the order of time. Lines that can't be read are left out, and logged."""
    folder, found = store / _path(run), list[Event]()
    for name in sorted(name for name in folder.names() if name.endswith(".jsonl")):
        try:
            lines = folder.read(name).decode(errors="replace").splitlines()
        except FileNotFoundError:  # removed a moment ago
            continue
        for number, line in enumerate(lines, 1):
            event = _parsed(line)
            if event is None:
                _log.warning("%s/%s, line %d, can't be read, and is left out", folder.url, name, number)
            else:
                found.append(event)
    return sorted(found, key=lambda event: event["at"])


def _parsed(line: str) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("at"), int | float) or "event" not in event:
        return None
    return event


def _path(run: str) -> str:
    return f"events/{run}"
