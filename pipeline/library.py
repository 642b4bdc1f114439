"""`dualprune.run`: a configuration run from Python, in a script or a notebook."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from dualprune.cluster.errors import ClusterError, ClusterGone, NotStarted
from dualprune.pipeline import output
from dualprune.pipeline.config.load import given, read
from dualprune.pipeline.plan import selection
from dualprune.pipeline.reports.page.ended import written
from dualprune.pipeline.run import driver, here
from dualprune.pipeline.run.results import Result, State
from dualprune.pipeline.run.view import View
from dualprune.pipeline.store.store import Store


@dataclass(frozen=True)
class StageResult:
    """What came of a stage."""

    name: str
    kind: str
    key: str
    state: State
    """`done`, `cached` (it was done before), `failed`, `skipped` or `left out`."""
    metrics: Mapping[str, Any]
    """Of its manifest: accuracies, rate, weights and so on; empty where it is not done."""
    artefact: str | None
    """Path or URL of what it left, for `dualprune.load`."""
    why: str | None
    """Why it is not done."""


def run(
    config: str | os.PathLike[str] | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    start: str | None = None,
    only: str | Collection[str] = (),
    force: str | Collection[str] = (),
    smoke: bool = False,
    keep_going: bool = False,
    wait: bool = False,
    inline: bool = False,
    quiet: bool = False,
) -> dict[str, StageResult]:
    """Run what is not done of a configuration: a file, the name of a recipe, or what a file would say, as a dict.

    `settings` are put in the place of what it says: {"cluster.workers": 1, "stages.dense.train.epochs": 3}. The others
    are options of `dualprune run` (`start` is its --from); `inline` trains in this process, without Ray, on one worker;
    `quiet` shows nothing but failures. Returns the stages by name, in their order, also where some failed: look at
    `state`. Raises ConfigError with all that is wrong with the
    configuration, pipeline.store.locks.Held for one of this name that is running, cluster.errors.ClusterGone and
    NotStarted, and stages.files.outage.StoreError and StoreAway.
    """
    overrides = [f"{place}={json.dumps(value)}" for place, value in (settings or {}).items()]
    draft = given(config, overrides) if isinstance(config, Mapping) else read(os.fspath(config), overrides)
    sound, problems, store, plan = here.prepared(draft, smoke, inline)
    only, again = _names(only), _names(force)
    plan, stale = selection.forced(plan, selection.wanted(plan, start, only) if smoke else again)
    wanted = selection.wanted(plan, start, only, again)
    console = Console(quiet=True) if quiet else output.console()
    with View(console, lines=inline) as view:
        logs = here.logs(sound.top.name, store)
        if any(planned.state != "cached" and planned.node.name in wanted for planned in plan):
            logs.mkdir(parents=True, exist_ok=True)
            view.note(f"logs: {logs}")
        try:
            asked = {"keep_going": keep_going, "wait": wait, "inline": inline}
            rows = driver.run(sound, plan, store, logs, view, wanted, stale, **asked, page=written)
        except (ClusterGone, NotStarted):
            raise
        except ClusterError as error:
            problems.add(("cluster",), str(error))
            problems.stop()
    return {row.name: _result(row, store) for row in rows}


def _names(given: str | Collection[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _result(row: Result, store: Store) -> StageResult:
    manifest = store.artefact(row.key) if row.artefact else None
    metrics = manifest["metrics"] if manifest else {}
    return StageResult(row.name, row.kind, row.key, row.state, metrics, row.artefact, row.why)
