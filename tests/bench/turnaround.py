"""From a parent's commit to its child's first step: in a lane and by a fresh TorchTrainer.fit() for each stage.

Stages of one epoch on the digits, on one and on two workers of one CPU. *Warm lane*: the lane that the parent ran
on. *New lane*: none is open, as when all are busy. *Restarted lane*: from the death of a rank (kill -9) to the
first step after the checkpoint. *Fresh fit*: what each stage would cost without lanes, in a Ray that runs already.
The times are by the clock, so they are for a quiet machine.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import dualprune
from dualprune.cluster import lanes as lanes_module
from dualprune.cluster import session
from dualprune.cluster.capacity import Shape
from dualprune.cluster.lanes import Lanes
from dualprune.pipeline.config.load import load
from dualprune.pipeline.plan import make as planning
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import Parent, StageJob
from dualprune.stages.kinds.train import TrainSpec
from tests.bench.common import Row, options, report

CONFIG = """
name: turnaround
cluster: {workers: 1}
model: {name: digits_cnn}
data: {source: digits, mean: [0.3], std: [0.38], shift: 1}
monitor: {wandb: disabled}
engine: {checkpoint_steps: 4}
stages:
  - {name: parent, kind: train, train: {epochs: 1, lr: 0.004}}
"""
MODULES = [Path(dualprune.__path__[0])]


class Notes:
    """What ranks 0 noted of their stages, in a file: the time of each one's first step and end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "times.jsonl"
        self.path.touch()

    def work(self) -> Callable[..., Any]:
        """What every rank of a lane does with a task, noting its times."""
        path = str(self.path)

        def noted(payload: dict[str, Any], log: Any, stopping: Any) -> Any:
            import torch.distributed as dist

            from dualprune.stages.data.read.memory import Batches
            from dualprune.stages.training.stage import run_stage

            def note(what: str) -> None:
                if dist.get_rank() == 0:
                    with open(path, "a") as file:
                        row = {"task": payload["name"], "what": what, "time": time.time()}
                        file.write(json.dumps(row) + "\n")

            plain, begun = Batches.train, list[bool]()

            def first(self: Any, indices: Any, epoch: int) -> Any:
                if not begun:
                    begun.append(True)
                    note("first step")
                return plain(self, indices, epoch)

            Batches.train = first  # type: ignore[method-assign]
            try:
                result = run_stage(StageJob.model_validate(payload), log, stopping)
            finally:
                Batches.train = plain  # type: ignore[method-assign]
            note("committed")
            return result

        return noted

    def times(self, task: str, what: str) -> list[float]:
        """When something was noted of a task."""
        rows = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [row["time"] for row in rows if (row["task"], row["what"]) == (task, what)]


class Bench:
    """Stages to run, in a folder, on so many workers."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.workers, self.notes = folder, workers, Notes(folder)
        (folder / "turnaround.yaml").write_text(CONFIG)
        self.config, problems = load(str(folder / "turnaround.yaml"), [f"store={folder / 'runs'}"])
        self.store, plan = planning.make(self.config, problems)
        self.node = plan[0].node
        self.count = 0

    def task(self, parent: str | None, epochs: int = 1) -> dict[str, Any]:
        """A stage that was not run yet."""
        self.count += 1
        name = f"stage-{self.count}"
        assert isinstance(self.node.spec, TrainSpec)
        spec = self.node.spec.model_copy(update={"seed": self.count})
        spec = spec.model_copy(update={"train": spec.train.model_copy(update={"epochs": epochs})})
        return StageJob(
            name=name,
            key=name,
            store=self.store.folder.absolute,
            spec=spec,
            parent=None if parent is None else Parent(name=parent, key=parent),
            shards=Folder(self.node.shards).absolute,
            data_digest=self.node.data_digest,
            engine=self.config.top.engine,
        ).model_dump()

    @contextmanager
    def lanes(self) -> Iterator[Lanes]:
        """Lanes of the workers; Ray thinks that there are CPUs enough."""
        session.cpus = lambda: max(2, self.workers)
        work = self.notes.work()
        lanes = Lanes(lambda: work, Shape(self.workers, self.workers, 1, 0), None, MODULES, None, 1)
        try:
            yield lanes
        finally:
            lanes.close()

    def done(self, lanes: Lanes, task: dict[str, Any]) -> None:
        """Submit a task and wait for its end."""
        lanes.submit(task["name"], task)
        while not any(event.kind == "done" for event in lanes.take(0.2)):
            pass

    def turn(self, parent: dict[str, Any], child: dict[str, Any]) -> float:
        """Seconds from a parent's commit to its child's first step."""
        return self.notes.times(child["name"], "first step")[0] - self.notes.times(parent["name"], "committed")[0]


def warm(bench: Bench, lanes: Lanes, repeats: int) -> list[float]:
    """Child after child in the lane of the first one's parent."""
    found = []
    parent = bench.task(None)
    bench.done(lanes, parent)
    for _ in range(repeats):
        child = bench.task(parent["name"])
        bench.done(lanes, child)
        found.append(bench.turn(parent, child))
        parent = child
    return found


def new(bench: Bench, lanes: Lanes, repeats: int) -> list[float]:
    """No lane is open when the child is submitted."""
    found = []
    for _ in range(repeats):
        lanes_module.IDLE = 0.0
        while lanes._lanes:
            lanes.take(0.2)
        lanes_module.IDLE = 30.0
        child, began = bench.task(None), time.time()
        bench.done(lanes, child)
        found.append(bench.notes.times(child["name"], "first step")[0] - began)
    return found


def restarted(bench: Bench, lanes: Lanes, repeats: int) -> list[float]:
    """A rank is killed in mid-stage, and the stage goes on in the same lane."""
    found = []
    for _ in range(repeats):
        task = bench.task(None, epochs=50)
        lanes.submit(task["name"], task)
        while not bench.store.folder.names(f"{task['key']}/checkpoints"):
            lanes.take(0.2)
        workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
        began = time.time()
        workers[-1].kill()
        ended = False
        while not ended:
            for event in lanes.take(0.2):
                if event.kind == "failed":
                    lanes.submit(task["name"], task)
                ended |= event.kind == "done"
        found.append(bench.notes.times(task["name"], "first step")[1] - began)
    return found


def fresh(bench: Bench, repeats: int) -> list[float]:
    """A TorchTrainer.fit() for each stage."""
    session.cpus = lambda: max(2, bench.workers)
    for name, value in session.settings(local=True).items():
        os.environ.setdefault(name, value)
    ray = session.start(None, MODULES)
    from ray.train import RunConfig, ScalingConfig

    work = bench.notes.work()

    def loop(task: dict[str, Any]) -> None:
        work(task, lambda row: None, lambda: False)

    found = []
    try:
        parent: dict[str, Any] | None = None
        for _ in range(repeats + 1):
            task = bench.task(None if parent is None else parent["name"])
            session.trainer(True)(
                loop,
                train_loop_config=task,
                scaling_config=ScalingConfig(num_workers=bench.workers, resources_per_worker={"CPU": 1}),
                run_config=RunConfig(name=task["name"], storage_path=str(bench.folder / "ray")),
            ).fit()
            if parent is not None:
                found.append(bench.turn(parent, task))
            parent = task
    finally:
        ray.shutdown()
    return found


def main() -> None:
    """Measure all ways and report them."""
    asked = options(__doc__.splitlines()[0])
    repeats = 1 if asked.quick else 5
    rows: list[Row] = []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory(prefix="dualprune-turnaround-") as name:
            bench = Bench(Path(name), workers)
            ways: dict[str, list[float]] = {}
            with bench.lanes() as lanes:
                ways["warm lane"] = warm(bench, lanes, 4 * repeats)
                ways["restarted lane"] = restarted(bench, lanes, min(repeats, 3))
                ways["new lane"] = new(bench, lanes, repeats)
            ways["fresh fit"] = fresh(bench, repeats)
        for way, times in ways.items():
            row: Row = {"way": way, "workers": workers, "turns": len(times), "seconds": statistics.median(times)}
            rows.append({**row, "least": min(times), "most": max(times)})
    report("Seconds from a parent's commit to its child's first step", rows, asked)


if __name__ == "__main__":
    main()
