"""Whole runs in one process: the driver and one stage after the other, on a thread in place of Ray's workers.

`python -m tests.oneprocess FILE [SETTING=VALUE ...] [--kill STAGE STEPS]` is such a run, for tests that end its
process: with `--kill` it does so itself once it has heard of a stage's epoch that ends with so many steps, or more.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from dualprune.cluster.lane import Event
from dualprune.pipeline.config.load import load
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.run import driver
from dualprune.pipeline.run.results import Result
from dualprune.pipeline.run.view import View

SETTLING = 6.0
"""Seconds from what `--kill` waits for to the kill: the log of events is written by then."""


class Threaded:
    """Stands in for cluster.lanes.Lanes: real stages, on a thread of this process."""

    def __init__(self, heard: Callable[[str, dict[str, Any]], None] = lambda stage, row: None) -> None:
        self._heard = heard
        self._waiting: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, task: str, payload: Any) -> None:
        """Queue a stage."""
        self._waiting.put((task, payload))

    def take(self, timeout: float) -> list[Event]:
        """What has happened, after a wait of at most so many seconds."""
        try:
            return [self._events.get(timeout=timeout)]
        except queue.Empty:
            return []

    def save(self) -> list[Event]:
        """Nothing is saved."""
        return []

    def close(self) -> None:
        """Let no other stage begin."""
        self._waiting.put(None)

    def _work(self) -> None:
        while (given := self._waiting.get()) is not None:
            task, payload = given

            def log(row: dict[str, Any], task: str = task) -> None:
                self._events.put(Event("log", task, row))
                self._heard(task, row)

            self._events.put(Event("done", task, driver.work(payload, log, lambda: False)))


def run(file: Path, overrides: list[str], lanes: Threaded, note: Console) -> list[Result]:
    """A run of a configuration."""
    config, problems = load(str(file), overrides)
    store, plan = planning.make(config, problems)
    logs = Path(store.folder.root) / "logs" / config.top.name / time.strftime("%Y%m%d-%H%M%S")
    driver.Lanes = lambda *_: lanes  # type: ignore[misc, assignment]
    return driver.run(config, plan, store, logs, View(note))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kill", nargs=2, metavar=("STAGE", "STEPS"))
    options = parser.parse_args()
    logging.basicConfig(filename=options.file.with_suffix(".log"), level=logging.INFO)

    def heard(stage: str, row: dict[str, Any]) -> None:
        if not options.kill or (stage, row["event"]) != (options.kill[0], "epoch"):
            return
        if row["steps"] >= int(options.kill[1]):
            time.sleep(SETTLING)
            for child in psutil.Process().children(recursive=True):
                child.kill()
            os.kill(os.getpid(), signal.SIGKILL)

    for result in run(options.file, options.overrides, Threaded(heard), Console(width=200)):
        print(result.name, result.state, result.val)


if __name__ == "__main__":
    main()
