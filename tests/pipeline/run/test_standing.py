"""How stages stand while runs are at work, and after their drivers were killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline import output
from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.plan.why import record
from dualprune.pipeline.run import driver
from dualprune.pipeline.run.results import status
from dualprune.pipeline.run.standing import scene as scene_of
from dualprune.pipeline.store import locks as lock
from dualprune.pipeline.store.locks import Locks, run_lock, stage_lock
from dualprune.pipeline.store.progress import left
from dualprune.stages.artefacts.manifest import MANIFEST, own_hash
from dualprune.stages.files.folder import canonical
from tests.pipeline.common import artefact, config, loaded
from tests.pipeline.run.test_driver import ERROR, Scripted

SINCE = "2026-11-28 19:40:03 UTC"
DRIVER = """
import json, sys, time
from dualprune.pipeline.store.locks import Locks
from dualprune.pipeline.store.progress import Progress
from dualprune.stages.files.folder import Folder
store, names, lines, account = Folder(sys.argv[1]), *map(json.loads, sys.argv[2:])
locks = Locks(store, "tiny")
for name in names:
    locks.take(name)
progress = Progress(store, "tiny", lambda: lines, every=0.01)
progress.account = lambda: account
progress.__enter__()
while not store.exists("progress/tiny.json"):
    time.sleep(0.01)
print("at work", flush=True)
time.sleep(600)
"""


class Scene:
    """A store in which CONFIG's first stage is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store, plan = planning.make(*loaded(folder))
        self.keys = {planned.node.name: planned.node.key for planned in plan}
        artefact(self.store.url, self.keys["dense"])
        self.drivers: list[subprocess.Popen[str]] = []

    def driver(self, stages: list[str], lines: dict[str, str], **account: Any) -> subprocess.Popen[str]:
        """A process that holds the run and these stages, and says this of itself."""
        locks = [run_lock("tiny"), *(stage_lock(self.keys[name]) for name in stages)]
        account.setdefault("keys", {name: self.keys[name] for name in stages})
        account = {"since": {}, "asked": None, "failed": [], "stopping": False, "done": [], **account}
        given = [self.store.url, *map(json.dumps, (locks, lines, account))]
        self.drivers.append(subprocess.Popen([sys.executable, "-c", DRIVER, *given], stdout=subprocess.PIPE, text=True))
        assert self.drivers[-1].stdout is not None
        assert self.drivers[-1].stdout.readline() == "at work\n"
        return self.drivers[-1]

    def status(self, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, tuple[str, str | None]]:
        """What `dualprune status` says of each stage."""
        assert cli.main(["status", str(config(self.folder)), "--json", *more]) == output.DONE
        rows = json.loads(capsys.readouterr().out)["stages"]
        return {row["name"]: (row["state"], row["why"]) for row in rows}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """One, whose drivers end with the test."""
    scene = Scene(tmp_path)
    yield scene
    for process in scene.drivers:
        process.kill()
        process.communicate()


def test_a_run_that_goes_on(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Running with its epoch and since when, waiting for workers or a parent; and nothing of it once it was killed."""
    lines = {"half": "half: admm epoch 1/2  loss 0.5", "other": "other: waits for its workers"}
    process = scene.driver(["half", "other"], lines, since={"half": SINCE})
    scene.store.note_failure(scene.keys["v1.5-quarter"], "of a run before")
    assert scene.status(capsys) == {
        "dense": ("done", None),
        "half": ("running", f"admm epoch 1/2  loss 0.5, since {SINCE}"),
        "v1.5-quarter": ("queued", "waits for half"),
        "other": ("queued", "waits for its workers"),
    }
    process.kill()
    process.wait()
    scene.store.folder.write(f"{scene.keys['half']}/checkpoints/step-00000007/part-0-of-1.json", b"")
    assert scene.status(capsys) == {
        "dense": ("done", None),
        "half": ("resume", "goes on after step 7, its last checkpoint"),
        "v1.5-quarter": ("failed", "of a run before"),
        "other": ("run", "not run yet"),
    }


def test_a_run_in_which_a_stage_failed(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """What it will not come to is not queued."""
    scene.store.note_failure(scene.keys["half"], "ValueError: broke")
    scene.driver(["other"], {"other": "other: training"}, since={"other": SINCE}, failed=["half"], stopping=True)
    states = scene.status(capsys)
    assert states["half"] == ("failed", "ValueError: broke")
    assert states["v1.5-quarter"] == ("skipped", "a stage before it failed")
    assert states["other"] == ("running", f"training, since {SINCE}")


def test_a_run_that_is_to_do_a_part(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest is not queued."""
    scene.driver([], {}, asked=["half"])
    states = scene.status(capsys)
    assert states["half"] == ("queued", "waits for its turn")
    assert states["other"] == ("run", "not run yet")


def test_a_stage_at_work_in_another_run(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Under another name, too."""
    lines = {"theirs": "theirs: admm epoch 1/2"}
    scene.driver(["half"], lines, since={"theirs": SINCE}, keys={"theirs": scene.keys["half"]})
    state, why = scene.status(capsys, "--set", "name=mine")["half"]
    assert why is not None
    assert (state, why.partition(", in ")[0]) == ("running", f"admm epoch 1/2, since {SINCE}")
    assert "(run tiny, process" in why


def test_a_search_is_as_its_trial(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """That has no row of its own yet."""
    lines = {"half@4": "half@4: admm epoch 1/2", "other@2": "other@2: waits for its workers"}
    scene.driver([], lines, since={"half@4": SINCE})
    states = scene.status(capsys)
    assert states["half"] == ("running", f"its trial half@4: admm epoch 1/2, since {SINCE}")
    assert states["other"] == ("queued", "its trial other@2: waits for its workers")


@pytest.mark.parametrize(("age", "state"), [(lock.STALE - 30, "running"), (lock.STALE + 5, "run")])
def test_a_driver_on_another_machine(scene: Scene, capsys: pytest.CaptureFixture[str], age: float, state: str) -> None:
    """Lives while its heartbeat is no older than STALE, by the store's own clock; told at once, not after a minute."""
    store = scene.store.folder
    me = replace(Locks(store, "tiny").me, machine="another", since=SINCE)
    for name in (run_lock("tiny"), stage_lock(scene.keys["half"])):
        store.write(f"locks/names/{name}/00000001.json", canonical(asdict(me)))
    store.write_json(f"locks/holders/{me.token}.json", {"beat": 1})
    store.write_json("progress/tiny.json", {"lines": {"half": "half: training"}, "since": {"half": SINCE}})
    beat = scene.folder / "store" / "locks" / "holders" / f"{me.token}.json"
    now = beat.stat().st_mtime
    os.utime(beat, (now - age, now - age))
    assert scene.status(capsys)["half"][0] == state


def test_what_another_version_left(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines alone."""
    with Locks(scene.store.folder, "tiny") as locks:
        locks.take(run_lock("tiny"))
        locks.take(stage_lock(scene.keys["half"]))
        scene.store.folder.write_json("progress/tiny.json", {"lines": {"half": "half: admm epoch 1/2"}})
        assert scene.status(capsys)["half"] == ("running", "admm epoch 1/2")


@pytest.mark.parametrize("known", ["by the plan", "by the run", "by its child"])
def test_an_artefact_that_is_gone(scene: Scene, capsys: pytest.CaptureFixture[str], known: str) -> None:
    """Is told from a stage that was never done, and one that is damaged from both."""
    store, key = scene.store, scene.keys["dense"]
    if known == "by the plan":
        settings, problems = loaded(scene.folder)
        record(settings.top.name, *planning.make(settings, problems))
        store.folder.write_json("progress/tiny.json", {"lines": {}, "done": []})
    elif known == "by the run":
        store.folder.write_json("progress/tiny.json", {"lines": {}, "done": [key]})
    else:
        artefact(store.url, scene.keys["half"])
        path = f"{scene.keys['half']}/{MANIFEST}"
        manifest = {**store.folder.read_json(path), "parents": [{"name": "dense", "key": key}]}
        store.folder.write_json(path, {**manifest, "sha256": own_hash(manifest)})
    assert scene.status(capsys)["dense"][0] == "done"
    store.folder.write(f"{key}/{MANIFEST}", b"{")
    why = "was done, but its artefact is damaged; `dualprune store verify` says how"
    assert scene.status(capsys)["dense"] == ("gone", why)
    store.folder.remove(key)
    assert scene.status(capsys)["dense"] == ("gone", "was done, but its artefact is gone")
    assert scene.status(capsys)["other"] == ("run", "not finished yet" if known == "by the plan" else "not run yet")


def test_a_run_says_how_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the tests above have it: here of a driver at work, and at its end."""
    lanes, seen = Scripted({"half": [ERROR]}), []
    take, settings = lanes.take, loaded(tmp_path)
    store, plan = planning.make(*settings)
    key = plan[0].node.key

    def look(timeout: float) -> Any:
        events = take(timeout)
        if lanes.finished == ["dense"] and not seen:
            seen.append("")
        elif seen == [""]:
            limit = time.monotonic() + 30
            while key not in (left(store.folder, "tiny").done or ()) and time.monotonic() < limit:
                time.sleep(0.05)
            now = planning.make(*loaded(tmp_path))[1]
            seen[:] = [(row.name, row.state, row.why) for row in status(now, store, scene_of("tiny", now, store))]
        return events

    monkeypatch.setattr(lanes, "take", look)
    monkeypatch.setattr(driver, "Lanes", lambda *_: lanes)
    assert cli.main(["run", str(config(tmp_path))]) == output.FAILED
    assert seen[0] == ("dense", "done", None)
    assert seen[1:3] == [("half", "queued", "waits for its workers"), ("v1.5-quarter", "queued", "waits for half")]
    ended = left(store.folder, "tiny")
    assert (ended.lines, ended.since, ended.failed, ended.stopping) == ({}, {}, ["half"], True)
    assert key in (ended.done or ())
