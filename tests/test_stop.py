"""Runs that are told to end: by Ctrl-C and by SIGTERM, on real Ray processes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.running import CONFIG, Running, alive, bits, dualprune, json_of, stage, title

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on_from_that_very_step(
    undisturbed: tuple[Path, list[str]], tmp_path: Path, how: signal.Signals, code: int
) -> None:
    """It saves where it is, leaves no process behind, says how to go on, and ends with the undisturbed run's bits.

    Ctrl-C goes to all processes of a terminal; SIGTERM, to the one that was started.
    """
    reference, lines = undisturbed
    (tmp_path / "small.yaml").write_text(CONFIG)
    with Running(tmp_path, "run", "small.yaml", "--json") as run:
        run.wait_for("prune-4x: training")
        run.wait_for_checkpoint(tmp_path / "runs" / stage(lines, "prune-4x")["key"])
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
    stopped = re.search(r"prune-4x: stopped after step (\d+), and saved there", shown)
    assert stopped is not None, shown
    step = int(stopped[1])
    _, plan = dualprune(tmp_path, "plan", "small.yaml", "--json")
    assert [row["state"] for row in json_of(plan)["stages"]] == ["cached", "resume", "run"]
    ended, output = dualprune(tmp_path, "run", "small.yaml", "--json")
    assert ended == 0, "\n".join(output)
    assert f"prune-4x: goes on after step {step}" in output
    assert bits(tmp_path) == bits(reference)
