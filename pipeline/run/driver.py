"""The driver: ready -> launch -> wait -> decide -> commit. The one place where stages and cluster meet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import dualprune
from dualprune.cluster.capacity import Shape
from dualprune.cluster.failures import Failure, Policy, decide
from dualprune.cluster.inline import Inline
from dualprune.cluster.lane import Event
from dualprune.cluster.lanes import Lanes
from dualprune.pipeline import dag
from dualprune.pipeline.blame import note
from dualprune.pipeline.choices.base import Refuse, Stored, Take, Time
from dualprune.pipeline.choices.table import CHOICES
from dualprune.pipeline.config.load import Config
from dualprune.pipeline.config.schema import Cluster
from dualprune.pipeline.node import Node
from dualprune.pipeline.plan.selection import hold
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.plan.why import begun, record
from dualprune.pipeline.run.board import Board
from dualprune.pipeline.run.report import Report
from dualprune.pipeline.run.results import Result, result
from dualprune.pipeline.run.sight import Sight
from dualprune.pipeline.run.timing import Untimed
from dualprune.pipeline.run.timing import time as time_side_by_side
from dualprune.pipeline.run.view import View
from dualprune.pipeline.store import speeds
from dualprune.pipeline.store.events import Events
from dualprune.pipeline.store.locks import Locks, Lost, run_lock, stage_lock
from dualprune.pipeline.store.progress import Progress
from dualprune.pipeline.store.store import Store
from dualprune.pipeline.trackers.mirror import HURRY
from dualprune.pipeline.trackers.table import Given, mirror
from dualprune.stages.artefacts.manifest import Damaged, take
from dualprune.stages.files.folder import AT_ONCE, Folder
from dualprune.stages.kinds.job import Parent, StageJob
from dualprune.stages.settings.training import StageSpec

_log = logging.getLogger(__name__)

COPIES = 4
"""Choices whose artefacts are made at the same time."""
UNHEARD = 0.1
"""Seconds for which lanes may go unheard while such artefacts are made: most are links, and there at once."""


def run(
    config: Config,
    plan: list[Planned],
    store: Store,
    logs: Path,
    view: View,
    wanted: Collection[str] | None = None,
    force: Collection[str] = (),
    *,
    keep_going: bool = False,
    wait: bool = False,
    inline: bool = False,
    page: Callable[[Store, str, Path], Path | None] = lambda store, run, folder: None,
) -> list[Result]:
    """Carry out a plan, or the stages of it that are `wanted`; one row a stage.

    Keys in `force` were planned to run though they are done: artefacts are deleted when their turn comes. After a
    failure nothing new is begun, or with `keep_going` only what does not depend on what failed. Another driver
    of the same name is waited for with `wait`. `inline` trains in this process, without Ray. `page` writes a page about
    a run into a folder, for trackers to show.
    Raises cluster.errors.ClusterError, pipeline.store.locks.Held and Lost.
    """
    names = {p.node.name for p in plan} if wanted is None else set(wanted)
    manifests = {p.node.name: p.manifest for p in plan if p.manifest is not None}
    board = Board([p.node for p in plan], manifests, names, keep_going)
    if all(planned.state == "cached" for planned in plan if planned.node.name in names):
        return _results(board, store)
    with Locks(store.folder, config.top.name) as locks:
        locks.take(run_lock(config.top.name), wait)
        view.run, view.look = config.top.name, Sight(board, store)
        record(config.top.name, store, plan)
        hold(store, plan, names)
        given = Given(config.top.monitor, config.top.name, store.folder, logs.parent, view.note)
        with (
            Progress(store.folder, config.top.name, view.lines) as progress,
            Events(store.folder, config.top.name) as events,
            mirror(given) as mirrored,
        ):
            events.listeners.append(mirrored.hear)
            events.add("begun", **begun(config.top, plan, names))
            how = "broken"
            try:
                _carried_out(_Run(config, board, store, logs, view, locks, force, events, inline), progress)
                how = "failed" if board.failed else "done"
            except KeyboardInterrupt:
                mirrored.patience, how = HURRY, "interrupted"
                raise
            finally:
                events.add("ended", how=how)
            if mirrored.wanted:
                events.flush()
                mirrored.attach(page(store, config.top.name, logs.parent))
    return _results(board, store)


def _carried_out(run: _Run, progress: Progress) -> None:
    progress.account = run.account
    try:
        run.to_the_end()
    except KeyboardInterrupt:
        run.save()
        raise
    finally:
        run.close()


def _results(board: Board, store: Store) -> list[Result]:
    return [result(row.node, row.state, store, row.manifest, row.why) for row in board.rows()]


def work(payload: dict[str, Any], log: Any, stopping: Any) -> dict[str, Any] | None:
    """What every rank of a lane does with a task."""
    from dualprune.stages.training.stage import run_stage

    try:
        return run_stage(StageJob.model_validate(payload), log, stopping)
    except Exception as error:
        note(error)
        raise


def _load_work() -> Any:
    import dualprune.stages.training.stage  # noqa: F401 - so that this process's import runs beside Ray's start

    return work


def _place(settings: Cluster, inline: bool) -> str:
    """Where stages run, in a line for who waits for them."""
    if not inline:
        return "Ray starts" if settings.address is None else f"connects to Ray at {settings.address}"
    workers = settings.workers.max
    as_one = "" if workers == 1 else f", on one worker in place of {workers}: keys are the same, rounding is not"
    return f"trains in this process, without Ray{as_one}"


def _lanes(settings: Cluster, logs: Path) -> Lanes:
    """Lanes on a Ray cluster, or on a Ray of this machine's own. Raises ClusterError."""
    workers = settings.workers
    return Lanes(
        _load_work,
        Shape(workers.min, workers.max, settings.cpus, settings.gpus),
        settings.address,
        [Path(dualprune.__path__[0])],
        logs,
        settings.lanes,
    )


class _Run:
    """One carrying-out of one plan."""

    def __init__(
        self,
        config: Config,
        board: Board,
        store: Store,
        logs: Path,
        view: View,
        locks: Locks,
        force: Collection[str],
        events: Events,
        inline: bool,
    ) -> None:
        self.config, self.board, self.store, self.locks = config, board, store, locks
        self.code = dag.code(node.spec for node in board.nodes.values())
        self.force = set(force)
        """Keys whose artefacts have to go before they are made anew."""
        self.aside: dict[Future[Any], Callable[[Future[Any]], None]] = {}
        """What is done for choices beside lanes: artefacts copied, networks timed. And what follows it."""
        self.timer = ThreadPoolExecutor(1, "timing")  # two at a time would disturb each other
        self.copiers = ThreadPoolExecutor(COPIES, "copy")
        self.clerks = ThreadPoolExecutor(AT_ONCE, "store")
        """They take and give back stages' locks."""
        self.next_look = 0.0
        self.closing = False
        self.failures: dict[str, list[Failure]] = {}
        settings = config.top.cluster
        self.policy = Policy(**config.top.retry.model_dump())
        self.report = Report(view, events)
        self.report.note(_place(settings, inline))
        began = time.monotonic()
        self.lanes = Inline(_load_work, settings.cpus, settings.gpus) if inline else _lanes(settings, logs)
        _log.info("lanes were ready after %.1f s", time.monotonic() - began)

    def to_the_end(self) -> None:
        """Begin what can begin, wait, and react, until nothing is left to run."""
        self._begin_all()
        while self.board.active or self.board.elsewhere or self.aside:
            wait(self.aside, timeout=UNHEARD)
            for future in [future for future in self.aside if future.done()]:
                self.aside.pop(future)(future)
            if self.board.active or self.board.elsewhere:
                for event in self.lanes.take(timeout=0.1 if self.aside else 1.0):
                    self._react(event)
            if self.locks.lost():
                raise Lost(self.locks.lost())
            self._look_elsewhere()
            self._begin_all()

    def save(self) -> None:
        """Let stages that are at work save where they are; a second interrupt cuts it short."""
        self.closing = True
        for event in self.lanes.save():
            if event.kind != "failed":
                self._react(event)

    def close(self) -> None:
        """End lanes, whatever happened."""
        for threads in (self.copiers, self.timer):
            threads.shutdown(wait=False, cancel_futures=True)
        try:
            self.lanes.close()
        finally:
            self.clerks.shutdown(cancel_futures=True)  # locks that they did not come to go with all others

    def account(self) -> dict[str, Any]:
        """What the progress that is left in the store says beside the stages' lines."""
        return {**self.report.account(), **self.board.account()}

    def _begin_all(self) -> None:
        stages: list[Node] = []
        for node in self.board.ready():
            if isinstance(node.spec, StageSpec):
                stages.append(node)
                continue
            self._train(stages)  # in their order: a search may want one of them as a trial
            stages.clear()
            self.store.note_failure(node.key, None)
            self._choose(node)
        self._train(stages)

    def _look_elsewhere(self) -> None:
        """Begin what another run has let go of. Looking takes a tenth of the time at most, however many there are."""
        if self.board.stopping:
            self.board.elsewhere.clear()  # whether it is done or not, nothing new is begun
            return
        began = time.monotonic()
        if began < self.next_look:
            return
        self._try(list(self.board.elsewhere.values()))
        self.next_look = began + 10 * (time.monotonic() - began)

    def _train(self, nodes: list[Node]) -> None:
        """Begin stages, of those of one key the first; the others wait for that one."""
        first = {node.key: node for node in reversed(nodes)}
        self._try([node for node in nodes if node is first[node.key] and not self.board.waits(node)])
        for node in nodes:
            if node is not first[node.key]:
                self.board.waits(node)

    def _try(self, nodes: list[Node]) -> None:
        """Submit stages, unless they are at work in another run: then their artefacts are found when that lets go of
        them. Their locks are asked for side by side."""
        locks = [stage_lock(node.key) for node in nodes]
        for node, lock, holder in zip(nodes, locks, self.clerks.map(self.locks.try_take, locks), strict=True):
            if holder is not None:
                if self.board.held(node):
                    self.report.elsewhere(node.name, holder)
                continue
            self._discard(node)
            self.board.starts(node)
            if not self.locks.first(lock):  # else nobody has failed at it
                self.store.note_failure(node.key, None)
            self.lanes.submit(node.name, self._job(node).model_dump())
            self.report.submitted(node)

    def _choose(self, node: Node) -> None:
        """Ask what a choice comes to, and begin that: taking one's artefact, or the trials that are next."""
        board = self.board
        if self.closing or node.name in board.failed:
            return
        stored = Stored(self._stored, partial(speeds.left, self.store))
        decision = CHOICES[node.spec.kind].decide(node, board.parents(node), board.done, stored)
        if isinstance(decision, Refuse):
            self._fail(node, decision.reason)
            return
        for tried in decision.tried:
            board.adds(node, tried.node, tried.manifest)
        if isinstance(decision, Take):
            self._take(node, decision)
        elif isinstance(decision, Time):
            self._time(node, decision)
        elif not board.stopping:
            self._train([trial for trial in decision.trials if board.adds(node, trial)])

    def _take(self, node: Node, decision: Take) -> None:
        """Begin to end a choice: its artefact becomes a copy of the chosen one, on a thread, since that may last."""
        chosen = self.board.nodes[decision.name]
        manifest = self.board.done[chosen.name]
        if decision.said:
            self.report.note(f"{node.name}: {decision.said}")
        changes = {
            "name": node.name,
            "kind": node.spec.kind,
            "key": node.key,
            "parents": [{"name": parent.name, "key": parent.key} for parent in self.board.parents(node)],
            "choice": dict(node.material["spec"]),
            "chosen": {"name": chosen.name, "key": chosen.key},
            **({"decision": dict(decision.facts)} if decision.facts else {}),
            "metrics": {**manifest["metrics"], "steps": 0, "seconds": 0.0},
        }
        self._discard(node)
        future = self.copiers.submit(take, self.store.folder / chosen.key, self.store.folder / node.key, changes)
        self.aside[future] = partial(self._taken, node, chosen)

    def _taken(self, node: Node, chosen: Node, future: Future[dict[str, Any]]) -> None:
        """A choice's artefact is there, or could not be made."""
        try:
            manifest = future.result()
        except (Damaged, OSError) as error:
            self._fail(node, str(error))
            return
        self.report.taken(node, chosen, manifest)
        self._end(node, manifest)

    def _time(self, node: Node, decision: Time) -> None:
        """Begin to time what a choice asks for, in a process of its own."""
        self.report.note(f"{node.name}: times {len(decision.stages)} networks ({decision.at})")
        future = self.timer.submit(time_side_by_side, self.store, decision.stages, decision.at)
        self.aside[future] = partial(self._timed, node, decision)

    def _timed(self, node: Node, decision: Time, future: Future[None]) -> None:
        """Networks were timed, or could not be."""
        try:
            future.result()
        except Untimed as error:
            self._fail(node, str(error))
            return
        if any(decision.at.row(speeds.left(self.store, one.key)) is None for one in decision.stages):
            self._fail(node, f"its networks were timed, but not as the budget says ({decision.at})")
            return
        self._choose(node)

    def _stored(self, key: str) -> Mapping[str, Any] | None:
        """An artefact's manifest, unless it is to go."""
        return None if key in self.force else self.store.artefact(key)

    def _discard(self, node: Node) -> None:
        """Delete what a stage has left before, if that was asked for."""
        if node.key in self.force:
            self.store.folder.remove(node.key)
            self.force.discard(node.key)

    def _end(self, node: Node, manifest: Mapping[str, Any]) -> None:
        """A stage is done, and so are those that waited for the same one."""
        _log.info("%s: committed", node.name)
        for choice in self.board.ends(node, manifest):
            self._choose(choice)

    def _fail(self, node: Node, reason: str, told: str | None = None) -> None:
        """A stage has failed for good; of its reason `told` is told, should that be less."""
        try:
            self.store.note_failure(node.key, reason)
        except OSError as error:  # the store may be what it failed for
            _log.warning("%s: why it failed can't be noted: %s", node.name, error)
        self.report.failed(node, reason, told or reason)
        for trial, choice in self.board.fails(node, reason):
            text = f"its trial {trial.name} failed"
            self._fail(choice, f"{text}: {reason}", text)

    def _job(self, node: Node) -> StageJob:
        assert isinstance(node.spec, StageSpec)
        before = {parent.name: Parent(name=parent.name, key=parent.key) for parent in self.board.parents(node)}
        return StageJob(
            name=node.name,
            key=node.key,
            store=self.store.folder.absolute,
            spec=node.spec,
            parent=before[node.parents[0]] if node.parents else None,
            teacher=before[node.teacher] if node.teacher else None,
            shards=Folder(node.shards).absolute,
            data_digest=node.data_digest,
            engine=self.config.top.engine,
            code=self.code,
        )

    def _react(self, event: Event) -> None:
        name = event.task
        if event.kind == "memory":
            self.report.memory(event.data)
        elif event.kind == "log":
            self.report.row(self.board.nodes[name], event.data)
        elif event.kind == "done":
            node = self.board.nodes[name]
            self.board.leaves(node)
            self.clerks.submit(self.locks.release, stage_lock(node.key))  # nothing here waits for that
            self.report.done(node, event.data)
            self._end(node, event.data)
        else:
            self._failed(name, event.data)

    def _failed(self, name: str, failure: Failure) -> None:
        self.failures.setdefault(name, []).append(failure)
        decision = decide(self.failures[name], self.policy)
        self.report.lost(self.board.nodes[name], failure, decision.reason, decision.retry)
        if decision.retry:
            self.lanes.submit(name, self._job(self.board.nodes[name]).model_dump())
            return
        node = self.board.nodes[name]
        self._fail(node, decision.reason)  # noted while the stage is still this run's
        self.board.leaves(node)
        self.locks.release(stage_lock(node.key))
