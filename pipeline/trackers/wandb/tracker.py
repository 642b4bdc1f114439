"""Weights & Biases: one run a stage, and one for the whole, all of a pipeline's in one group."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualprune.cluster.spared import spared
from dualprune.cluster.surroundings import writable
from dualprune.pipeline.trackers.base import End, Row, Stage, Summary
from dualprune.pipeline.trackers.wandb import folders, networks
from dualprune.pipeline.trackers.wandb.mode import Choice, line
from dualprune.stages.artefacts import manifest
from dualprune.stages.files.folder import Folder

PROJECT = "dualprune"
"""Where neither the configuration nor wandb's own settings name one."""
INITIAL = 10.0
"""Seconds that W&B has to take a run, before that and all others are written to files: half of what trackers have at
the end of a run that is over by then."""
FINAL = 300.0
"""Seconds that it has to take what is left of one, on a thread of its own."""
ENDING = 2.0
"""Seconds that wandb's own process has to end, when nothing is left to be done."""
LONGEST = 100
"""Characters of the pipeline's name in the identity of a run, of which W&B takes 128."""

_log = logging.getLogger(__name__)


@dataclass
class _Open:
    """One run of W&B's."""

    run: Any
    identity: str
    folder: Path
    """Where it is kept on disk."""
    last: int
    """The last step that it has."""


class WandB:
    """Mirrors the stages of the pipeline `run` to W&B; files lie below `folder`, which is the same for all of its
    drivers."""

    def __init__(
        self,
        choice: Choice,
        project: str | None,
        run: str,
        store: Folder,
        folder: Path,
        tell: Callable[[str], None],
        upload: bool = False,
    ) -> None:
        """`tell` hears what a person should know at once."""
        self.mode, self.project = choice.mode, project or choice.project or PROJECT
        self.group, self.store, self.folder, self.upload = run, store, folder, upload
        self._tell = tell
        self._open: dict[str, _Open] = {}
        """By the stage's key."""
        self._finishing: list[threading.Thread] = []
        self._unsent = set[Path]()
        """Folders of online runs that are not wholly with W&B."""
        self._used = False

    def begin(self, stage: Stage, before: Sequence[Row]) -> None:
        """Open the stage's run, and tell it what it lacks of what was before."""
        if stage.key not in self._open:
            opened = self._opened(stage.key, stage.name, stage.kind, stage.config)
            self._open[stage.key] = opened
            _declare(opened.run, stage)
        for row in before:
            self.row(stage, row)

    def row(self, stage: Stage, row: Row) -> None:
        """Add a row, unless the run has it, or one of a later step."""
        one = self._open.get(stage.key)
        if one is None or row.steps <= one.last:
            return
        import wandb

        histograms = {
            name: wandb.Histogram(np_histogram=(list(found.counts), found.edges()))
            for name, found in row.histograms.items()
        }
        phase = {} if row.phase is None else {"phase": row.phase}
        one.run.log({"steps": row.steps, **phase, **row.numbers, **histograms}, step=row.steps)
        one.last = row.steps

    def end(self, stage: Stage, end: End) -> None:
        """Close the stage's run, on a thread of its own."""
        one = self._open.pop(stage.key, None)
        if one is not None:
            self._finish(one, end.failed is not None, lambda: self._account(one, stage, end))

    def summarize(self, summary: Summary) -> None:
        """A run with the table of all stages, and the report."""
        one = self._opened(folders.SUMMARY, self.group, "summary", summary.config)
        self._finish(one, summary.how != "done", lambda: _summarized(one, summary))

    def close(self, patience: float) -> None:
        """Finish what is open: as failed, since nobody said that it came to a good end. What lasts is left behind."""
        limit = time.monotonic() + patience
        while self._open:
            self._finish(self._open.popitem()[1], failed=True)
        for thread in self._finishing:
            thread.join(max(0.0, limit - time.monotonic()))
        if self._used:
            if any(thread.is_alive() for thread in self._finishing):
                _hush()
            # Otherwise at this process's exit, where it waits, and complains if its own process was ended before.
            ending = threading.Thread(target=_tear_down, name="wandb-teardown", daemon=True)
            ending.start()
            ending.join(min(ENDING, max(0.1, limit - time.monotonic())))

    def left(self) -> list[str]:
        """How what W&B did not take is sent to it."""
        count, commands = folders.sending(self.folder, set(self._unsent))
        of = "1 run is" if count == 1 else f"{count} runs are"
        told = [f"W&B: {of} on disk; to send: {one}" for one in commands[:1]]
        return [*told, *(f"W&B: and {one}" for one in commands[1:])]

    def _opened(self, key: str, name: str, kind: str, config: Mapping[str, Any]) -> _Open:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._used = True
        identity = f"{self.group[:LONGEST]}-{key}"
        try:
            return self._init(identity, identity, name, kind, config)
        except Exception as error:
            if self.mode != "online":
                raise
            _log.warning("W&B took no run", exc_info=True)
            self._go_offline(f"it took no run: {line(error)}")
            # wandb's process still holds the first one under its identity.
            return self._init(f"{identity}{folders.INSTEAD}", identity, name, kind, config)

    def _init(self, given: str, identity: str, name: str, kind: str, config: Mapping[str, Any]) -> _Open:
        import wandb
        from wandb.env import get_cache_dir

        if not writable(get_cache_dir()):  # where its process keeps a log, which else goes to the terminal
            os.environ["WANDB_CACHE_DIR"] = str(self.folder / "wandb" / "cache")
        # Where what is still to be uploaded lies: beside the runs that it is of.
        os.environ.setdefault("WANDB_DATA_DIR", str(self.folder / "wandb" / "data"))
        run = wandb.init(
            project=self.project,
            group=self.group,
            name=name,
            id=given,
            job_type=kind,
            config=dict(config),
            dir=str(self.folder),
            mode=self.mode,
            resume="allow" if self.mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,  # the command line is in it, where an address with a password may be
                init_timeout=INITIAL,
                finish_timeout=FINAL,
                finish_timeout_raises=True,
                **_flushed(),
            ),
        )
        place = Path(run.dir).parent
        if self.mode == "online":
            self._unsent.add(place)
        return _Open(run, identity, place, run.step - 1)

    def _go_offline(self, why: str) -> None:
        if self.mode == "online":
            self.mode = "offline"
            self._tell(f"W&B: offline from here on, in {self.folder}, because {why}")

    def _finish(self, one: _Open, failed: bool, account: Callable[[], None] = lambda: None) -> None:
        """Finish a run after what there is to say last. All that may ask W&B something is done there."""
        target = spared()(lambda: self._finished(one, failed, account))
        thread = threading.Thread(target=target, name=f"wandb-{one.identity}", daemon=True)
        self._finishing.append(thread)
        thread.start()

    def _finished(self, one: _Open, failed: bool, account: Callable[[], None]) -> None:
        try:
            account()
        except Exception:  # noqa: BLE001 - whatever W&B raises, what was told before is kept
            _log.warning("W&B: not all that %s came to can be told", one.identity, exc_info=True)
        try:
            one.run.finish(exit_code=int(failed))
        except Exception as error:  # noqa: BLE001
            _log.warning("W&B: %s was not finished", one.identity, exc_info=True)
            self._go_offline(f"it does not take what is left of {one.identity}: {line(error)}")
            return
        self._unsent.discard(one.folder)
        folders.remove_older(self.folder, one.identity, one.folder)

    def _account(self, one: _Open, stage: Stage, end: End) -> None:
        """What a stage came to: its metrics, its layers, its network, and those that it was made from."""
        reason = {} if end.failed is None else {"failed": end.failed}
        one.run.summary.update({**{f"final/{name}": value for name, value in end.metrics.items()}, **reason})
        if end.manifest is not None:
            one.run.log({"layers": networks.layers(end.manifest)}, step=max(one.last, 0))
        for parent in stage.parents:
            self._network(one, parent.name, parent.key, manifest.read(self.store / parent.key), used=True)
        if end.manifest is not None:
            self._network(one, stage.name, stage.key, end.manifest)

    def _network(self, one: _Open, stage: str, key: str, found: Mapping[str, Any] | None, used: bool = False) -> None:
        """Log a stage's network, or say that it was used: W&B has no way offline to name one that it has."""
        if found is None:
            return
        made = networks.network(networks.named(self.group, stage), self.store / key, found, self.upload)
        # As `use_artifact` does with one that is not there yet, but offline too: it is made by no run.
        one.run._log_artifact(made, aliases=[key], is_user_created=used, use_after_commit=used)


def _flushed() -> dict[str, float]:
    """Have wandb write what it has to its files at once, so that a kill costs no more than a second's; 0.31 can."""
    import wandb

    name = "x_transaction_log_flush_interval"
    return {name: 1.0} if name in wandb.Settings.model_fields else {}


def _summarized(one: _Open, summary: Summary) -> None:
    import wandb

    one.run.summary.update({"how": summary.how})
    columns = list(summary.stages[0]) if summary.stages else []
    table = wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in summary.stages])
    page = {} if summary.report is None else {"report": wandb.Html(str(summary.report), inject=False)}
    one.run.log({"stages": table, **page}, step=one.last + 1)


def _declare(run: Any, stage: Stage) -> None:
    """How W&B draws series, and what it keeps of them: the last values, and the best of those that have a best."""
    best = {"loss": "min", "step_loss": "min"}
    best |= {f"val_{name}": "max" if one.higher else "min" for name, one in stage.measures.metrics.items()}
    run.define_metric("steps", hidden=True)
    run.define_metric("*", step_metric="steps")
    for name, which in best.items():
        run.define_metric(name, step_metric="steps", summary=f"{which},last")


def _hush() -> None:
    """Threads of runs that are left behind end with errors: they are logged, not shown."""
    before = threading.excepthook

    def hook(given: threading.ExceptHookArgs) -> None:
        if given.exc_type.__module__.startswith("wandb."):
            _log.info("W&B: a thread ended with %s: %s", given.exc_type.__name__, given.exc_value)
        else:
            before(given)

    threading.excepthook = hook


def _tear_down() -> None:
    import wandb

    try:
        wandb.teardown()
    except (Exception, SystemExit):  # noqa: BLE001 - it exits with its own process's code
        _log.warning("W&B's process did not end well", exc_info=True)
