"""The driver with beams, selects and searches, and with stages left out, against lanes that follow a script."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dualprune.cluster.lane import Event
from dualprune.pipeline.choices.base import Latency
from dualprune.pipeline.config.load import load
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.node import Node
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.run import driver
from dualprune.pipeline.run.results import Result
from dualprune.pipeline.run.timing import Untimed
from dualprune.pipeline.run.view import View
from dualprune.pipeline.store import speeds
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import check, take
from dualprune.stages.export.machine import machine
from tests.pipeline.choices.test_select import by_the_paper
from tests.pipeline.common import extended
from tests.pipeline.run.test_driver import ERROR, Recorder, Script, Scripted

BEAM = """\
- name: s
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*"}]
  admm: *admm
  retrain: *retrain
  beam: {pool: [15, 18, 21], targets: [24, 27, 30]}
"""
SELECT = """\
- name: best
  kind: select
  parents: [half, other]
- name: after
  kind: train
  parent: best
  train: {epochs: 1, lr: 1e-3}
"""
SEARCH = """\
- name: least
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*", rate: 2.25}]
  admm: *admm
  retrain: *retrain
  search: {tolerance: 1, trials: 4, most: 16}
- name: after
  kind: train
  parent: least
  train: {epochs: 1, lr: 1e-3}
"""
TRIALS = {"dense": 97.0, "least@1": 96.5, "least@16": 80.0, "least@4": 96.25, "least@8": 90.0}
"""Accuracies by which 4 is the harshest that holds."""


TIMED = """\
- name: quick
  kind: select
  parents: [half, other]
  budget: {milliseconds: 3}
  latency: {machine: MACHINE, backend: torch}
""".replace("MACHINE", json.dumps(machine()))


class Ran:
    """What came of one run of CONFIG with more entries."""

    def __init__(
        self,
        folder: Path,
        patch: pytest.MonkeyPatch,
        entries: str,
        accuracies: dict[str, float] | None = None,
        script: Script | None = None,
        wanted: Collection[str] | None = None,
        keep_going: bool = False,
        unheard: float = 30.0,
    ) -> None:
        self.lanes, self.recorder = Scripted(script or {}, accuracies), Recorder()
        patch.setattr(driver, "Lanes", lambda *_: self.lanes)
        patch.setattr(driver, "mirror", self.recorder.mirror)
        patch.setattr(driver, "UNHEARD", unheard)  # long, so that the order of events is that of the script
        settings, problems = load(str(extended(folder, entries)))
        self.store, plan = planning.make(settings, problems)
        self.keys = {p.node.name: p.node.key for p in plan}
        self.file = io.StringIO()
        view = View(Console(file=self.file))
        self.rows: list[Result] = driver.run(settings, plan, self.store, folder, view, wanted, keep_going=keep_going)

    @property
    def states(self) -> dict[str, str]:
        """State by name."""
        return {row.name: row.state for row in self.rows}

    def row(self, name: str) -> Result:
        """Of a stage."""
        return next(row for row in self.rows if row.name == name)

    def lineage(self, name: str) -> str:
        """The stages that a stage's weights went through."""
        return (self.store.folder / self.row(name).key).read("model.safetensors").decode()

    def manifest(self, name: str) -> dict[str, Any]:
        """Of a stage, every file checked."""
        found = check(self.store.folder / self.row(name).key)
        assert found is not None
        return found


ACCURACIES = [
    # The same member wins each time; a different one each time; ties.
    [95, 94, 93, 96, 90, 91, 97, 90, 91, 98, 90, 91],
    [93, 94, 95, 90, 91, 96, 90, 97, 91, 98, 90, 91],
    [90, 90, 90, 91, 91, 91, 92, 92, 92, 93, 93, 93],
]


@pytest.mark.parametrize("accuracies", ACCURACIES)
def test_a_beam_runs_as_the_paper_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: list[float]
) -> None:
    """Each candidate starts from the member that the paper's rule gives, and the best of each target is taken."""
    pool, targets = ["s-15x", "s-18x", "s-21x"], ["s-24x", "s-27x", "s-30x"]
    names = pool + [f"{target}-{place}" for target in targets for place in "abc"]
    given = dict(zip(names, accuracies, strict=True))
    run = Ran(tmp_path, monkeypatch, BEAM, given)
    started, best = by_the_paper(pool, targets, given)
    expected = {name: f"dense {name}" for name in pool}
    for name in names[3:]:
        expected[name] = f"{expected[started[name]]} {name}"
    assert {name: run.lineage(name) for name in names} == expected
    assert [run.lineage(target) for target in targets] == [expected[name] for name in best]
    assert [run.row(target).chosen for target in targets] == best
    assert set(run.states.values()) == {"done"}
    assert {row.name: row.key for row in run.rows} == run.keys
    assert len([name for name in run.lanes.submitted if name.startswith("s-")]) == 12


def test_candidates_of_a_target_wait_for_each_other_in_no_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three are given to the lanes before one of them is done: where there is room, they run side by side."""
    together: list[set[str]] = []

    class Watched(Scripted):
        def take(self, timeout: float) -> list[Any]:
            together.append({name for name in self.running if name.startswith("s-")})
            return super().take(timeout)

    monkeypatch.setattr("tests.pipeline.run.test_driver_choices.Scripted", Watched)
    Ran(tmp_path, monkeypatch, BEAM)
    for names in (["s-15x", "s-18x", "s-21x"], *([f"s-{rate}x-{place}" for place in "abc"] for rate in (24, 27, 30))):
        assert any(set(names) <= seen for seen in together), names


def test_a_beam_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one more target, only that one's candidates are trained: keys were known before anything ran."""
    first = Ran(tmp_path, monkeypatch, BEAM.replace("[24, 27, 30]", "[24, 27]"), {"s-24x-b": 99})
    again = Ran(tmp_path, monkeypatch, BEAM, {"s-24x-b": 99})
    assert again.lanes.submitted == ["s-30x-a", "s-30x-b", "s-30x-c"]
    assert {name: key for name, key in again.keys.items() if name in first.keys} == first.keys
    assert again.lineage("s-30x-b").startswith("dense s-18x s-24x-b ")


def test_a_select_is_a_copy_of_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own name, kind, key and parents, and with what was chosen by what; it has trained nothing itself."""
    run = Ran(tmp_path, monkeypatch, SELECT, {"half": 90, "other": 95})
    best, other = run.manifest("best"), run.manifest("other")
    assert run.lineage("best") == "dense other"
    assert run.lineage("after") == "dense other after"
    assert (best["name"], best["kind"], best["key"]) == ("best", "select", run.keys["best"])
    assert best["parents"] == [{"name": name, "key": run.keys[name]} for name in ("half", "other")]
    assert best["chosen"] == {"name": "other", "key": run.keys["other"]}
    assert best["choice"] == {"kind": "select"}
    assert best["metrics"] == {**other["metrics"], "steps": 0, "seconds": 0.0}
    assert (run.row("best").chosen, run.row("best").val) == ("other", 95)
    assert "best: takes other, val 95.00 %" in run.file.getvalue()
    assert "best" not in run.lanes.submitted


def test_a_select_without_anything_to_take_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the figures; the note is taken back once it succeeds."""
    entries = SELECT.replace("parents: [half, other]", "parents: [half, other]\n  budget: {val_accuracy: 96}")
    run = Ran(tmp_path, monkeypatch, entries, {"half": 90, "other": 95})
    assert (run.row("best").state, run.row("after").state) == ("failed", "skipped")
    why = run.row("best").why
    assert why is not None
    assert "half: val_accuracy 90; other: val_accuracy 95" in why
    assert run.store.failure(run.keys["best"]) == why
    run.store.folder.remove(run.keys["other"])
    again = Ran(tmp_path, monkeypatch, entries, {"other": 97})
    assert again.row("best").state == "done"
    assert again.store.failure(again.keys["best"]) is None


def test_a_damaged_artefact_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the driver fall over it: the choice fails, and says which file."""
    run = Ran(tmp_path, monkeypatch, SELECT, {"half": 90, "other": 95})
    run.store.folder.remove(run.keys["best"])
    make = planning.make

    def damaging(*arguments: Any) -> Any:
        store, plan = make(*arguments)
        store.folder.write(f"{run.keys['other']}/model.safetensors", b"weightz")
        return store, plan

    monkeypatch.setattr(planning, "make", damaging)
    again = Ran(tmp_path, monkeypatch, SELECT)
    assert again.row("best").state == "failed"
    assert f"{run.keys['other']}/model.safetensors has changed since it was written" in str(again.row("best").why)


def test_a_search_ends_with_the_harshest_that_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial from the best so far; rows of the trials before that of the search, which is a copy of the best."""
    run = Ran(tmp_path, monkeypatch, SEARCH, TRIALS)
    trials = ["least@1", "least@16", "least@4", "least@8"]
    assert [name for name in run.lanes.submitted if "@" in name] == trials
    names = [row.name for row in run.rows]
    assert names[names.index("least@1") : names.index("least") + 1] == [*trials, "least"]
    assert run.lineage("least@8") == "dense least@1 least@4 least@8"
    assert run.lineage("after") == "dense least@1 least@4 after"
    assert run.row("least").chosen == "least@4"
    assert set(run.states.values()) == {"done"}
    assert run.manifest("least")["kind"] == "search"


def test_a_finished_search_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trials' rows are there all the same."""
    first = Ran(tmp_path, monkeypatch, SEARCH, TRIALS)
    again = Ran(tmp_path, monkeypatch, SEARCH)
    assert again.lanes.submitted == []
    assert [row.name for row in again.rows] == [row.name for row in first.rows]
    assert set(again.states.values()) == {"cached"}


def test_a_search_goes_on_after_a_trial_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search fails with it, and so does what comes after; the next run goes on from that trial."""
    run = Ran(tmp_path, monkeypatch, SEARCH, TRIALS, {"least@4": [ERROR]})
    failed = {name: state for name, state in run.states.items() if state != "done"}
    assert failed == {"least@4": "failed", "least": "failed", "after": "skipped"}
    assert run.row("least").why == "its trial least@4 failed: ValueError: the tensor is gone"
    assert run.store.failure(run.keys["least"]) == run.row("least").why
    again = Ran(tmp_path, monkeypatch, SEARCH, TRIALS)
    assert again.lanes.submitted == ["least@4", "least@8", "after"]
    assert again.store.failure(again.keys["least"]) is None
    assert [again.states[name] for name in ("least@1", "least@16", "least@4", "least")] == [
        "cached",
        "cached",
        "done",
        "done",
    ]


def test_a_search_that_loses_too_much_at_once_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one trial; the others would be harsher still."""
    run = Ran(tmp_path, monkeypatch, SEARCH, {"dense": 97, "least@1": 95})
    assert [name for name in run.lanes.submitted if "@" in name] == ["least@1"]
    assert run.states["least@1"] == "done"
    assert run.states["least"] == "failed"
    assert "lose 2.00 points already" in str(run.row("least").why)


TWIN = SEARCH.replace("least", "again").replace("name: after", "name: later")


def test_two_searches_of_one_key_run_each_trial_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go side by side, and both end."""
    run = Ran(tmp_path, monkeypatch, SEARCH + TWIN, TRIALS)
    assert run.keys["least"] == run.keys["again"]
    assert len([name for name in run.lanes.submitted if "@" in name]) == 4
    assert {run.states[name] for name in ("least", "again", "after", "later")} == {"done"}
    assert run.row("again").chosen == "again@4"


@pytest.mark.parametrize("first", ["stage", "search"])
def test_a_trial_that_is_a_stage_too_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """Whichever comes first, and though both are ready at once."""
    stage = SEARCH.split("- name: after")[0].replace("least", "same").replace("  search:", "  # search:")
    run = Ran(tmp_path, monkeypatch, stage + SEARCH if first == "stage" else SEARCH + stage, {**TRIALS, "same": 96.5})
    runs = [name for name in run.lanes.submitted if name in ("same", "least@1")]
    assert runs == (["same"] if first == "stage" else ["least@1"])
    assert (run.states["same"], run.states["least@1"], run.states["least"]) == ("done", "done", "done")


@pytest.mark.parametrize("first", ["stage", "search"])
def test_a_trial_that_is_a_stage_too_fails_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """For one reason."""
    stage = SEARCH.split("- name: after")[0].replace("least", "same").replace("  search:", "  # search:")
    script: Script = {"same": [ERROR], "least@1": [ERROR]}
    run = Ran(tmp_path, monkeypatch, stage + SEARCH if first == "stage" else SEARCH + stage, TRIALS, script)
    assert {run.states[name] for name in ("same", "least@1", "least")} == {"failed"}


CHILD = """\
- name: child
  kind: train
  parent: other
  train: {epochs: 1, lr: 1e-3}
"""


@pytest.mark.parametrize("keep_going", [False, True])
def test_after_a_failure_nothing_new_begins_unless_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_going: bool
) -> None:
    """What runs is let end; a search tries nothing more, and says that it was not ended."""
    run = Ran(tmp_path, monkeypatch, CHILD + SEARCH, TRIALS, {"half": [ERROR]}, keep_going=keep_going)
    assert run.states["half"] == "failed"
    assert run.states["v1.5-quarter"] == "skipped"
    assert run.states["other"] == "done"
    assert run.states["least@1"] == "done"
    rest = {name: run.states.get(name) for name in ("child", "least@16", "least", "after")}
    if keep_going:
        assert set(rest.values()) == {"done"}
    else:
        assert rest == {"child": "skipped", "least@16": None, "least": "skipped", "after": "skipped"}
        assert run.row("child").why == run.row("least").why == "not begun, because another stage failed"


def test_only_what_is_wanted_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is left out, and says so; a search that is wanted runs its trials."""
    run = Ran(tmp_path, monkeypatch, SEARCH, TRIALS, wanted={"dense", "least"})
    assert run.lanes.submitted == ["dense", "least@1", "least@16", "least@4", "least@8"]
    left = {row.name: (row.state, row.why) for row in run.rows if row.state != "done"}
    assert left == dict.fromkeys(("half", "v1.5-quarter", "other", "after"), ("left out", "not asked for"))


def test_what_is_wanted_and_done_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though other stages are not done; they say why they did not run."""
    Ran(tmp_path, monkeypatch, "", wanted={"dense"})
    again = Ran(tmp_path, monkeypatch, "", wanted={"dense"})
    assert not again.lanes.closed
    assert [(row.state, row.why) for row in again.rows[:2]] == [("cached", None), ("left out", "not asked for")]


def test_what_happens_while_a_choice_is_copied_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large artefact takes its time; lanes are listened to meanwhile."""
    begun, heard, copied = threading.Event(), threading.Event(), []
    listen = Scripted.take

    def slow(*arguments: Any) -> dict[str, Any]:
        begun.set()
        copied.append(heard.wait(30))
        return take(*arguments)

    def listening(lanes: Scripted, timeout: float) -> list[Event]:
        if "other" in lanes.finished:
            assert begun.wait(30)
            heard.set()
        return listen(lanes, timeout)

    monkeypatch.setattr(driver, "take", slow)
    monkeypatch.setattr(Scripted, "take", listening)
    ran = Ran(tmp_path, monkeypatch, SELECT, unheard=0.1)
    assert copied == [True]
    assert {row.state for row in ran.rows} == {"done"}


def test_networks_are_timed_before_a_choice_by_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def time(store: Store, stages: Sequence[Node], at: Latency) -> None:
        for number, node in enumerate(stages):
            speeds.leave(store, node.key, [{**at.model_dump(), "latency": {"middle": (4 - 2 * number) / 1000}}])

    monkeypatch.setattr(driver, "time_side_by_side", time)
    ran = Ran(tmp_path, monkeypatch, TIMED, {"half": 99.0, "other": 95.0})
    assert ran.manifest("quick")["chosen"]["name"] == "other"
    assert "quick: times 2 networks (torch on" in ran.file.getvalue()


@pytest.mark.parametrize("said", ["its networks could not be timed: why", "its networks were timed, but not as"])
def test_a_choice_whose_networks_are_not_timed_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def time(store: Store, stages: Sequence[Node], at: Latency) -> None:
        if "why" in said:
            raise Untimed(said)

    monkeypatch.setattr(driver, "time_side_by_side", time)
    ran = Ran(tmp_path, monkeypatch, TIMED)
    assert ran.states["quick"] == "failed"
    assert said in str(ran.row("quick").why)


def test_a_choice_by_milliseconds_of_another_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError) as caught:
        Ran(tmp_path, monkeypatch, TIMED.replace(json.dumps(machine()), "elsewhere"))
    assert f"this machine's is {machine()!r}; give that, and networks are timed anew" in str(caught.value)
