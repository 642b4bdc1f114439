"""Many lanes at once: whether none loses a task, and what each costs in memory.

    python -m tests.bench.lanes [--quick] [--json PATH]

A whole run by the driver, on a Ray of this machine's own whose CPUs are cut into sixteen parts, so that sixteen
lanes of one worker find room. What opens lanes, gives them stages, hears them and closes them is what a run has, the
mailbox's actor and what each rank does around its work among it. In place of Ray Train's processes each lane has a
thread, and its work trains nothing: it waits for a moment and commits a small artefact. Now and then a lane dies in it,
and comes up again, as Ray Train's do.

Then one real lane of one worker that does nothing: what its processes hold. `own` is what no other process shares.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch.distributed as dist
from rich.console import Console

from dualprune.cluster import group
from dualprune.cluster.capacity import Shape
from dualprune.cluster.lanes import Lanes
from dualprune.cluster.serve import serve
from dualprune.cluster.session import cpus
from dualprune.pipeline.config.load import load
from dualprune.pipeline.run import driver
from dualprune.pipeline.run.view import View
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.settings.training import StageSpec
from tests.bench.common import Row, options, report
from tests.bench.scale import EPOCH, commit, configuration, planned

AT_ONCE, STAGES, QUICK = 16, 500, 190
MOMENT = 0.5
"""Seconds that a stage takes."""
DIES = 25
"""Of so many beginnings of a stage one ends with its lane."""


class Died(BaseException):
    """A rank is gone, without a word."""


class Ranks:
    """What stands in for the worker groups of lanes, and what it saw."""

    def __init__(self) -> None:
        self.lanes: set[str] = set()
        self.begun = itertools.count(1)
        self.committed: list[str] = []
        self.deaths: list[str] = []
        self.busy, self.most = 0, 0
        self._guard = threading.Lock()

    def group(self, name: str, size: int, shape: Shape, config: dict[str, Any], local: bool) -> None:
        """In place of `cluster.group.run`: the one rank of a lane, which is started again when it dies."""
        self.lanes.add(name)
        while True:
            try:
                serve({**config, "lane": name, "logs": None})
            except Died:
                continue
            return

    def work(self, payload: dict[str, Any], log: Any, stopping: Any) -> dict[str, Any]:
        """In place of a stage's work."""
        job, number = StageJob.model_validate(payload), next(self.begun)
        with self._working():
            log({"event": "training", "steps": 0})
            time.sleep(MOMENT)
            log(EPOCH)
            if number % DIES == 0:
                self.deaths.append(job.name)
                raise Died
            self.committed.append(job.key)
            return commit(job)

    @contextmanager
    def _working(self) -> Iterator[None]:
        with self._guard:
            self.busy += 1
            self.most = max(self.most, self.busy)
        try:
            yield
        finally:
            with self._guard:
                self.busy -= 1


def many(folder: Path, stages: int) -> Row:
    """A run of so many stages on AT_ONCE lanes."""
    path = configuration(folder, stages)
    path.write_text(f"cluster: {{cpus: {cpus() / AT_ONCE}}}\n" + path.read_text())
    config, problems = load(str(path))
    store, plan, wanted = planned(config, problems)
    ranks = Ranks()
    if not dist.is_initialized():
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    began, processor = time.perf_counter(), time.process_time()
    with (
        patch.object(group, "run", ranks.group),
        patch.object(driver, "_load_work", lambda: ranks.work),
        (folder / "terminal").open("w") as terminal,
    ):
        rows = driver.run(config, plan, store, folder / "logs", View(Console(file=terminal)), wanted)
    trained = sorted(one.node.key for one in plan if isinstance(one.node.spec, StageSpec))
    return {
        "stages": len(rows),
        "done": sum(row.state == "done" for row in rows),
        "lanes": len(ranks.lanes),
        "at once": ranks.most,
        "lanes that died": len(ranks.deaths),
        "trained": len(trained),
        "each once": sorted(ranks.committed) == trained,
        "seconds": time.perf_counter() - began,
        "processor seconds": time.process_time() - processor,
    }


def nothing(payload: Any, log: Any, stopping: Any) -> str:
    """A lane's work."""
    return "done"


def one() -> list[Row]:
    """Memory of each kind of process that a lane of one worker, or Ray for any number of them, has."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    lanes = Lanes(lambda: nothing, Shape(1, 1, 1, 0), None, [Path(__file__).parents[2] / ".src" / "dualprune"])
    try:
        lanes.submit("task", None)
        while not any(event.kind == "done" for event in lanes.take(1.0)):
            pass
        return [_held(process) for process in psutil.Process().children(recursive=True) if process.pid not in before]
    finally:
        lanes.close()


def _held(process: psutil.Process) -> Row:
    held, words = process.memory_full_info(), process.cmdline()
    name = process.name() if not words else next((word for word in words if word.endswith(".py")), words[0])
    return {
        "process": os.path.basename(name.split()[0]),
        "resident (MB)": held.rss / 1e6,
        "its share (MB)": held.pss / 1e6,
        "own (MB)": held.uss / 1e6,
    }


def main() -> None:
    """Measure both and report them."""
    asked = options(__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory(prefix="dualprune-lanes-") as folder:
        row = many(Path(folder), QUICK if asked.quick else STAGES)
    report(f"{row['stages']} stages of {MOMENT} s on {AT_ONCE} lanes of one worker that trains nothing", [row], asked)
    report("What one real lane of one worker holds", one(), asked.also("lane"))


if __name__ == "__main__":
    main()
