"""The driver: ready -> launch -> wait -> decide -> commit. The one place where stages and cluster meet."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import cluster
import pipeline
import stages
from cluster.failures import Failure, Policy, decide
from cluster.lanes import Event, Lanes
from cluster.monitor import Monitor
from cluster.room import Shape
from pipeline import dag
from pipeline.config import Config
from pipeline.plan import Planned
from pipeline.results import Result, result
from pipeline.store import Store
from pipeline.view import View
from stages.spec import Parent, Task

_log = logging.getLogger(__name__)


def run(config: Config, plan: list[Planned], store: Store, logs: Path, view: View) -> list[Result]:
    """Carry out a plan; one row a stage, in the plan's order. Raises cluster.lanes.ClusterError."""
    if all(planned.state == "cached" for planned in plan):
        return [result(p.node, "cached", store, p.manifest) for p in plan]
    run = _Run(config, plan, store, logs, view)
    patience = 20.0
    try:
        run.to_the_end()
    except KeyboardInterrupt:
        patience = 2.0
        raise
    finally:
        run.close(patience)
    return run.results()


def work(payload: dict[str, Any], log: Any, stopping: Any) -> dict[str, Any] | None:
    """What every rank of a lane does with a task."""
    from stages.stage import run_stage

    return run_stage(Task.model_validate(payload), log, stopping)


def _load_work() -> Any:
    import stages.stage  # noqa: F401 - so that this process's import runs beside Ray's start

    return work


class _Run:
    """One carrying-out of one plan."""

    def __init__(self, config: Config, plan: list[Planned], store: Store, logs: Path, view: View) -> None:
        self.config, self.plan, self.store, self.view = config, plan, store, view
        self.nodes = {p.node.name: p.node for p in plan}
        self.done = {p.node.name: p.manifest for p in plan if p.state == "cached"}
        self.ran: set[str] = set()
        self.failed: dict[str, str] = {}
        self.begun: set[str] = set(self.done)
        self.failures: dict[str, list[Failure]] = {}
        settings = config.top.cluster
        self.policy = Policy(**config.top.retry.model_dump())
        self.monitor = Monitor(config.top.monitor.wandb, config.top.monitor.project, config.top.name, logs / "wandb")
        began = time.monotonic()
        self.lanes = Lanes(
            _load_work,
            Shape(settings.workers.min, settings.workers.max, settings.cpus, settings.gpus),
            settings.address,
            [Path(package.__path__[0]) for package in (pipeline, stages, cluster)],
            logs,
            settings.lanes,
        )
        _log.info("Ray was ready after %.1f s", time.monotonic() - began)

    def to_the_end(self) -> None:
        """Launch what is ready, wait, and react, until nothing is left to run."""
        self._launch()
        while self.begun - set(self.done) - set(self.failed):
            for event in self.lanes.take(timeout=1.0):
                self._react(event)
            self._launch()

    def close(self, patience: float) -> None:
        """End lanes and W&B, whatever happened; stages that are at work save where they are first.

        W&B gets `patience` seconds for what it has still to do.
        """
        try:
            for event in self.lanes.close():
                if event.kind != "failed":
                    self._react(event)
        finally:
            self.monitor.close(patience)

    def results(self) -> list[Result]:
        """One row a stage."""
        skipped = {node.name for node in dag.blocked(self.nodes.values(), self.failed)}
        rows = []
        for name, node in self.nodes.items():
            if name in self.done:
                rows.append(result(node, "done" if name in self.ran else "cached", self.store, self.done[name]))
            elif name in skipped:
                rows.append(result(node, "skipped", self.store, None, "a stage before it failed"))
            else:
                rows.append(result(node, "failed", self.store, None, self.failed.get(name, "not reached")))
        return rows

    def _launch(self) -> None:
        at_work = {self.nodes[name].key for name in self.begun - set(self.done) - set(self.failed)}
        for node in dag.ready(self.nodes.values(), self.done, self.begun):
            if node.key in at_work:
                continue  # the same stage by another name: it will find this one's artefact
            at_work.add(node.key)
            self.begun.add(node.name)
            self.store.note_failure(node.key, None)
            self.monitor.start(node.name, f"{self.config.top.name}-{node.key}", node.spec.kind, dict(node.material))
            self.lanes.submit(node.name, self._task(node).model_dump())
            _log.info("%s: ready", node.name)
            self.view.waiting(node.name, "waits for its workers")

    def _task(self, node: dag.Node) -> Task:
        return Task(
            name=node.name,
            key=node.key,
            store=self.store.folder.absolute,
            spec=node.spec,
            parents=[Parent(name=parent, key=self.nodes[parent].key) for parent in node.parents],
            shards=stages.files.Folder(node.shards).absolute,
            data_digest=node.data_digest,
            engine=self.config.top.engine,
        )

    def _react(self, event: Event) -> None:
        name = event.task
        if event.kind == "log":
            self._row(name, event.data)
        elif event.kind == "done":
            _log.info("%s: committed", name)
            self.done[name] = event.data
            self.ran.add(name)
            metrics = event.data["metrics"]
            self.monitor.finish(name, metrics, failed=False)
            rate = "" if metrics["rate"] is None else f"{metrics['rate']:.2f}x, "
            self.view.ended(name, f"done: {rate}val {metrics['val_accuracy']:.2f} % in {metrics['seconds']:.1f} s")
        else:
            self._failed(name, event.data)

    def _row(self, name: str, row: dict[str, Any]) -> None:
        kind = row["event"]
        if kind != "epoch":
            steps = row["steps"]
            if kind == "stopped":
                _log.info("%s: stopped after step %d", name, steps)
                self.view.ended(name, f"stopped after step {steps}, and saved there")
            else:
                _log.info("%s: trains from step %d on", name, steps)
                self.view.waiting(name, f"goes on after step {steps}" if kind == "resumed" else "training")
            return
        self.view.epoch(name, row)
        numbers: dict[str, Any] = {
            key: row[key] for key in ("epoch", "loss", "lr", "val_accuracy", "residual", "rho") if key in row
        }
        self.monitor.log(name, numbers, row["steps"])

    def _failed(self, name: str, failure: Failure) -> None:
        self.failures.setdefault(name, []).append(failure)
        decision = decide(self.failures[name], self.policy)
        _log.warning("%s: %s\n%s", name, decision.reason, failure.trace)
        if decision.retry:
            self.view.ended(name, decision.reason)
            self.lanes.submit(name, self._task(self.nodes[name]).model_dump())
            return
        self.failed[name] = decision.reason
        self.store.note_failure(self.nodes[name].key, decision.reason)
        self.monitor.finish(name, {}, failed=True)
        self.view.ended(name, f"failed: {decision.reason}")
