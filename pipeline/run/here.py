"""A run that this machine starts: planned, with what is wrong with it, and where its logs go."""

from __future__ import annotations

import time
from pathlib import Path

from dualprune.pipeline.config.load import Config, Draft
from dualprune.pipeline.config.problems import Problems
from dualprune.pipeline.config.schema import Top
from dualprune.pipeline.config.smoke import smoke
from dualprune.pipeline.plan import inputs
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.store.store import Store


def prepared(draft: Draft, small: bool = False, inline: bool = False) -> tuple[Config, Problems, Store, list[Planned]]:
    """What is configured, planned and there; `small` makes it a run of a few steps, `inline` one of this process alone.

    Raises ConfigError.
    """
    problems = draft.problems
    if problems.found:
        inputs.around(draft)
        if draft.top is not None and not inline:
            _check_cpus(draft.top, problems)
    config = draft.sound()
    if small:
        config = smoke(config)
    if not inline:
        _check_cpus(config.top, problems)
    store, plan = planning.make(config, problems)
    return config, problems, store, plan


def logs(name: str, store: Store) -> Path:
    """A new folder for the logs of a run of this name: in the store where that is local, beside us otherwise."""
    base = Path(store.folder.root) / "logs" if store.folder.local else Path.cwd() / "dualprune-logs"
    return base / name / time.strftime("%Y%m%d-%H%M%S")


def _check_cpus(top: Top, problems: Problems) -> None:
    """Refuse what a local Ray can never hold; what another cluster holds, it knows itself."""
    from dualprune.cluster.session import cpus

    settings = top.cluster
    workers = settings.workers.min
    wanted, there = workers * settings.cpus, cpus()
    if settings.address is None and wanted > there:
        text = f"{workers} workers of {settings.cpus:g} CPUs need {wanted:g}, but this machine has {there}"
        problems.add(("cluster", "workers"), f"{text}; use fewer workers, or give `cluster.address`")
