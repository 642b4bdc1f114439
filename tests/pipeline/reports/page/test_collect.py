"""What is found out of a run from its store alone, whatever became of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dualprune.pipeline.reports.page.collect import NoRun, collect, runs
from dualprune.pipeline.reports.page.facts import Run
from dualprune.pipeline.store.locks import Locks, run_lock, stage_lock
from dualprune.pipeline.store.progress import Progress
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import read
from dualprune.stages.files.folder import Folder
from tests.pipeline.reports.page.made import CHOICE, LADDER, Made, make, rows


def states(run: Run) -> dict[str, str]:
    """Of all stages."""
    return {stage.name: stage.state for stage in run.stages.values()}


def test_a_finished_run_is_what_its_manifests_say(tmp_path: Path) -> None:
    store = make(str(tmp_path), CHOICE)
    run = collect(store, "made")
    assert (run.state, run.missing) == ("finished", ())
    assert list(run.stages) == [stage.name for stage in CHOICE], "in the file's order"
    for made in CHOICE:
        manifest, stage = read(store.folder / made.key), run.stages[made.name]
        assert manifest is not None
        assert (stage.state, stage.key, stage.kind) == ("done", made.key, made.kind)
        assert stage.metrics == manifest["metrics"]
        found = {one.name: (one.size, one.nonzeros, one.residual) for one in stage.tensors}
        residuals = manifest["residuals"]
        assert found == {
            name: (one["size"], one["nonzeros"], residuals.get(name)) for name, one in manifest["tensors"].items()
        }
        bits = {one.name: (one.value_bits, one.total_bits) for one in stage.tensors if one.bits is not None}
        stored = (manifest["storage"] or {"tensors": {}})["tensors"]
        assert bits == {name: (one["data_bits"], one["total_bits"]) for name, one in stored.items()}
        source = next(one for one in CHOICE if one.name == (made.chosen or made.name))
        numbers = [{name: one for name, one in row.items() if name != "tensors"} for row in rows(source)]
        assert [dict(row) for row in stage.rows] == numbers
    assert (run.way.chosen, run.way.stages) == ("quantize", ("dense", "prune-4x", "prune-10x", "quantize"))
    history = run.stages["prune-10x"].history
    assert history is not None
    assert [why for _, why in history.retries] == ["a worker was killed"]
    assert (run.samples, run.gpus, run.drivers) == (400, 0, 1)


def test_masks_are_compared(tmp_path: Path) -> None:
    overlap = collect(make(str(tmp_path), LADDER), "made").overlap
    assert overlap is not None
    assert overlap.stages == ("prune-4x", "prune-10x", "prune-25x"), "the dense one keeps all"
    assert overlap.shares["prune-25x", "prune-4x"] == 1, "what is pruned later was kept before"
    assert 0.3 < overlap.shares["prune-4x", "prune-10x"] < 0.5


def test_a_run_from_before_the_log_of_events(tmp_path: Path) -> None:
    run = collect(make(str(tmp_path), LADDER, events=False), "made")
    assert run.state == "finished"
    assert [stage.name for stage in run.stages.values()] == ["dense", "prune-4x", "prune-10x", "prune-25x"]
    assert [stage.parents for stage in run.stages.values()] == [(), ("dense",), ("prune-4x",), ("prune-10x",)]
    assert len(run.missing) == 1
    assert "older than the log of events" in run.missing[0]


def test_a_run_that_failed(tmp_path: Path) -> None:
    worse = Made("prune-10x", ("prune-4x",), failed="ValueError: no")
    stages = (*LADDER[:2], worse, Made("prune-25x", ("prune-10x",), begun=False))
    store = make(str(tmp_path), stages, ended="failed")
    run = collect(store, "made")
    assert run.state == "failed"
    assert states(run) == {"dense": "done", "prune-4x": "done", "prune-10x": "failed", "prune-25x": "not begun"}
    assert run.stages["prune-10x"].why == "ValueError: no"
    assert [row["epoch"] for row in run.stages["prune-10x"].rows] == [1, 2], "as far as it was told of"
    assert run.missing == ("Failed: prune-10x.", "Never begun: prune-25x.")
    assert run.way.chosen == "prune-4x"


def test_a_run_whose_driver_was_killed_and_whose_store_has_lost_much(tmp_path: Path) -> None:
    store = make(str(tmp_path), LADDER, ended=None)
    store.folder.remove(LADDER[1].key)
    store.folder.remove(f"{LADDER[2].key}/holds.safetensors")
    (tmp_path / LADDER[3].key / "manifest.json").write_text("{")
    run = collect(store, "made")
    assert run.state == "killed"
    assert states(run) == {"dense": "done", "prune-4x": "lost", "prune-10x": "lost", "prune-25x": "lost"}
    assert run.stages["prune-4x"].metrics["test_accuracy"] == 98.75, "as the log of events has it"
    assert len(run.stages["prune-4x"].rows) == 6
    assert run.stages["prune-10x"].tensors, "its manifest is there"
    gone, damaged, broken = run.missing
    assert gone.startswith("prune-4x: it was done, and its artefact is not in the store any more")
    assert "holds.safetensors is missing" in damaged
    assert "manifest.json is no JSON" in broken
    assert run.way.chosen == "prune-25x"


def test_a_lost_artefact_is_noticed_without_events(tmp_path: Path) -> None:
    store = make(str(tmp_path), LADDER, events=False)
    store.folder.remove(LADDER[0].key)
    run = collect(store, "made")
    assert states(run)["dense"] == "lost"
    assert "though prune-4x was made of it" in run.missing[0]
    assert run.way.dense == "prune-4x", "the first that has numbers"
    assert "is not in this store: it is compared with that stage" in run.missing[-1]


def test_damaged_rows_and_records_are_said_and_the_rest_stands(tmp_path: Path) -> None:
    store = make(str(tmp_path), LADDER)
    (path,) = (tmp_path / LADDER[1].key).glob("metrics.jsonl")
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    run = collect(store, "made")
    assert states(run) == dict.fromkeys(states(run), "done")
    assert "metrics.jsonl has changed" in run.missing[0]
    assert len(run.stages["prune-4x"].rows) == 6, "those of the log of events"


def test_a_run_that_is_going_on(tmp_path: Path) -> None:
    store = make(str(tmp_path), LADDER, ended=None)
    store.folder.remove(LADDER[2].key)
    store.folder.remove(LADDER[3].key)
    log = tmp_path / "events/made/20231114-221320-aaaa-000000.jsonl"
    kept = [line for line in log.read_text().splitlines() if json.loads(line).get("stage") not in ("prune-25x",)]
    kept = [line for line in kept if json.loads(line)["event"] != "done" or json.loads(line)["stage"] != "prune-10x"]
    log.write_text("\n".join(kept))
    lines = {"prune-10x": "prune-10x: admm epoch 6/20"}
    with Locks(store.folder, "made") as locks:
        locks.take(run_lock("made"))
        locks.take(stage_lock(LADDER[2].key))
        with Progress(store.folder, "made", lambda: lines, every=0.01) as progress:
            progress.account = lambda: {"since": {"prune-10x": "12:00"}}
            while not (tmp_path / "progress/made.json").exists() or "since" not in store.folder.read_json(
                "progress/made.json"
            ):
                pass
            run = collect(store, "made")
    assert run.state == "going"
    assert states(run) == {"dense": "done", "prune-4x": "done", "prune-10x": "running", "prune-25x": "queued"}
    assert run.missing == ("Still being trained: prune-10x.", "Still to be run: prune-25x.")
    assert run.stages["prune-10x"].why == "admm epoch 6/20"
    assert len(run.stages["prune-10x"].rows) == 6
    assert collect(store, "made").state == "killed", "once nobody holds its lock"


def test_a_stage_that_is_at_work_in_another_run(tmp_path: Path) -> None:
    store = make(str(tmp_path), LADDER, ended="failed")
    store.folder.remove(LADDER[3].key)
    with Locks(store.folder, "another") as locks:
        locks.take(stage_lock(LADDER[3].key))
        stage = collect(store, "made").stages["prune-25x"]
    assert (stage.state, stage.why) == ("running", "is at work in the run another")


def test_a_store_anywhere(place: Folder) -> None:
    run = collect(make(place.url, CHOICE), "made")
    assert states(run) == dict.fromkeys(states(run), "done")
    assert run.overlap is not None
    assert run.missing == ()


def test_trials_that_only_artefacts_name(tmp_path: Path) -> None:
    """A search from before the log of events: its artefact says what it took, that one's what it came from."""
    trials = (Made("found@1", ("dense",), 4), Made("found@2", ("found@1",), 8))
    stages = (LADDER[0], *trials, Made("found", ("dense",), kind="search", chosen="found@2"))
    store = make(str(tmp_path), stages, events=False)
    store.note_plan("made", {name: one for name, one in store.last_plan("made").items() if "@" not in name})
    run = collect(store, "made")
    assert list(run.stages) == ["dense", "found@1", "found@2", "found"]
    assert run.way.stages == ("dense", "found@1", "found@2")
    assert run.way.why == "found chose it on validation"


def test_a_stage_that_is_asked_for(tmp_path: Path) -> None:
    store = make(str(tmp_path), CHOICE)
    assert collect(store, "made", "at-once-10x").way.stages == ("dense", "at-once-10x")
    with pytest.raises(KeyError):
        collect(store, "made", "other")


def test_runs_of_a_store(tmp_path: Path) -> None:
    store = make(str(tmp_path), LADDER)
    make(str(tmp_path), LADDER[:1], "another")
    assert runs(store) == ["another", "made"]
    with pytest.raises(NoRun, match="has no run 'that'; it has another, made"):
        collect(store, "that")
    with pytest.raises(NoRun, match="it has none"):
        collect(Store(str(tmp_path / "empty")), "that")
