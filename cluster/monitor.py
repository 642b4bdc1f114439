"""Weights & Biases: one run a stage, all of a pipeline's in one group. wandb's one door.

It only mirrors what the run's own files hold, from a thread of its own: when W&B is slow or away,
training does not wait and does not fail. Whether it is online, wandb itself is asked: its variables, its
settings files, and the keys that it finds. Without a key the runs are offline files.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dualprune.cluster.names import lacking
from dualprune.cluster.spared import spared
from dualprune.cluster.surroundings import give_home, writable

Mode = Literal["online", "offline", "disabled"]
PROJECT = "dualprune"
"""Where neither the configuration nor wandb's own settings name one."""
OFF = ("1", "true", "yes", "on")
"""What WANDB_DISABLED reads where it means it. wandb knows it no more, but those who set it want nothing sent."""
USED = (
    ("wandb", "Settings.read_system_settings"),
    ("wandb", "termsetup"),
    ("wandb.env", "get_cache_dir"),
    ("wandb.sdk.wandb_setup", "singleton"),
)
"""Names of wandb's that are used here beyond its documentation. Without them it is not used, and a person is told."""

_log = logging.getLogger(__name__)


class Monitor:
    """Mirrors tasks to W&B. No method raises for W&B's sake; problems go to the log."""

    def __init__(
        self,
        wanted: Mode | Literal["auto"],
        project: str | None,
        group: str,
        folder: Path,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`tell` hears what a person should know; it is called from a thread of the monitor's."""
        chosen = choose(wanted)
        self._tell = tell
        self.mode, self.why = chosen.mode, chosen.why
        self.project, self.group, self.folder = project or chosen.project or PROJECT, group, folder
        self._runs: dict[str, Any] = {}
        self._started = False
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=spared()(self._work), name="wandb", daemon=True)
        if self.mode != "disabled":
            self._thread.start()

    def __str__(self) -> str:
        """Which mode it is, and why."""
        return f"W&B: {self.mode} {self.why}"

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
        self.folder.mkdir(parents=True, exist_ok=True)
        self._started = True
        try:
            self._runs[task] = self._opened(task, identity, kind, config)
        except Exception as error:
            if self.mode != "online":
                raise
            self.mode = "offline"
            _log.warning("W&B took no run", exc_info=True)
            self._tell(f"W&B: offline from here on, in {self.folder}, because it took no run: {_line(error)}")
            # wandb's process still holds the first one under its identity.
            self._runs[task] = self._opened(task, f"{identity}-offline", kind, config)

    def _opened(self, task: str, identity: str, kind: str, config: dict[str, Any]) -> Any:
        import wandb
        from wandb.env import get_cache_dir

        if not writable(get_cache_dir()):  # where its process keeps a log, which else goes to the terminal
            os.environ["WANDB_CACHE_DIR"] = str(self.folder / "cache")
        return wandb.init(
            project=self.project,
            group=self.group,
            name=task,
            id=identity,
            job_type=kind,
            config=config,
            dir=str(self.folder),
            mode=self.mode,
            resume="allow" if self.mode == "online" else None,
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


@dataclass(frozen=True)
class Choice:
    """How runs are mirrored, where or why (the end of a sentence), and the project that wandb's own settings name."""

    mode: Mode
    why: str
    project: str | None = None


def choose(wanted: Mode | Literal["auto"]) -> Choice:
    """What is wanted, or for `auto` what wandb itself would do here; online only with a key."""
    # One decision after the other, each of which ends it: their order is what there is to read.
    if wanted == "disabled":
        return Choice("disabled", "as monitor.wandb says")
    if wanted == "auto" and os.environ.get("WANDB_DISABLED", "").lower() in OFF:
        return Choice("disabled", "as WANDB_DISABLED says")
    import wandb

    problem = lacking("wandb", wandb.__version__, USED)
    if problem is not None:
        return Choice("disabled", f"as {problem}")
    from wandb.sdk.wandb_setup import singleton

    give_home()
    wandb.termsetup(wandb.Settings(silent=True), _log)
    try:
        # Not `wandb.setup`, which starts a process, and names it in the environment that Ray's would get.
        settings = singleton().settings
    except Exception as error:  # noqa: BLE001 - its settings may be anything
        return Choice("disabled", f"as wandb does not take its own settings: {_line(error)}")
    settings.silent = True
    wandb.termsetup(settings, _log)  # once more: reading them has undone it
    mode, why = (settings.mode, _source(settings)) if wanted == "auto" else (wanted, "as monitor.wandb says")
    if mode == "disabled":
        return Choice("disabled", why)
    if mode in ("offline", "dryrun"):
        return Choice("offline", why, settings.project)
    settings.mode = "online"  # else it would not look for a key where its own settings say offline
    try:
        if wandb.login(prompt=False, verify=False):
            return Choice("online", f"at {settings.base_url}, for which wandb has a key", settings.project)
        why = f"as wandb has no key for {settings.base_url}: `wandb login` or WANDB_API_KEY gives it one"
    except Exception as error:  # noqa: BLE001 - of a key that it does not take
        why = f"as wandb takes no key for {settings.base_url}: {_line(error)}"
    though = "though monitor.wandb says online, " if wanted == "online" else ""
    return Choice("offline", though + why, settings.project)


def _source(settings: Any) -> str:
    """Where wandb has its mode from: its variable, or its files of settings."""
    if os.environ.get("WANDB_MODE"):
        return "as WANDB_MODE says"
    return f"as {' and '.join(str(path) for path in settings.read_system_settings().sources)} says"


def _line(error: Exception) -> str:
    """An error in a line, without pydantic's reference to its own documentation."""
    return " ".join(str(error).partition("For further information")[0].split()) or type(error).__name__
