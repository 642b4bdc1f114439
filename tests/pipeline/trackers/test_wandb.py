"""Weights & Biases: what is mirrored is read back from its files, and from a service that takes it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.config.schema import Monitor
from dualprune.pipeline.trackers.table import Given, mirror
from dualprune.pipeline.trackers.wandb.mode import Choice
from dualprune.pipeline.trackers.wandb.tracker import WandB
from dualprune.stages.files.folder import Folder
from tests.pipeline.trackers import events
from tests.pipeline.trackers.events import DENSE, HALF, LAYERS, done, ended, epoch, failed, place, resumed, training
from tests.pipeline.trackers.test_outage import sent
from tests.pipeline.trackers.wandbfiles import Mirrored, mirrored
from tests.pipeline.trackers.wandbserver import WandBServer

pytestmark = pytest.mark.usefixtures("_offline", "_asked_anew")
WHOLE = [
    events.begun(),
    events.submitted("dense"),
    training("dense"),
    epoch("dense", 1),
    done("dense"),
    events.submitted("half"),
    training("half"),
    place("half", 5),
    place("half", 10),
    *(epoch("half", number) for number in range(1, 5)),
    done("half"),
    ended("done"),
]


def ran(folder: Path, happens: list[dict[str, Any]], **settings: Any) -> list[str]:
    """Mirror events to W&B; all that is said of it."""
    said: list[str] = []
    given = Given(
        Monitor(**{"wandb": "auto", "project": "project", **settings}),
        "tiny",
        events.store(folder),
        folder / "logs",
        said.append,
    )
    with mirror(given) as found:
        found.patience = 60.0
        for event in happens:
            found.hear(event)
    return said


def left_of(folder: Path) -> dict[str, Mirrored]:
    """By name."""
    return mirrored(folder / "logs")


def test_each_stage_is_a_run_of_one_group(tmp_path: Path) -> None:
    """By its kind, under its key, with what it was asked for; the run of all has the table of stages."""
    ran(tmp_path, WHOLE)
    found = left_of(tmp_path)
    described = {name: (one.run.run_id, one.run.job_type, one.code) for name, one in found.items()}
    assert described == {
        "dense": (f"tiny-{DENSE}", "train", 0),
        "half": (f"tiny-{HALF}", "prune", 0),
        "tiny": ("tiny-summary", "summary", 0),
    }
    assert {(one.run.run_group, one.run.project) for one in found.values()} == {("tiny", "project")}
    config = found["half"].config
    assert (config["spec"], config["parents"], config["key"]) == ({"batch": 32}, {"dense": DENSE}, HALF)
    assert found["tiny"].config["settings"] == {"store": "s3://***@bucket"}
    table = json.loads(next(tmp_path.rglob("stages_*.table.json")).read_text())
    row = dict(zip(table["columns"], table["data"][1], strict=True))
    assert (row["stage"], row["state"], row["metric"], row["val"], row["rate"]) == ("half", "done", "error", 1.25, 2.0)


def test_all_series_are_there_by_step(tmp_path: Path) -> None:
    """In all and by tensor; the place at an epoch's end is its row's."""
    ran(tmp_path, WHOLE)
    half = left_of(tmp_path)["half"]
    assert half.series("_step") == [5, 10, 20, 30, 40]
    assert half.series("steps") == [5, 10, 20, 30, 40]
    assert half.series("step_loss") == [0.4]
    expected: dict[str, list[Any]] = {
        "loss": [1, 1 / 2, 1 / 3, 1 / 4],
        "val_error": [8, 4, 8 / 3, 2],
        "val_hits": [10, 20, 30, 40],
        "rho": [0.01, 0.02, 0.03, 0.04],
        "primal": [0.5, 0.25, 0.5 / 3, 0.125],
        "dual": [0.25, 0.125, 0.25 / 3, 0.0625],
        "left": [100] * 4,
        "churn": [0.125] * 4,
        "sparsity": [1 - 100 / 712] * 4,
        "primal/0.weight": [0.5] * 4,
        "dual/8.weight": [0.25] * 4,
        "left/8.weight": [64] * 4,
        "sparsity/8.weight": [0.9] * 4,
        "churn/0.weight": [0.125] * 4,
        "samples_per_second": [100] * 5,
        "step_seconds": [0.05] * 5,
        "waited": [0.125] * 5,
        "memory_bytes": [1e9] * 5,
        "lr": [0.1] * 5,
        "phase": ["admm"] * 5,
    }
    for name, values in expected.items():
        series = half.series(name)
        assert series == (values if name == "phase" else pytest.approx(values)), name
    assert half.series("weights/0.weight")[0] == {
        "_type": "histogram",
        "values": [2, 3, 5, 2],
        "bins": [-1, -0.5, 0, 0.5, 1],
    }


def test_series_are_declared(tmp_path: Path) -> None:
    """Steps are all axes; the best is the least or the most, as the metric has it."""
    ran(tmp_path, WHOLE)
    half = left_of(tmp_path)["half"]
    assert half.metrics["*"].step_metric == "steps"
    best = {name: (one.summary.min, one.summary.max, one.summary.last) for name, one in half.metrics.items()}
    assert best["val_error"] == best["loss"] == (True, False, True)
    assert best["val_hits"] == (False, True, True)
    assert half.summary["val_error"] == {"min": 2, "last": 2}
    assert (half.summary["final/rate"], half.summary["final/advice"]) == (2.0, "more of it")


@pytest.mark.parametrize("upload", [False, True])
def test_networks_are_logged_and_used(tmp_path: Path, upload: bool) -> None:
    """By reference to the store, or, if asked for, as they are; a child's parent is the very same one."""
    ran(tmp_path, WHOLE, upload=upload)
    found = left_of(tmp_path)
    assert found["dense"].networks(used=False) == found["half"].networks(used=True) == [("tiny-dense", DENSE)]
    assert found["half"].networks(used=False) == [("tiny-half", HALF)]
    assert found["dense"].networks(used=True) == []
    (own,) = [one for one in found["dense"].artifacts if one.type == "network"]
    used = next(one for one in found["half"].artifacts if one.use_after_commit)
    assert own.digest == used.digest
    places = {entry.path: (entry.ref, Path(entry.local_path).exists()) for entry in own.manifest.contents}
    assert set(places) == {"model.safetensors", "manifest.json"}
    if upload:
        assert places["model.safetensors"][1]
        assert not places["model.safetensors"][0]
    else:
        assert places["model.safetensors"][0] == f"file://{tmp_path}/store/{DENSE}/model.safetensors"
    table = json.loads(next(tmp_path.rglob("layers_*.table.json")).read_text())
    assert table["columns"] == ["name", "shape", "weights", "left", "rate", "sets"]
    assert table["data"][1] == ["8.weight", "10 x 64", 640, 64, 10, ", ".join(LAYERS["8.weight"]["sets"])]  # type: ignore[arg-type]


def test_a_stage_that_goes_on_is_told_whole_and_its_older_files_go(tmp_path: Path) -> None:
    """Where its driver was killed, all that it had told; where its workers were, nothing twice."""
    begins = [events.begun(), events.submitted("half"), training("half")]
    ran(tmp_path, [*begins, epoch("half", 1), place("half", 15)])
    before = next((tmp_path / "logs").rglob(f"*{HALF}.wandb"))
    on = [events.begun(), events.submitted("half"), resumed("half", 20), place("half", 25), epoch("half", 3)]
    again = [resumed("half", 20), place("half", 25), place("half", 28), epoch("half", 3), epoch("half", 4)]
    said = ran(tmp_path, [*on, *again, done("half"), ended("done")])
    half = left_of(tmp_path)["half"]
    assert not before.exists()
    assert half.run.run_id == f"tiny-{HALF}"
    assert half.series("_step") == [10, 20, 25, 30, 40]
    assert half.series("loss") == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert said[-1] == f"W&B: 2 runs are on disk; to send: wandb sync {tmp_path}/logs/wandb/offline-run-*"


def test_what_failed_and_what_never_ended_is_marked(tmp_path: Path) -> None:
    """As failed; also a stage that never began."""
    ran(tmp_path, [events.begun(), training("dense"), epoch("dense", 1), failed("half"), ended("failed")])
    found = left_of(tmp_path)
    assert {name: one.code for name, one in found.items()} == {"dense": 1, "half": 1, "tiny": 1}
    assert found["half"].summary["failed"] == "it broke"


def test_a_page_is_shown_with_the_run(tmp_path: Path) -> None:
    """A report, that is, if one is attached."""
    page, given = (
        tmp_path / "page.html",
        Given(Monitor(wandb="offline"), "tiny", events.store(tmp_path), tmp_path / "logs", print),
    )
    page.write_text("<p>how it went</p>")
    with mirror(given) as found:
        found.hear(events.begun())
        found.hear(ended("done"))
        found.attach(page)
    shown = [path.read_text() for path in (tmp_path / "logs").rglob("*.html") if "latest-run" not in path.parts]
    assert shown
    assert all("how it went" in text for text in shown)
    assert mirrored(tmp_path / "logs")["tiny"].rows[0]["report"]["_type"] == "html-file"


def test_nothing_secret_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this process's arguments nor its environment are in any file."""
    monkeypatch.setattr(sys, "argv", ["dualprune", "run", "--set", "store=s3://me:hunter2@bucket"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    ran(tmp_path, WHOLE)
    files = [path for path in (tmp_path / "logs").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []


@pytest.mark.parametrize(("given", "project"), [(None, "theirs"), ("ours", "ours")])
def test_the_project_is_wandbs_own_where_none_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, project: str
) -> None:
    """WANDB_PROJECT, that is, or `wandb init`'s."""
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    ran(tmp_path, [events.begun(), ended("done")], project=given)
    assert left_of(tmp_path)["tiny"].run.project == project


def test_online_a_stage_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose rows W&B lacks from some step on; nothing is left to be sent."""
    with WandBServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        ran(tmp_path, [events.begun(), training("half"), epoch("half", 1), place("half", 15)])
        assert [row["_step"] for row in server.runs[f"tiny-{HALF}"]] == [10, 15]
        on = [events.begun(), resumed("half", 30), place("half", 35), epoch("half", 4), done("half"), ended("done")]
        said = ran(tmp_path, on)
        rows = server.runs[f"tiny-{HALF}"]
        assert [row["_step"] for row in rows] == [10, 15, 20, 30, 35, 40]
        assert [row["loss"] for row in rows if "loss" in row] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert len(said) == 1
    assert said[0].startswith("W&B: online at http://127.0.0.1")


def test_what_is_told_to_send_is_taken(tmp_path: Path) -> None:
    """By wandb's own program, and a service: all rows of offline files are there after it."""
    said = ran(tmp_path, WHOLE)
    command = re.fullmatch(r"W&B: 3 runs are on disk; to send: (.*)", said[-1])
    assert command is not None, said
    with WandBServer() as server:
        sent(command[1], server, tmp_path)
        assert [row["_step"] for row in server.runs[f"tiny-{HALF}"]] == [5, 10, 20, 30, 40]
        assert set(server.runs) == {f"tiny-{DENSE}", f"tiny-{HALF}", "tiny-summary"}
        made = {(run, name): digest for run, name, digest in server.logged}
        assert server.used == [(f"tiny-{HALF}", made[f"tiny-{DENSE}", "tiny-dense"])]
        assert (f"tiny-{HALF}", "tiny-half") in made
        assert (f"tiny-{HALF}", "tiny-dense") not in made
    assert WandB(Choice("offline", ""), None, "tiny", Folder(str(tmp_path)), tmp_path / "logs", print).left() == []
