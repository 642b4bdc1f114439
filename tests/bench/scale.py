"""What a plan and a run of many stages cost the driver and the store, and how that grows with their number.

    python -m tests.bench.scale [--quick] [--json PATH]

All of it is what a run does, but for the lanes: in their place stands an executor that ends its tasks at once, one
at a time with up to 1,000 begun, and commits a real small artefact for each into a store on this machine's disk.
What it does itself is taken off. Times are processor time of this one process, because a machine that others use
makes wall time meaningless. Memory is what the process has grown by. Every number of stages has a process of its own.

The file is made of groups of 21 stages that start from one dense network: a ladder of six, a beam of three members
and two targets, and a select of the two. Exponents say how a step grows: 1 is proportional to the number of stages,
n log n would be 1.12 from 1,000 to 10,000.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console

from dualprune.cluster.lane import Event
from dualprune.pipeline.config.load import Config, load
from dualprune.pipeline.config.problems import Problems
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.plan import selection
from dualprune.pipeline.plan.costs import estimated
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.reports import plan as planview
from dualprune.pipeline.run import driver, results
from dualprune.pipeline.run.view import View
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import MANIFEST, own_hash
from dualprune.stages.files.folder import Folder, sha256
from dualprune.stages.kinds.job import StageJob
from tests.bench.common import Options, Row, options, report

SIZES, QUICK = (100, 1_000, 10_000), (100, 300, 1_000)
AT_A_TIME = 1_000
GROUP = 21

HEAD = """\
name: scale
store: {folder}/store
monitor: {{wandb: disabled}}
model: {{name: digits_cnn}}
data: {{shards: {folder}/shards}}
stages:
  - {{name: dense, kind: train, train: {{epochs: 1, lr: 1e-3}}}}
"""
ENTRIES = """\
  - name: ladder-{number}
    kind: prune
    parent: dense
    seed: {number}
    constraints: [{{set: cardinality, tensors: "*"}}]
    admm: &admm-{number} {{updates: 1, lr: 1e-3, rho: 1e-3}}
    retrain: &retrain-{number} {{epochs: 1, lr: 1e-3}}
    ladder: [2, 3, 4, 5, 6, 7]
  - name: beam-{number}
    kind: prune
    parent: dense
    seed: {number}
    constraints: [{{set: cardinality, tensors: "*", rate: [2.5, 3.5, 4.5, 5.5, 6.5]}}]
    admm: *admm-{number}
    retrain: *retrain-{number}
    beam: {{pool: [2.5, 3.5, 4.5], targets: [5.5, 6.5]}}
  - {{name: best-{number}, kind: select, parents: [ladder-{number}, beam-{number}]}}
"""


Clocks = tuple[Callable[[], float], Callable[[], float]]
"""Of time, and of calls of the store."""

STORE = "{}: calls of the store"

CALLS = ("read", "read_small", "write", "create", "exists", "names", "sizes", "files", "remove", "discard")
"""What a folder does that is a request, or a few, where it is on an object store."""


class Calls:
    """Counts what the store is asked while it is entered."""

    def __init__(self) -> None:
        self.made: list[None] = []

    def __enter__(self) -> Calls:
        self.own = {name: getattr(Folder, name) for name in CALLS}
        for name, method in self.own.items():
            setattr(Folder, name, self._counted(method))
        return self

    def __exit__(self, *_: object) -> None:
        for name, method in self.own.items():
            setattr(Folder, name, method)

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            self.made.append(None)  # One thread at a time, whatever their number.
            return method(*arguments, **more)

        return counted

    def now(self) -> float:
        """How many there were so far."""
        return float(len(self.made))


class Instant:
    """Stands in for cluster.lanes.Lanes: ends one task a call, of up to 1,000 begun ones."""

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self.waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self.running: deque[tuple[str, dict[str, Any]]] = deque()
        self.most = 0
        self.spent = [0.0 for _ in clocks]
        """Of each clock's time, by itself."""

    def submit(self, task: str, payload: dict[str, Any]) -> None:
        """Queue a task."""
        self.waiting.append((task, payload))

    def take(self, timeout: float) -> list[Event]:
        """The oldest task's events, from its first to its last, its artefact committed."""
        began = [clock() for clock in self.clocks]
        while self.waiting and len(self.running) < AT_A_TIME:
            self.running.append(self.waiting.popleft())
        self.most = max(self.most, len(self.running))
        name, payload = self.running.popleft()
        manifest = commit(StageJob.model_validate(payload))
        self.spent = [
            spent + clock() - before for spent, clock, before in zip(self.spent, self.clocks, began, strict=True)
        ]
        return [
            Event("log", name, {"event": "training", "steps": 0}),
            Event("log", name, EPOCH),
            Event("done", name, manifest),
        ]

    def close(self) -> list[Event]:
        """Nothing is left to end."""
        return []


EPOCH = {
    "event": "epoch",
    "phase": "retrain",
    "epoch": 2,
    "epochs": 2,
    "loss": 0.5,
    "lr": 1e-3,
    "val_accuracy": 90.0,
    "best": "accuracy",
    "unit": "%",
    "steps": 2,
    "seconds": 1.0,
    "seconds_left": 0.0,
}


def commit(task: StageJob) -> dict[str, Any]:
    """Write an artefact of a few bytes, with a manifest of the usual size; returns the manifest."""
    folder, data = Folder(task.store) / task.key, task.key.encode()
    quality = int(task.key[:6], 16) / 0xFFFFFF
    manifest: dict[str, Any] = {
        "name": task.name,
        "kind": task.spec.kind,
        "key": task.key,
        "spec": task.spec.model_dump(mode="json"),
        "parents": [parent.model_dump() for parent in task.parents],
        "tensors": {f"{n}.weight": {"shape": [64, 64], "size": 4096, "nonzeros": 1024} for n in range(4)},
        "metrics": {
            "rate": 4.0,
            "weights": 16384,
            "nonzeros": 4096,
            "val_accuracy": 100 * quality,
            "test_accuracy": 100 * quality,
            "val_loss": 1 - quality,
            "residual": 0.01,
            "steps": 2,
            "seconds": 1.0,
        },
        "files": {"model.safetensors": {"sha256": sha256(data), "bytes": len(data)}},
        "engine": task.engine.model_dump(),
    }
    manifest["sha256"] = own_hash(manifest)
    folder.write("model.safetensors", data)
    folder.write_json(MANIFEST, manifest)
    return manifest


def shards(folder: Path) -> None:
    """Shards as far as a plan looks at them."""
    splits: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        files = [{"file": f"{split}-000000.tar", "sha256": "0"}, {"file": f"{split}-index.npy", "sha256": "0"}]
        splits[split] = {"samples": 128, "shape": [1, 8, 8], "shards": files[:1], "index": files[1]}
        for file in files:
            Folder(str(folder)).write(file["file"], b"")
    Folder(str(folder)).write_json("manifest.json", {"name": "none", "splits": splits})


def configuration(folder: Path, size: int) -> Path:
    """A file of about `size` stages, and shards for it."""
    shards(folder / "shards")
    entries = (ENTRIES.format(number=number) for number in range(max(1, size // GROUP)))
    path = folder / "scale.yaml"
    path.write_text(HEAD.format(folder=folder) + "".join(entries))
    return path


def measured(folder: Path, size: int, clock: Callable[[], float] = time.process_time) -> Row:
    """What the clock says of each step at one size, how often it asked the store, and the memory that all took."""
    with Calls() as calls:
        return _measured(folder, size, (clock, calls.now))


def _measured(folder: Path, size: int, clocks: Clocks) -> Row:
    path = configuration(folder, size)
    row: Row = {"stages": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def timed(name: str, call: Callable[[], Any]) -> Any:
        gc.collect()  # So that no step pays for what another one left.
        began = [clock() for clock in clocks]
        value = call()
        row[name], row[STORE.format(name)] = (clock() - before for clock, before in zip(clocks, began, strict=True))
        return value

    config, problems = timed("load", lambda: load(str(path)))
    store, plan, wanted = timed("plan", lambda: planned(config, problems))
    row["stages"] = len(plan)
    timed("show plan", lambda: (planview.as_json(plan, estimated(plan, config.top.cluster), ""), planview.dot(plan)))
    lanes = Instant(clocks)
    with patch.object(driver, "Lanes", lambda *_: lanes), (folder / "terminal").open("w") as terminal:
        view = View(Console(file=terminal))
        rows = timed("run", lambda: driver.run(config, plan, store, folder / "logs", view, wanted))
    row["run"] -= lanes.spent[0]
    row[STORE.format("run")] -= lanes.spent[1]
    assert {one.state for one in rows} == {"done"}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    row["memory (KB)"] = grown
    timed("results", lambda: (results.as_json("scale", rows), results.as_table(rows)))
    config, problems = load(str(path))
    _, plan, _ = timed("plan again", lambda: planned(config, problems))
    assert {one.state for one in plan} == {"cached"}
    timed("status", lambda: results.status(plan, store))
    row["at a time"] = lanes.most
    return row


def planned(config: Config, problems: Problems) -> tuple[Store, list[Planned], set[str]]:
    """All that happens between a file and a run."""
    store, plan = planning.make(config, problems)
    plan, _ = selection.forced(plan, [])
    return store, plan, selection.wanted(plan, "dense", [])


def alone(size: int) -> Row:
    """`measured` in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="dualprune-scale-") as folder:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            row: Row = pool.apply(measured, (Path(folder), size))
        return row


STEPS = ("load", "plan", "show plan", "run", "results", "plan again", "status")
ASKING = tuple(STORE.format(step) for step in ("plan", "run", "plan again"))


def exponent(sizes: list[int], times: list[float]) -> float:
    """Of the power of the number of stages that fits best: the slope of a line through the logarithms."""
    x, y = ([math.log(value) for value in values] for values in (sizes, times))
    middle = sum(x) / len(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def table(found: list[Row]) -> list[Row]:
    """A row a step: what it takes a stage at each size, and how the whole grows, over all and from the last but one."""
    sizes = [row["stages"] for row in found]
    rows = []
    for name, unit in (*((step, 1000.0) for step in STEPS), *((step, 1.0) for step in ASKING), ("memory (KB)", 1.0)):
        whole = [row[name] for row in found]
        one: Row = {"step": name if unit == 1.0 else f"{name} (ms)"}
        one |= {f"{size:,}": unit * value / size for size, value in zip(sizes, whole, strict=True)}
        one |= {"exponent": exponent(sizes, whole), "of the last two": exponent(sizes[-2:], whole[-2:])}
        rows.append(one)
    return rows


def main() -> None:
    """Measure all sizes and report them."""
    asked: Options = options(__doc__.splitlines()[0])
    found = [alone(size) for size in (QUICK if asked.quick else SIZES)]
    title = f"What a stage costs the driver, of so many stages, {found[-1]['at a time']:,} at a time at most"
    report(title, table(found), asked)


if __name__ == "__main__":
    main()
