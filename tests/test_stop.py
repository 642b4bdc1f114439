"""Runs that are told to end: by Ctrl-C, SIGTERM, a closed terminal and a batch system's warning."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.running import CONFIG, Running, alive, bits, dualprune, json_of, stage, title

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def stopped(folder: Path, key: str, how: signal.Signals, code: int) -> int:
    """Stop a run in its second stage: it saves where it is, leaves no process behind and says how to go on.

    Ctrl-C goes to all processes of a terminal; SIGTERM, to the one that was started. Returns the step that it is at.
    """
    (folder / "small.yaml").write_text(CONFIG)
    with Running(folder, "run", "small.yaml", "--json") as run:
        run.wait_for("prune-4x: training")
        run.wait_for_checkpoint(folder / "runs" / key)
        group = run.group()
        if how == signal.SIGINT:
            os.killpg(run.process.pid, how)
        else:
            run.process.send_signal(how)
        ended, output = run.end()
    shown = "\n".join(output)
    assert ended == code, shown
    assert output[-1] == "stopped; the same command goes on from what is saved", shown
    assert "Traceback" not in shown
    assert [title(process) for process in group if alive(process)] == []
    step = re.search(r"prune-4x: stopped after step (\d+), and saved there", shown)
    assert step is not None, shown
    _, plan = dualprune(folder, "plan", "small.yaml", "--json")
    assert [row["state"] for row in json_of(plan)["stages"]] == ["cached", "resume", "run"]
    return int(step[1])


def test_a_terminated_run_saves_where_it_is(undisturbed: tuple[Path, list[str]], tmp_path: Path) -> None:
    """As one that is interrupted; that it goes on from there is shown of that one."""
    stopped(tmp_path, stage(undisturbed[1], "prune-4x")["key"], signal.SIGTERM, 143)


@pytest.mark.soak
def test_an_interrupted_run_goes_on_from_that_very_step(undisturbed: tuple[Path, list[str]], tmp_path: Path) -> None:
    """And ends with the undisturbed run's bits."""
    reference, lines = undisturbed
    step = stopped(tmp_path, stage(lines, "prune-4x")["key"], signal.SIGINT, 130)
    ended, output = dualprune(tmp_path, "run", "small.yaml", "--json")
    assert ended == 0, "\n".join(output)
    assert f"prune-4x: goes on after step {step}" in output
    assert bits(tmp_path) == bits(reference)


LONG = CONFIG.replace("retrain: {epochs: 6,", "retrain: {epochs: 5000,", 1)
"""Its second stage lasts until it is told to end."""


def logged(folder: Path) -> str:
    """The driver's log so far."""
    return "".join(log.read_text() for log in folder.glob("runs/logs/small/*/driver.log"))


def wait_until_logged(folder: Path, text: str) -> None:
    """Return once the driver's log holds `text`."""
    limit = time.monotonic() + 300
    while text not in logged(folder):
        assert time.monotonic() < limit, logged(folder)
        time.sleep(0.05)


def states(folder: Path, verb: str) -> dict[str, tuple[str, str]]:
    """State and reason of each stage."""
    code, lines = dualprune(folder, verb, "small.yaml", "--json")
    assert code == 0, lines
    return {row["name"]: (row["state"], row["why"]) for row in json_of(lines)["stages"]}


def saved(folder: Path) -> None:
    """The second stage was saved where it was, and the loss of its output told once."""
    log = logged(folder)
    step = re.search(r"prune-4x: stopped after step (\d+)", log)
    assert step is not None, log
    assert log.count("can't be written") == 1, log
    assert states(folder, "plan")["prune-4x"] == ("resume", f"goes on after step {step[1]}, its last checkpoint")


def test_a_run_whose_terminal_closes_saves_where_it_is(tmp_path: Path) -> None:
    """The kernel tells all processes of the terminal, Ray's too; what is said then can't be written any more."""
    (tmp_path / "small.yaml").write_text(LONG)
    outer, inner = pty.openpty()
    run = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "dualprune", "run", "small.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm"},
        stdin=inner,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)

    def read() -> None:
        with suppress(OSError):
            while os.read(outer, 65536):
                pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        wait_until_logged(tmp_path, "prune-4x: trains from step")
        time.sleep(1.0)
        started: list[Any] = psutil.Process(run.pid).children(recursive=True)
        os.kill(run.pid, signal.SIGWINCH)  # nothing but the end of the terminal ends it
        os.close(outer)
        assert run.wait(timeout=60) == 143
    finally:
        run.kill()
        run.wait()
    assert [title(process) for process in started if alive(process)] == []
    saved(tmp_path)


def test_a_warning_to_all_of_a_job_saves_where_it_is(tmp_path: Path) -> None:
    """As Slurm sends one. Of a run under nohup, which no closed terminal ends, with a full disk under its output.

    Meanwhile others see how it is.
    """
    (tmp_path / "small.yaml").write_text(LONG)
    nohup = (
        "import os, sys; full = os.open('/dev/full', os.O_WRONLY); os.dup2(full, 1); os.dup2(full, 2);"
        "os.execvp('nohup', ['nohup', sys.executable, '-m', 'dualprune', *sys.argv[1:]])"
    )
    with Running(tmp_path, "run", "small.yaml", program=("-c", nohup)) as run:
        wait_until_logged(tmp_path, "prune-4x: trains from step")
        run.process.send_signal(signal.SIGHUP)
        time.sleep(3.0)
        there = states(tmp_path, "status")
        assert there["dense"] == ("done", None)
        assert there["prune-4x"][0] == "running"
        assert re.fullmatch(r"(admm|retrain) epoch .* left, since \d{4}-.* UTC", there["prune-4x"][1])
        assert there["prune-8x"] == ("queued", "waits for prune-4x")
        os.killpg(run.process.pid, signal.SIGUSR1)
        os.killpg(run.process.pid, signal.SIGUSR1)
        assert run.end() == (143, [])
    saved(tmp_path)
    assert states(tmp_path, "status")["prune-8x"] == ("run", "not finished yet")
