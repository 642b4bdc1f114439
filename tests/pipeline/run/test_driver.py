"""The driver against lanes that follow a script: retries, giving up, branches, notes, mirrored rows."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dualprune.cluster.failures import Failure
from dualprune.cluster.lane import Event
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.run import driver, report
from dualprune.pipeline.run.results import Result
from dualprune.pipeline.run.view import View
from dualprune.pipeline.store import events
from dualprune.pipeline.store.history import histories
from dualprune.pipeline.store.locks import Locks, living, stage_lock
from dualprune.pipeline.store.store import Store
from dualprune.pipeline.trackers.base import Row
from dualprune.pipeline.trackers.mirror import Mirror
from dualprune.pipeline.trackers.table import Given
from dualprune.stages.artefacts.manifest import MANIFEST
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from tests.pipeline.common import artefact, loaded, manifest

LOST = Failure("lost", "", "a worker process or its machine died")
ERROR = Failure("error", "ValueError Exception", "the tensor is gone", "Traceback ...")
PREEMPTED = Failure("preempted", "", "a machine under it is to be taken away")
PASSING = Failure("error", "ConnectionResetError ConnectionError OSError Exception", "reset")

Script = dict[str, list[Failure | None]]
"""How each attempt of each stage ends; None is done. What is not listed is done at once."""


class Scripted:
    """Stands in for cluster.lanes.Lanes. What it finishes has a real artefact, whose bytes tell its lineage.

    `accuracies` are those on validation, by name; those on test are the other way round, so that a choice
    that looked at them would fall differently.
    """

    def __init__(self, script: Script, accuracies: Mapping[str, float] | None = None) -> None:
        self.script = {name: list(endings) for name, endings in script.items()}
        self.accuracies = accuracies or {}
        self.submitted: list[str] = []
        self.payloads: dict[str, StageJob] = {}
        self.finished: list[str] = []
        self.running: list[str] = []
        self.closed = False

    def submit(self, task: str, payload: Any) -> None:
        """Note a task, and that it and its parents are what they should be."""
        self.payloads[task] = StageJob.model_validate(payload)
        assert task not in self.running
        for parent in self.payloads[task].parents:
            assert parent.name in self.finished or (Folder(self.payloads[task].store) / parent.key).exists(MANIFEST)
        assert self.payloads[task].key not in {self.payloads[name].key for name in self.running}
        self.submitted.append(task)
        self.running.append(task)

    def take(self, timeout: float) -> list[Event]:
        """The oldest running task's attempt, from its first row to its end."""
        assert self.running, "the driver waits though nothing runs"
        task = self.running.pop(0)
        rows = [{"event": "training", "steps": 0}, {**PLACE}, {**EPOCH}]
        events = [Event("log", task, row) for row in rows]
        ending = self.script.get(task, [None]).pop(0)
        if ending is not None:
            return [*events, Event("failed", task, ending)]
        self.finished.append(task)
        return [*events, Event("done", task, self._commit(self.payloads[task]))]

    def _commit(self, task: StageJob) -> dict[str, Any]:
        store = Folder(task.store)
        before = (store / task.parents[0].key).read("model.safetensors") if task.parents else b""
        data = b" ".join([before, task.name.encode()]).strip()
        if task.name not in self.accuracies:
            return artefact(task.store, task.key, data)
        accuracy = self.accuracies[task.name]
        return artefact(task.store, task.key, data, val_accuracy=accuracy, test_accuracy=100 - accuracy)

    def save(self) -> list[Event]:
        """What is still running stops where it is."""
        return [Event("log", task, {"event": "stopped", "steps": 17}) for task in self.running]

    def close(self) -> None:
        """Note that it was called."""
        self.closed = True


EPOCH = {
    "event": "epoch",
    "phase": "admm",
    "epoch": 1,
    "epochs": 2,
    "loss": 0.5,
    "lr": 0.1,
    "val_accuracy": 90.0,
    "val_loss": 0.4,
    "best": "accuracy",
    "unit": "%",
    "residual": 0.25,
    "rho": 0.003,
    "steps": 20,
    "seconds": 1.0,
    "seconds_left": 1.0,
}


PLACE = {
    "event": "steps",
    "phase": "admm",
    "epoch": 1,
    "epochs": 2,
    "done": 0.5,
    "steps": 10,
    "loss": 0.6,
    "lr": 0.1,
    "seconds": 0.5,
    "seconds_left": 1.5,
    "samples_per_second": 100.0,
    "step_seconds": 0.05,
    "waited": 0.1,
    "memory_bytes": 1e9,
}


class Recorder:
    """A tracker that only remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.calls.append((name, *args))

    def left(self) -> list[str]:
        """What is said of it at the end."""
        return ["recorded"]

    def mirror(self, given: Given) -> Mirror:
        """Itself, as the only tracker."""
        return Mirror(given.run, given.store, {"recorder": self}, given.tell)

    def of(self, stage: str) -> list[tuple[Any, ...]]:
        """What was told of a stage."""
        return [(name, *args) for name, *args in self.calls if args and getattr(args[0], "name", None) == stage]


class Ran:
    """What came of one run of CONFIG."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, script: Script, *overrides: str) -> None:
        self.lanes, self.recorder = Scripted(script), Recorder()
        patch.setattr(driver, "Lanes", lambda *_: self.lanes)
        patch.setattr(driver, "mirror", self.recorder.mirror)
        settings, problems = loaded(folder, overrides=list(overrides))
        self.store, self.plan = planning.make(settings, problems)
        self.keys = {p.node.name: p.node.key for p in self.plan}
        self.file = io.StringIO()
        view = View(Console(file=self.file))
        self.rows: list[Result] = driver.run(settings, self.plan, self.store, folder / "logs", view)

    @property
    def states(self) -> dict[str, str]:
        """State by name."""
        return {row.name: row.state for row in self.rows}

    def why(self, name: str) -> str | None:
        """Of a stage."""
        return next(row.why for row in self.rows if row.name == name)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs CONFIG by a script."""
    return lambda script, *overrides: Ran(tmp_path, monkeypatch, script, *overrides)


def test_all_stages_are_done_parents_first(ran: Callable[..., Ran]) -> None:
    """Each once, its row from its manifest; lanes are closed."""
    run = ran({})
    assert set(run.states.values()) == {"done"}
    assert sorted(run.lanes.submitted) == ["dense", "half", "other", "v1.5-quarter"]
    assert run.lanes.closed
    assert run.rows[0].val == 97.5
    assert [row.name for row in run.rows] == [p.node.name for p in run.plan]


def test_a_task_is_all_that_a_rank_needs(ran: Callable[..., Ran], tmp_path: Path) -> None:
    """Store and data by absolute place, parents by key, the engine's settings."""
    run = ran({}, "engine.zero=2")
    task = run.lanes.payloads["half"]
    assert (task.key, task.store) == (run.keys["half"], str(tmp_path / "store"))
    assert [(parent.name, parent.key) for parent in task.parents] == [("dense", run.keys["dense"])]
    assert (task.shards, task.engine.zero) == (str(tmp_path / "shards"), 2)
    assert task.data_digest == run.plan[0].node.data_digest
    assert task.spec == next(p.node.spec for p in run.plan if p.node.name == "half")


def test_the_run_keeps_a_log_of_its_events(ran: Callable[..., Ran]) -> None:
    run = ran({"half": [LOST, None], "other": [ERROR]}, "monitor.wandb=disabled")
    found = events.read(run.store.folder, "tiny")
    begun, ended = found[0], found[-1]
    assert (begun["event"], begun["run"], ended["event"], ended["how"]) == ("begun", "tiny", "ended", "failed")
    assert {name: one["key"] for name, one in begun["stages"].items()} == run.keys
    told = histories(found)
    half, other = told[run.keys["half"]], told[run.keys["other"]]
    assert [attempt.ended for attempt in half.attempts] == ["lost", "done"]
    assert half.retries[0][1] == "its workers were lost; retry 1 of 3"
    assert [row["steps"] for row in half.rows] == [20]
    assert other.failed is not None
    assert "the tensor is gone" in other.failed


def test_a_lost_stage_is_tried_again(ran: Callable[..., Ran]) -> None:
    """As often as the policy allows, and its branch goes on after it."""
    run = ran({"half": [LOST, LOST, LOST, None]})
    assert set(run.states.values()) == {"done"}
    assert run.lanes.submitted.count("half") == 4
    assert run.store.failure(run.keys["half"]) is None
    assert "its workers were lost; retry 3 of 3" in run.file.getvalue()


def test_a_worker_that_was_killed_for_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with what helps; what comes of its stage is told apart."""
    plain, said = Scripted.take, Event("memory", "", "1 worker")
    monkeypatch.setattr(Scripted, "take", lambda self, timeout: [said, *plain(self, timeout)])
    run = Ran(tmp_path, monkeypatch, {"dense": [LOST, None]}, "retry.lost=1")
    assert set(run.states.values()) == {"done"}
    lines = [line for line in run.file.getvalue().splitlines() if line.startswith(("a worker", "dense: its"))]
    assert lines[:2] == [report.MEMORY, "dense: its workers were lost; retry 1 of 1"]


def test_emulated_bf16_is_told(ran: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a stage begins; only there."""
    plain = Scripted.take

    def slow(self: Scripted, timeout: float) -> list[Event]:
        events = plain(self, timeout)
        first = replace(events[0], data={**events[0].data, "emulates_bf16": events[0].task == "half"})
        return [first, *events[1:]]

    monkeypatch.setattr(Scripted, "take", slow)
    told = [line for line in ran({}).file.getvalue().splitlines() if report.EMULATED in line]
    assert told == [f"half: training ({report.EMULATED})"]


def test_a_preempted_stage_is_tried_again_without_end(ran: Callable[..., Ran]) -> None:
    """It is no fault of anyone's; losses are counted apart from it."""
    run = ran({"half": [PREEMPTED, LOST] * 3 + [PREEMPTED] * 5 + [None]})
    assert set(run.states.values()) == {"done"}
    assert "a machine under it was taken away; retry 8\n" in run.file.getvalue()
    again = ran({"other": [PREEMPTED] * 2}, "retry.preempted=1", "stages.other.retrain.epochs=2")
    assert again.why("other") == "a machine under it was taken away, 2 times; the policy allows 1 retries"


def test_a_stage_lost_too_often_is_given_up(ran: Callable[..., Ran]) -> None:
    """One time more than the policy allows."""
    run = ran({"half": [LOST, LOST]}, "retry.lost=1")
    assert run.states == {"dense": "done", "half": "failed", "v1.5-quarter": "skipped", "other": "done"}
    assert run.why("half") == "its workers were lost, 2 times; the policy allows 1 retries"


def test_an_error_of_its_own_is_not_tried_again(ran: Callable[..., Ran]) -> None:
    """It would come again; what depends on it is skipped; the other branch goes on."""
    run = ran({"half": [ERROR]})
    assert run.states == {"dense": "done", "half": "failed", "v1.5-quarter": "skipped", "other": "done"}
    assert run.why("half") == "ValueError: the tensor is gone"
    assert run.why("v1.5-quarter") == "a stage before it failed"
    assert run.lanes.submitted.count("half") == 1
    assert "v1.5-quarter" not in run.lanes.submitted
    assert run.lanes.closed


def test_an_error_of_the_world_is_tried_again(ran: Callable[..., Ran]) -> None:
    """Counted apart from losses."""
    run = ran({"half": [PASSING, LOST, PASSING, LOST, None]}, "retry={lost: 2, passing: 2}")
    assert run.states["half"] == "done"


def test_all_comes_to_an_end_when_the_first_stage_fails(ran: Callable[..., Ran]) -> None:
    """At any distance, what comes after it is skipped."""
    run = ran({"dense": [ERROR]})
    assert run.states == {"dense": "failed", "half": "skipped", "v1.5-quarter": "skipped", "other": "skipped"}
    assert run.lanes.submitted == ["dense"]


def test_two_branches_may_fail(ran: Callable[..., Ran]) -> None:
    """Each with its own reason."""
    run = ran({"half": [ERROR], "other": [LOST]}, "retry.lost=0")
    assert run.states["half"] == run.states["other"] == "failed"
    assert run.why("half") != run.why("other")


def test_failures_are_noted_in_the_store_until_the_next_try(ran: Callable[..., Ran]) -> None:
    """A skipped stage has no note; a stage that runs again loses its."""
    run = ran({"half": [ERROR]})
    notes = {name: run.store.failure(key) for name, key in run.keys.items()}
    assert {name for name, note in notes.items() if note} == {"half"}
    assert notes["half"] == "ValueError: the tensor is gone"
    again = ran({})
    assert again.store.failure(again.keys["half"]) is None


def test_after_a_failure_nothing_is_taken_over_from_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that is at work there is not waited for; that one failed is noted while its lock is still held."""
    lanes = Scripted({"half": [Failure("error", "ValueError", "broke")]})
    monkeypatch.setattr(driver, "Lanes", lambda *_: lanes)
    settings, problems = loaded(tmp_path)
    store, plan = planning.make(settings, problems)
    other = next(planned.node for planned in plan if planned.node.name == "other")
    noted: list[str | None] = []
    note = Store.note_failure

    def noting(self: Store, key: str, why: str | None) -> None:
        if why is not None:
            noted.extend(name for name in living(store.folder) if name.startswith("stage-"))
        note(self, key, why)

    monkeypatch.setattr(Store, "note_failure", noting)
    with Locks(store.folder, "another") as locks:
        locks.take(stage_lock(other.key))
        rows = driver.run(settings, plan, store, tmp_path / "logs", View(Console(file=io.StringIO())))
    assert {row.name: row.state for row in rows} == {
        "dense": "done",
        "half": "failed",
        "v1.5-quarter": "skipped",
        "other": "skipped",
    }
    assert lanes.submitted == ["dense", "half"]
    assert stage_lock(lanes.payloads["half"].key) in noted


def test_what_is_done_is_not_run(ran: Callable[..., Ran], tmp_path: Path) -> None:
    """Its children start at once; its row says `cached`."""
    store, plan = planning.make(*loaded(tmp_path))
    artefact(store.url, plan[0].node.key)
    run = ran({"dense": []}, "stages.dense.train.lr=4e-3")
    assert run.states == {"dense": "cached", "half": "done", "v1.5-quarter": "done", "other": "done"}
    assert "dense" not in run.lanes.submitted


def test_a_plan_that_is_all_done_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither lanes nor W&B."""
    settings, problems = loaded(tmp_path)
    for p in planning.make(settings, problems)[1]:
        artefact(settings.top.store, p.node.key)
    monkeypatch.setattr(driver, "Lanes", None)
    monkeypatch.setattr(driver, "mirror", None)
    store, plan = planning.make(settings, problems)
    rows = driver.run(settings, plan, store, tmp_path, View(Console(file=io.StringIO())))
    assert {row.state for row in rows} == {"cached"}


def test_two_stages_of_one_key_do_not_run_at_once(ran: Callable[..., Ran], tmp_path: Path) -> None:
    """They would write the same artefact; the second finds it there."""
    same = "stages.other.constraints=[{set: cardinality, tensors: '*', rate: 2}]"
    run = ran({}, same)
    assert run.keys["half"] == run.keys["other"]
    assert set(run.states.values()) == {"done"}


def test_rows_are_mirrored(ran: Callable[..., Ran]) -> None:
    """Each stage begins under its key, has its epochs' numbers by step, and ends once; the run's end comes last."""
    run = ran({"half": [LOST, ERROR]})
    told = run.recorder.of("half")
    assert [call[0] for call in told] == ["begin", "row", "row", "begin", "row", "row", "end"]
    stage = told[0][1]
    assert (stage.key, stage.kind, stage.parents) == (run.keys["half"], "prune", (("dense", run.keys["dense"]),))
    assert stage.config["spec"]["admm"]["rho"] == 3e-3
    assert stage.measures.best == "accuracy"
    numbers = {"epoch": 1, "loss": 0.5, "lr": 0.1, "primal": 0.25, "rho": 0.003, "seconds": 1.0}
    numbers |= {"val_accuracy": 90.0, "val_loss": 0.4}
    within = {"step_loss": 0.6, "lr": 0.1, "seconds": 0.5, "samples_per_second": 100.0, "step_seconds": 0.05}
    place, epoch = Row(10, {**within, "waited": 0.1, "memory_bytes": 1e9}, phase="admm"), Row(20, numbers, phase="admm")
    assert [call[2] for call in told if call[0] == "row"] == [place, epoch, place, epoch]
    assert told[-1][2].failed
    end = run.recorder.of("other")[-1][2]
    assert (end.failed, end.metrics["rate"]) == (None, manifest()["metrics"]["rate"])
    summary, close = run.recorder.calls[-2:]
    assert (summary[0], summary[1].how, close[0]) == ("summarize", "failed", "close")
    states = {row["stage"]: row["state"] for row in summary[1].stages}
    assert (states["half"], states["other"]) == ("failed", "done")
    assert 19.0 < close[1] <= 20.0
    assert "recorded" in run.file.getvalue()


def test_lanes_and_trackers_are_closed_when_the_cluster_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the caller's to tell."""
    lanes, recorder = Scripted({}), Recorder()

    def take(timeout: float) -> list[Event]:
        raise OSError("gone")

    monkeypatch.setattr(lanes, "take", take)
    monkeypatch.setattr(driver, "Lanes", lambda *_: lanes)
    monkeypatch.setattr(driver, "mirror", recorder.mirror)
    settings, problems = loaded(tmp_path)
    store, plan = planning.make(settings, problems)
    with pytest.raises(OSError, match="gone"):
        driver.run(settings, plan, store, tmp_path, View(Console(file=io.StringIO())))
    assert lanes.closed
    assert [call[0] for call in recorder.calls[-2:]] == ["summarize", "close"]


def test_an_interrupted_run_says_where_its_stages_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lanes tell while they end is shown; W&B is not waited for."""
    lanes, recorder, file = Scripted({}), Recorder(), io.StringIO()

    def take(timeout: float) -> list[Event]:
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes, "take", take)
    monkeypatch.setattr(driver, "Lanes", lambda *_: lanes)
    monkeypatch.setattr(driver, "mirror", recorder.mirror)
    settings, problems = loaded(tmp_path)
    store, plan = planning.make(settings, problems)
    with pytest.raises(KeyboardInterrupt):
        driver.run(settings, plan, store, tmp_path, View(Console(file=file)))
    assert "dense: stopped after step 17, and saved there" in file.getvalue()
    assert recorder.calls[-2][1].how == "interrupted"
    assert recorder.calls[-1][0] == "close"
    assert recorder.calls[-1][1] <= 2.0
