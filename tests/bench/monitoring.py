"""What it takes from training that a run is watched: all that is measured, kept and mirrored, against none of it.

ResNet-18 on one CPU thread, ADMM with Adam. An epoch is EPOCH steps and an update of Z and U. `on` measures its pace,
tells it every two seconds and at its end with every tensor's residuals, mask and histogram, keeps that in an event log,
and mirrors it to W&B's offline files and to TensorBoard. `off` does the same training, with the residuals in all that
the solver goes by, and nothing else. Epochs of both take turns. Processor time is that of this process and of W&B's
own one, which works beside it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from torch import Tensor

from dualprune.pipeline.config.schema import Monitor
from dualprune.pipeline.store.events import Events
from dualprune.pipeline.trackers.table import Given, mirror
from dualprune.stages.artefacts.checkpoint import Progress
from dualprune.stages.constraints import Constraint
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.engine.ranks import join
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.base import Phase
from dualprune.stages.settings.training import Training
from dualprune.stages.solver import admm
from dualprune.stages.solver.seen import Seen
from dualprune.stages.solver.targets import Targets
from dualprune.stages.training.pace import Pace
from tests.bench.checkpoints import Case, build
from tests.bench.common import Row, options, report
from tests.bench.step_overhead import step

CASE = Case("resnet18", (16, 3, 64, 64), 0)
EPOCH = 100
"""Steps: 1,600 samples. Longer epochs take a smaller share for their updates."""
KEY = "0123456789abcdef"
SETTLING = 2.0
"""Seconds after an epoch in which what works beside training comes to its end; nothing else does anything then."""


class Watched:
    """One network and all that its training is told to."""

    def __init__(self, folder: Path) -> None:
        self.engine = build(CASE)
        self.sets: Mapping[str, Constraint] = {
            name: Cardinality(self.engine.parameters[name].numel() // 10) for name in sorted(self.engine.masked)
        }
        self.targets = Targets(dict(self.sets), (), dict.fromkeys(self.sets, ("cardinality",)))
        self.batch = {"picture": torch.randn(CASE.batch), "label": torch.randint(10, CASE.batch[:1])}
        self.progress = Progress()
        self.phase = Phase("admm", 1, Training(epochs=1, lr=1e-3))
        self.store = Folder(str(folder / "store"))
        self.folder = folder
        run: Any = SimpleNamespace(
            progress=self.progress,
            rank=0,
            world=1,
            per_epoch=EPOCH,
            phases=[self.phase],
            spec=SimpleNamespace(batch=CASE.batch[0]),
            engine=self.engine,
            log=lambda row: self._tell(**row),
        )
        self.run = run

    @contextmanager
    def entered(self) -> Iterator[None]:
        """With an event log and trackers."""
        given = Given(Monitor(wandb="offline", tensorboard=True), "bench", self.store, self.folder, lambda line: None)
        with Events(self.store, "bench") as self.events, mirror(given) as mirrored:
            self.events.listeners.append(mirrored.hear)
            self.events.add("begun", stages={"half": {"key": KEY, "kind": "prune"}})
            self._tell("training", steps=0, rows=[])
            yield

    def on(self) -> None:
        """An epoch that is watched."""
        pace = Pace(self.run)
        pace.enter()
        for batch in pace.batches(iter([self.batch] * EPOCH)):
            self._step(batch)
            pace.tell(self.phase)
        speed = pace.speed()
        seen = Seen()
        found = admm.update(self.engine, self.targets, seen.look)
        facts = {"loss": 1.0, "lr": 1e-3, "rho": 1e-3, "val_accuracy": 50.0}
        totals = {"residual": found.residual.total, "change": found.residual.change}
        self._tell("epoch", epoch=1, steps=self.progress.steps, phase="admm", **facts, **totals, **seen.row(), **speed)

    def off(self) -> None:
        """One that is not."""
        for _ in range(EPOCH):
            self._step(self.batch)
        for name, constraint in self.sets.items():
            w, u = self.engine.get(name), self.engine.get(name, "dual")
            z = constraint.project(w + u)
            before = self.engine.get(name, "target") + u
            u = u + w - z
            self.engine.set(name, z - u, "target")
            self.engine.set(name, u, "dual")
            for one in (w - z, w, z - before):
                float(one.double().square().sum())

    def _step(self, batch: Mapping[str, Tensor]) -> None:
        step(self.engine, batch["picture"], batch["label"])
        self.progress.steps += 1
        self.progress.step = self.progress.step % EPOCH + 1

    def _tell(self, event: str, **facts: Any) -> None:
        self.events.add(event, "half", key=KEY, **facts)


def processor() -> tuple[float, float]:
    """Seconds of this process so far, and of those that it has started."""
    others = 0.0
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        others += times.user + times.system
    return time.process_time(), others


def measured(watched: Watched, rounds: int) -> Row:
    """Epochs by turns."""
    clock: dict[str, list[float]] = {"on": [], "off": []}
    own: dict[str, list[float]] = {"on": [], "off": []}
    _, others = processor()
    for number in range(rounds + 1):
        for way in ("on", "off") if number % 2 else ("off", "on"):
            began, (before, _) = time.perf_counter(), processor()
            getattr(watched, way)()
            passed = time.perf_counter() - began
            time.sleep(SETTLING)
            if number:  # the first round warms up
                clock[way].append(passed)
                own[way].append(processor()[0] - before)
        if not number:
            _, others = processor()
    beside = (processor()[1] - others) / rounds
    pairs = list(zip(own["on"], own["off"], strict=True))
    return {
        "epoch_s": statistics.median(own["off"]),
        "more_s": statistics.median(on - off for on, off in pairs),
        "wandb_s": beside,
        "percent": 100 * statistics.median((on + beside - off) / off for on, off in pairs),
        "clock_percent": 100 * (statistics.median(a / b for a, b in zip(clock["on"], clock["off"], strict=True)) - 1),
    }


def main() -> None:
    """Measure and report."""
    asked = options(__doc__.splitlines()[0])
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    join(threads=1)
    with tempfile.TemporaryDirectory(prefix="dualprune-monitoring-") as name:
        watched = Watched(Path(name))
        with watched.entered():
            row = measured(watched, 2 if asked.quick else 8)
        watched.engine.close()
    report(f"What watching takes from an epoch of {EPOCH} steps", [row], asked)


if __name__ == "__main__":
    main()
