"""Real stages, mirrored to W&B's offline files and to TensorBoard: undisturbed, and killed in the middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.trackers.wandbfiles import Mirrored, mirrored
from tests.processes import PATH
from tests.running import TWO_STAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MORE = ("stages.half.admm.updates=3", "stages.half.retrain.epochs=2")
RUN = ("dualprune", "run", "two.yaml", "--inline", "--set")
TENSORS = ("0.weight", "2.weight", "6.weight", "8.weight")
EPOCHS = ("epoch", "loss", "lr", "val_accuracy", "val_loss", "samples_per_second", "step_seconds", "waited")


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A run in one process."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    (folder / "two.yaml").write_text(TWO_STAGES)
    return subprocess.run(
        [sys.executable, "-m", *command, *MORE],
        cwd=folder,
        env=own | {"PYTHONPATH": PATH, "AWS_SECRET_ACCESS_KEY": "hunter2"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def rows(folder: Path, mirrored: Mirrored) -> list[dict[str, Any]]:
    """Of a stage, as its artefact has them."""
    lines = (folder / "runs" / mirrored.config["key"] / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def same(folder: Path, found: Mirrored) -> None:
    """A stage's series are those of its artefact: without holes or doubles, however slow the machine is.

    The slower it is, the more is told of places within epochs.
    """
    expected, every = rows(folder, found), found.series("_step")
    assert every == sorted(set(every))
    assert found.series("steps") == every
    found = replace(found, rows=[row for row in found.rows if "epoch" in row])
    assert found.series("_step") == [row["steps"] for row in expected]
    names = {"loss": "loss", "lr": "lr", "rho": "rho", "primal": "residual", "dual": "change", "churn": "churn"}
    for name, own in {**names, "left": "left", "val_accuracy": "val_accuracy"}.items():
        assert found.series(name) == pytest.approx([row[own] for row in expected if own in row]), name
    for tensor in TENSORS:
        solved = [row["tensors"][tensor] for row in expected if tensor in row.get("tensors", {})]
        for name in ("primal", "dual", "left", "churn"):
            assert found.series(f"{name}/{tensor}") == pytest.approx([one[name] for one in solved]), name
        sparsity = [1 - one["left"] / one["size"] for one in solved]
        assert found.series(f"sparsity/{tensor}") == pytest.approx(sparsity)
        counts = [row["histograms"][tensor]["counts"] for row in expected if "histograms" in row]
        assert [one["values"] for one in found.series(f"weights/{tensor}")] == counts


def test_every_series_of_a_run_is_there(tmp_path: Path) -> None:
    """With group, kind, settings, layers and lineage."""
    done = ran(tmp_path, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    found = mirrored(tmp_path / "runs" / "logs" / "two")
    assert set(found) == {"dense", "half", "two"}
    assert {(one.run.run_group, one.code) for one in found.values()} == {("two", 0)}
    half, dense = found["half"], found["dense"]
    assert [found[name].run.job_type for name in ("dense", "half", "two")] == ["train", "prune", "summary"]
    for one in (half, dense):
        assert one.run.run_id == f"two-{one.config['key']}"
        same(tmp_path, one)
        for name in EPOCHS:
            assert len(one.series(name)) >= len(one.series("epoch")), name
        assert all(value > 1e6 for value in one.series("memory_bytes"))
        assert "layers" in one.rows[-1]
    assert len(half.series("primal")) == 3
    assert half.config["spec"]["admm"]["updates"] == 3
    assert half.config["parents"] == {"dense": dense.config["key"]}
    assert half.networks(used=True) == dense.networks(used=False) == [("two-dense", dense.config["key"])]
    assert half.networks(used=False) == [("two-half", half.config["key"])]
    assert half.summary["final/rate"] == 2.0
    folder = tmp_path / "runs" / "logs" / "two" / "wandb"
    assert f"to send: wandb sync {folder}/offline-run-*" in done.stdout
    assert [path for path in folder.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()] == []


def test_a_killed_run_has_one_series(tmp_path: Path) -> None:
    """The driver's process is killed in the middle of a stage, and W&B's with it; the next run goes on with both."""
    killed = ran(tmp_path, "tests.killed", "two.yaml", "half", "32")
    assert killed.returncode < 0, killed.stdout + killed.stderr
    logs = tmp_path / "runs" / "logs" / "two"
    before = set(logs.rglob("*.wandb"))
    done = ran(tmp_path, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "half: goes on after step 16" in done.stdout
    found = mirrored(logs)
    for name in ("dense", "half"):
        same(tmp_path, found[name])
    assert found["dense"].path in before
    assert found["half"].path not in before
    assert len(list((logs / "wandb").glob("offline-run-*"))) == 3
