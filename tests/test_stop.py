"""Runs that are told to end: by Ctrl-C and by SIGTERM, on real Ray processes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

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
