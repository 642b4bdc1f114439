"""What a checkpoint takes from training: written in the background, and with training waiting for it.

One rank on one CPU thread, ADMM with Adam (six tensors of state to a weight), on this machine's disk. In each round the
same number of steps is timed without a checkpoint, after one that is written meanwhile, and after one that
is waited for. The share is that of a minute, for one checkpoint a minute. By the clock: for a quiet machine.

Also what it costs two ranks to ask each other whether to stop (stages.training.asking: about twice a second).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from dualprune.stages.artefacts.checkpoint import Checkpoints, Progress
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.files.folder import Folder
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Optimizer as OptimizerSettings
from dualprune.stages.solver import admm
from dualprune.stages.solver.targets import Targets
from dualprune.stages.training.asking import EVERY, Asking
from tests.bench.common import Row, options, report
from tests.bench.step_overhead import step
from tests.ranks import on_ranks

CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A network, its batch, and how many steps a round has: longer than a checkpoint takes to write."""

    model: str
    batch: tuple[int, int, int, int]
    steps: int


CASES = (Case("lenet5", (64, 1, 28, 28), 60), Case("resnet18", (16, 3, 64, 64), 30))


def build(case: Case) -> Engine:
    """An engine in the middle of ADMM."""
    torch.manual_seed(0)
    model = MODELS[case.model](CLASSES)
    names = {name for name, p in model.named_parameters() if p.ndim > 1}
    engine = Engine(model, names, set(), OptimizerSettings(), "fp32", EngineSettings())
    sets = {name: Cardinality(engine.parameters[name].numel() // 10) for name in sorted(engine.masked)}
    admm.start(engine, Targets(sets, (), dict.fromkeys(sets, ("cardinality",))), {})
    for name in sorted(engine.masked):
        engine.set(name, torch.ones(engine.shape(name)), "mask")
    engine.module.train()
    return engine


def measure(case: Case, rounds: int, folder: Path) -> Row:
    """One row: a network's checkpoints, both ways."""
    engine, checkpoints, progress = build(case), Checkpoints(Folder(str(folder / case.model)), 0, 1), Progress()
    pictures, labels = torch.randn(case.batch), torch.randint(CLASSES, case.batch[:1])

    def save() -> None:
        progress.steps += 1
        checkpoints.save(engine, progress)

    def waited() -> None:
        save()
        checkpoints.wait()

    before: dict[str, Callable[[], None]] = {"none": lambda: None, "background": save, "blocking": waited}
    times: dict[str, list[float]] = {way: [] for way in before}
    for number in range(rounds + 1):
        ways = list(before)
        for way in ways[number % 3 :] + ways[: number % 3]:
            began = time.perf_counter()
            before[way]()
            for _ in range(case.steps):
                step(engine, pictures, labels)
            if number:  # the first round warms up
                times[way].append(time.perf_counter() - began)
            checkpoints.wait()
    engine.close()
    size = sum(file.stat().st_size for file in (folder / case.model).rglob("step-*/*")) / 2
    row: Row = {"model": case.model, "megabytes": size / 1e6, "round_s": statistics.median(times["none"])}
    for way in ("background", "blocking"):
        taken = statistics.median(a - b for a, b in zip(times[way], times["none"], strict=True))
        row |= {f"{way}_ms": taken * 1000, f"{way}_percent": 100 * taken / 60}
    return row


def asking(times: int) -> list[float]:
    """Milliseconds of each of so many times that this rank and the others ask each other whether to stop."""
    engine = SimpleNamespace(engine=SimpleNamespace(device=torch.device("cpu")))
    progress, world = SimpleNamespace(steps=0), dist.get_world_size()
    run: Any = SimpleNamespace(world=world, engine=engine, stopping=lambda: False, progress=progress)
    asking = Asking(run)
    found = []
    for _ in range(times):
        began = time.perf_counter()
        asking.now()
        found.append((time.perf_counter() - began) * 1000)
    return found


def main() -> None:
    """Measure all cases and report them."""
    asked = options(__doc__.splitlines()[0])
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    join(threads=1)
    with tempfile.TemporaryDirectory(prefix="dualprune-checkpoints-") as name:
        rows = [measure(case, 3 if asked.quick else 15, Path(name)) for case in CASES]
    once = statistics.median(on_ranks(2, asking, 400 if asked.quick else 4000)[0])
    for row, case in zip(rows, CASES, strict=True):
        row["asking_percent"] = 100 * once / max(1000 * EVERY, 1000 * row["round_s"] / case.steps)
    report("What checkpoints take from training, and asking whether to stop", rows, asked)
    print(f"asking the other rank: {once:.3f} ms, every {EVERY} seconds")


if __name__ == "__main__":
    main()
