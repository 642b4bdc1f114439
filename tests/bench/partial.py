"""Partial against full regularisation: time of an epoch, how good the network is, and how many of its neurons die.

The diabetes table of scikit-learn, its digits, and MNIST, each with an MLP trained from scratch: plainly, and under a
group lasso (`kind: partial`) on all of each layer's hidden neurons (`share: 1`) and on three, two and one quarter of
them. Of a few strengths two are shown, both chosen by the mean on validation over the seeds: the best (of equal ones
the strongest), and `sparse`, the strongest that loses little against plain training.

Milliseconds are of processor time, one thread, medians over all epochs of all strengths but each stage's first, in
which caches fill; the ways take turns. DUALPRUNE_DATA names the folder of MNIST's files; without it that is left out.
`--quick`: one seed, and MNIST's first 6,000.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from torch import nn

from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.make.sources import resolved
from dualprune.stages.engine.ranks import join
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.data import Data
from dualprune.stages.training.stage import run_stage
from tests.bench.common import Row, options, report

SHARES = (None, 1.0, 0.75, 0.5, 0.25)
"""None: without regularisation."""


@dataclass(frozen=True)
class Task:
    """A network, what it is trained on, and how long."""

    name: str
    metric: str
    margin: float
    """Of validation that the sparse one may lose."""
    data: dict[str, Any]
    strengths: tuple[float, ...]
    seeds: tuple[int, ...]
    spec: dict[str, Any]


@dataclass
class Found:
    """What came of one way to train."""

    val: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)


def mlp(*sizes: int) -> nn.Module:
    """Linear layers with ReLU between, for pictures or numbers: [n, ...] to [n, classes]."""
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


MODELS["mlp_digits"] = lambda classes: mlp(64, 128, 64, classes)
MODELS["mlp_mnist"] = lambda classes: mlp(784, 300, 100, classes)
MODELS["mlp_table"] = lambda outputs: mlp(10, 64, 64, outputs)
TABLE = {"model": {"name": "mlp_table", "classes": 1}, "objective": "regress", "batch": 32}
OWN = {"source": "dualprune.configs.diabetes:samples", "cut": {"val": 0.2, "test": 0.2}}


def tasks(quick: bool) -> list[Task]:
    """What is measured."""
    seeds = (0,) if quick else (0, 1, 2)
    strengths, root = (0.1, 0.3, 1.0, 3.0), os.environ.get("DUALPRUNE_DATA")
    digits = {"source": "digits", "mean": [0.3], "std": [0.38]}
    layers = {"model": {"name": "mlp_digits"}}
    found = [
        Task("diabetes", "r2", 0.02, OWN, strengths, seeds, TABLE | _epochs(40, 0.003)),
        Task("digits", "accuracy", 0.5, digits, strengths, seeds, layers | _epochs(20, 0.002)),
    ]
    if root:
        mnist: dict[str, Any] = {"source": "mnist", "folder": f"{root}/mnist", "mean": [0.1307], "std": [0.3081]}
        mnist |= {"limit": 6000} if quick else {}
        spec = {"model": {"name": "mlp_mnist"}, "batch": 128} | _epochs(5, 0.001)
        found.append(Task("MNIST", "accuracy", 0.5, mnist, (0.01, 0.03, 0.1, 0.3), (0,), spec))
    return found


def _epochs(count: int, lr: float) -> dict[str, Any]:
    return {"train": {"epochs": count, "lr": lr}}


def measured(task: Task, store: Path) -> list[Row]:
    """The rows of a task: one for each share."""
    shards, known = str(store / f"{task.name}-shards"), Data.model_validate(task.data)
    resolved(known)[1](shards)
    found: dict[tuple[float | None, float], Found] = {}
    times: dict[float | None, list[float]] = {share: [] for share in SHARES}
    for strength, seed, share in product(task.strengths, task.seeds, SHARES):
        if share is None and strength != task.strengths[0]:
            continue
        key = f"{task.name}-{share}-{strength}-{seed}"
        job = _job(task, key, store, shards, share, strength, seed)
        manifest, epochs = timed(job)
        times[share] += epochs
        one = found.setdefault((share, strength), Found())
        one.val.append(manifest["metrics"][f"val_{task.metric}"])
        one.test.append(manifest["metrics"][f"test_{task.metric}"])
        one.dead.append(sum(dead for _, _, dead in manifest.get("neurons", {}).values()))
    return [_row(task, share, found, times[share]) for share in SHARES]


def _job(task: Task, key: str, store: Path, shards: str, share: float | None, strength: float, seed: int) -> StageJob:
    constraints = [{"tensors": "*", "share": share, "strength": strength}]
    way = {"kind": "train"} if share is None else {"kind": "partial", "constraints": constraints}
    spec = {**task.spec, **way, "data": task.data, "seed": seed}
    return StageJob.model_validate(
        {
            **{"name": key, "key": key, "store": str(store), "spec": spec},
            **{"shards": shards, "data_digest": digest(read_manifest(shards)), "engine": {"threads": 1}},
        }
    )


def timed(job: StageJob) -> tuple[dict[str, Any], list[float]]:
    """A stage's manifest, and the milliseconds of each of its epochs but the first."""
    marks: list[float] = []

    def log(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            marks.append(time.process_time())

    manifest = run_stage(job, log)
    assert manifest is not None
    return manifest, [1000 * (after - before) for before, after in pairwise(marks)]


def _row(task: Task, share: float | None, found: dict[Any, Found], times: Sequence[float]) -> Row:
    able = {strength: one for (of, strength), one in found.items() if of == share}
    plain = statistics.mean(found[None, task.strengths[0]].val)
    fine = [strength for strength, one in able.items() if statistics.mean(one.val) >= plain - task.margin]
    best = max(able, key=lambda strength: (statistics.mean(able[strength].val), strength))
    row: Row = {"task": task.name, "metric": task.metric, "share": "plain" if share is None else f"{share:g}"}
    row |= {
        "ms_an_epoch": statistics.median(times),
        **_shown("best", best, able),
        **_shown("sparse", max(fine, default=best), able),
    }
    return row


def _shown(name: str, strength: float, able: dict[float, Found]) -> Row:
    one = able[strength]
    means = {f"{name}_val": statistics.mean(one.val), f"{name}_test": statistics.mean(one.test)}
    return {f"{name}_strength": strength, **means, f"{name}_dead": one.dead}


def main() -> None:
    """Measure all tasks and report them."""
    asked = options(__doc__.splitlines()[0])
    join(threads=1)
    with tempfile.TemporaryDirectory() as folder:
        Folder(folder).establish()
        rows = [row for task in tasks(asked.quick) for row in measured(task, Path(folder))]
    report("Partial and full regularisation", rows, asked)


if __name__ == "__main__":
    main()
