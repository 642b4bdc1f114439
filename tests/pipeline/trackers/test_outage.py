"""A W&B that hangs, resets connections or answers with errors: nothing waits for it, and nothing is lost."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.config.schema import Monitor
from dualprune.pipeline.trackers.table import Given, mirror
from dualprune.pipeline.trackers.wandb import tracker
from tests.pipeline.trackers import events
from tests.pipeline.trackers.events import DENSE, HALF, done, ended, epoch, training
from tests.pipeline.trackers.wandbfiles import mirrored
from tests.pipeline.trackers.wandbserver import WandBServer
from tests.processes import PATH
from tests.running import TWO_STAGES

HOWS = ["hang", "reset", "500"]
STEPS = [10, 20, 30]


def sent(command: str, server: WandBServer, folder: Path) -> None:
    """Carry out a command that sends runs, as a shell does; `folder` is where it leaves logs of its own."""
    whole = command.replace("wandb", shlex.join([sys.executable, "-m", "wandb"]), 1)
    done = subprocess.run(
        whole,
        shell=True,
        cwd=folder,
        env=os.environ | server.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def commands(said: list[str]) -> list[str]:
    """Those that send what is on disk, of all that was said."""
    return [found[1] for line in said if (found := re.search(r"(?:to send: |W&B: and )(wandb sync .*)", line))]


def happens(stage: str) -> list[dict[str, Any]]:
    """A stage up to its end."""
    return [events.submitted(stage), training(stage), *(epoch(stage, number) for number in range(1, 4))]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_an_outage_leaves_all_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """One that begins in the middle: the run that is online and those that come after it; each is told how to send.

    Events are taken at once, and the end is not waited for longer than it is said.
    """
    monkeypatch.setattr(tracker, "INITIAL", 3.0)
    monkeypatch.setattr(tracker, "FINAL", 5.0)
    said: list[str] = []
    with WandBServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        given = Given(Monitor(wandb="auto"), "tiny", events.store(tmp_path), tmp_path / "logs", said.append)
        with mirror(given) as found:
            for event in [events.begun(), *happens("dense")]:
                found.hear(event)
            limit = time.monotonic() + 60.0
            while f"tiny-{DENSE}" not in server.runs and time.monotonic() < limit:
                time.sleep(0.05)
            server.how = how
            began = time.monotonic()
            for event in [*happens("half"), done("dense"), done("half"), ended("done")]:
                found.hear(event)
            assert time.monotonic() - began < 0.5
            found.patience = 12.0
            began = time.monotonic()
        assert time.monotonic() - began < 15.0
    assert re.match(r"W&B: offline from here on, in .*/logs, because it took no run: ", said[1])
    assert re.match(r"W&B: 3 runs are on disk; to send: wandb sync --include-online ", said[2])
    assert sum(line.startswith("W&B: offline") for line in said) == 1
    mirrored(tmp_path / "logs")  # wandb's process, which outlives the run for a while here, has written all
    with WandBServer() as server:
        for command in commands(said):
            sent(command, server, tmp_path)
    assert set(server.runs) == {f"tiny-{DENSE}", f"tiny-{HALF}", "tiny-summary"}
    for key in (DENSE, HALF):
        assert [row["_step"] for row in server.runs[f"tiny-{key}"]] == STEPS


@pytest.mark.parametrize("how", [*HOWS, "404"])
@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_an_outage_from_the_start_leaves_offline_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The first run waits for W&B a while, the others do not."""
    monkeypatch.setattr(tracker, "INITIAL", 3.0)
    said: list[str] = []
    with WandBServer(how) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        given = Given(Monitor(wandb="auto"), "tiny", events.store(tmp_path), tmp_path / "logs", said.append)
        with mirror(given) as found:
            found.patience = 60.0
            for event in [events.begun(), *happens("dense"), done("dense"), *happens("half"), done("half")]:
                found.hear(event)
    with WandBServer() as server:
        for command in commands(said):
            sent(command, server, tmp_path)
    assert {run: [row["_step"] for row in rows] for run, rows in server.runs.items()} == {
        f"tiny-{DENSE}": STEPS,
        f"tiny-{HALF}": STEPS,
    }


def bits(folder: Path) -> dict[str, str]:
    """Hashes of what a run has trained."""
    paths = (folder / "runs").glob("*/model.safetensors")
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hang", pytest.param("reset", marks=pytest.mark.soak), "500"])
def test_a_run_ends_well_without_wandb(tmp_path: Path, how: str) -> None:
    """With the bits that it has when nothing is mirrored; it says once that it is offline, and how to send."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own |= {"PYTHONPATH": PATH, "WANDB_CACHE_DIR": str(tmp_path / "cache")}
    trained, lines = {}, list[str]()
    with WandBServer(how) as server:
        for place, mode in (("with", "online"), ("without", "disabled")):
            (tmp_path / place).mkdir()
            (tmp_path / place / "two.yaml").write_text(TWO_STAGES)
            call = [sys.executable, "-m", "dualprune", "run", "two.yaml", "--inline"]
            ended = subprocess.run(
                [*call, "--set", f"monitor.wandb={mode}"],
                cwd=tmp_path / place,
                env=own | server.environment,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
            assert "Traceback" not in ended.stdout + ended.stderr
            trained[place] = bits(tmp_path / place)
            if mode == "online":
                told = [line for line in ended.stdout.splitlines() if line.startswith("W&B: ")]
                assert told[0].startswith("W&B: online at ")
                assert sum("offline from here on" in line for line in told) == 1
                lines = told
    assert len(trained["with"]) == 2
    assert trained["with"] == trained["without"]
    with WandBServer() as server:
        for command in commands(lines):
            sent(command, server, tmp_path)
    assert set(server.runs) == {*(f"two-{key}" for key in trained["with"]), "two-summary"}
