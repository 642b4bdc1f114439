"""Whole runs that are killed in the middle of a stage, as `kill -9` does it, and go on."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from tests.running import CONFIG, Running, alive, bits, dualprune, json_of, stage, title

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_kill_and_resume(undisturbed: tuple[Path, list[str]], tmp_path: Path, victim: str) -> None:
    """kill -9 in the middle of a stage: it goes on from its checkpoint, and ends with the undisturbed run's bits."""
    reference, lines = undisturbed
    (tmp_path / "small.yaml").write_text(CONFIG)
    with Running(tmp_path, "run", "small.yaml", "--json") as run:
        run.wait_for("prune-4x: training")
        run.wait_for_checkpoint(tmp_path / "runs" / stage(lines, "prune-4x")["key"])
        children = psutil.Process(run.process.pid).children(recursive=True)
        if victim == "worker":
            workers = [child for child in children if "RayTrainWorker" in title(child)]
            assert len(workers) == 2
            workers[1].send_signal(signal.SIGKILL)
            code, output = run.end()
            assert code == 0, "\n".join(output)
            assert any("prune-4x: its workers were lost; retry 1 of 3" in line for line in output)
        else:
            run.process.send_signal(signal.SIGKILL)
            run.end()
            _, plan = dualprune(tmp_path, "plan", "small.yaml", "--json")
            assert [row["state"] for row in json_of(plan)["stages"]] == ["cached", "resume", "run"]
            code, output = dualprune(tmp_path, "run", "small.yaml", "--json")
            assert code == 0, "\n".join(output)
            assert stage(output, "dense")["state"] == "cached"
            # Ray's own agents may take a minute to see that they are alone; what trains is gone.
            assert [child for child in children if alive(child) and "Train" in title(child)] == []
    assert any("prune-4x: goes on after step" in line for line in output)
    assert bits(tmp_path) == bits(reference)
