"""Where a run is, left in its store for those who watch it from elsewhere.

    <store>/progress/<run>.json    the lines of its running stages, and what these say as facts; since when they run;
                                   what it was asked for, what has failed, and what it has done

Written from a thread of its own, so that a store that is slow or away holds up no training.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from dualprune.stages.files.folder import Folder

EVERY = 2.0
"""Seconds between two writings, at least; nothing is written while nothing changes."""

_log = logging.getLogger(__name__)


class Progress:
    """Leaves what `lines` gives, by stage, while it is entered; and beside it what `account` gives."""

    def __init__(self, store: Folder, run: str, lines: Callable[[], Mapping[str, str]], every: float = EVERY) -> None:
        self._folder, self._path, self._lines = store, _path(run), lines
        self.account: Callable[[], Mapping[str, Any]] = dict
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
        before: Mapping[str, Any] | None = None
        while True:
            ending = self._ending.is_set()
            now = {**self.account(), **({"lines": {}, "works": {}} if ending else {"lines": dict(self._lines())})}
            if now != before:
                try:
                    self._folder.write_json(self._path, now)
                    before = now
                except Exception:  # noqa: BLE001 - a store that is away for a while may come back, and this is only for show
                    _log.warning("%s can't be written", self._path, exc_info=True)
            if ending:
                return
            self._ending.wait(self._every)


@dataclass(frozen=True)
class Left:
    """What a run has left of itself last."""

    lines: Mapping[str, str] = field(default_factory=dict)
    """Of stages that are at work, by name."""
    since: Mapping[str, str] = field(default_factory=dict)
    """When those that are being trained began, or went on, by name; UTC."""
    works: Mapping[str, Any] = field(default_factory=dict)
    """What they have told of themselves, by name: see `pipeline.run.work`."""
    retries: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of all stages that were tried again, by name: why, each time."""
    began: float | None = None
    """When the run did; seconds since 1970."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Of stages that are at work, by name."""
    asked: Sequence[str] | None = None
    """Names of the stages that it is to run; None for all."""
    failed: Sequence[str] = ()
    """Names."""
    stopping: bool = False
    """Whether it begins nothing new."""
    done: Sequence[str] | None = None
    """Keys of the stages that it has finished; None where that is not known."""

    def line(self, stage: str) -> str | None:
        """A stage's line without its name."""
        return self.lines[stage].removeprefix(f"{stage}: ") if stage in self.lines else None


def left(store: Folder, run: str) -> Left:
    """What a run has left; nothing where there is none. Its driver may be dead."""
    try:
        found = dict(store.read_json(_path(run)))
        found.setdefault("since", dict.fromkeys(found["lines"], ""))  # another version's says less
        return _adapter().validate_python(found)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Left()


@cache
def _adapter() -> TypeAdapter[Left]:
    return TypeAdapter(Left)


def _path(run: str) -> str:
    return f"progress/{run}.json"
