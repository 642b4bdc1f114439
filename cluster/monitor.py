"""Weights & Biases: one run a stage, all of a pipeline's in one group. wandb's one door.

It only mirrors what the run's own files hold, from a thread of its own: when W&B is slow or away,
training does not wait and does not fail. Without an API key the runs are offline files.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

Mode = Literal["auto", "online", "offline", "disabled"]

_log = logging.getLogger(__name__)


class Monitor:
    """Mirrors tasks to W&B. No method raises for W&B's sake; problems go to the log."""

    def __init__(self, mode: Mode, project: str, group: str, folder: Path) -> None:
        self.mode, self.project, self.group, self.folder = mode, project, group, folder
        self._runs: dict[str, Any] = {}
        self._started = False
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        if mode != "disabled":
            self._thread.start()

    def start(self, task: str, identity: str, kind: str, config: dict[str, Any]) -> None:
        """Open the run of a task; the same `identity` goes on with the same run after a restart."""
        self._put("_start", task, identity, kind, config)

    def log(self, task: str, row: dict[str, Any], step: int) -> None:
        """Add a row of numbers at an optimizer step."""
        self._put("_row", task, row, step)

    def finish(self, task: str, summary: dict[str, Any], failed: bool) -> None:
        """Close the run of a task."""
        self._put("_finish", task, summary, failed)

    def close(self, timeout: float = 20.0) -> None:
        """Finish what is queued, and any run that is still open, for up to `timeout` seconds."""
        if self.mode == "disabled":
            return
        self._calls.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.warning("W&B did not finish within %s s and was left behind", timeout)

    def _put(self, method: str, *args: Any) -> None:
        if self.mode != "disabled":
            self._calls.put((method, args))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            self._try(call[0], *call[1])
        for task in list(self._runs):
            self._try("_finish", task, {}, True)
        if self._started:
            self._try("_teardown")

    def _try(self, method: str, *args: Any) -> None:
        try:
            getattr(self, method)(*args)
        except Exception:  # noqa: BLE001 - whatever W&B raises, training goes on
            _log.warning("W&B: %s failed; training goes on", method.strip("_"), exc_info=True)

    def _start(self, task: str, identity: str, kind: str, config: dict[str, Any]) -> None:
        import wandb

        mode = _available() if self.mode == "auto" else self.mode
        self.folder.mkdir(parents=True, exist_ok=True)
        self._started = True
        self._runs[task] = wandb.init(
            project=self.project,
            group=self.group,
            name=task,
            id=identity,
            job_type=kind,
            config=config,
            dir=str(self.folder),
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )

    def _row(self, task: str, row: dict[str, Any], step: int) -> None:
        self._runs[task].log(row, step=step)

    def _finish(self, task: str, summary: dict[str, Any], failed: bool) -> None:
        run = self._runs.pop(task)
        run.summary.update(summary)
        run.finish(exit_code=int(failed))

    def _teardown(self) -> None:
        import wandb

        # Otherwise at this process's exit, where it complains on the terminal if its own process was ended before.
        wandb.teardown()


def _available() -> Literal["online", "offline"]:
    """`online` where there is a key, in the environment or left by `wandb login`, and nothing says otherwise."""
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
        return "offline"
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        logged_in = netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        logged_in = False
    return "online" if os.environ.get("WANDB_API_KEY") or logged_in else "offline"
