"""Runs beside each other on one store, as real processes: by one name, and by two names with a stage in common."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.running import CONFIG, Running, dualprune, json_of, title

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(1800)]

LONGER = ("--set", "stages.dense.train.epochs=20")
"""So that the first run is still at the stage when it is held still."""


def test_of_two_runs_of_one_name_one_works(tmp_path: Path) -> None:
    """The second says who does, and ends; or it waits. A run of another name finds the stage that both have."""
    text = CONFIG.replace("workers: 2", "workers: 1")
    (tmp_path / "small.yaml").write_text(text)
    other = text.replace("name: small", "name: other").split("  - name: prune-8x")[0].replace("epochs: 6", "epochs: 1")
    (tmp_path / "other.yaml").write_text(other)
    with ExitStack() as runs:
        first = runs.enter_context(Running(tmp_path, "run", "small.yaml", "--json", *LONGER))
        first.wait_for("dense: training")
        # Held still, its worker too, so that it is at work on the stage for as long as the others take to come to it.
        held = [
            *(child for child in first.group() if "RayTrainWorker" in title(child)),
            psutil.Process(first.process.pid),
        ]
        for process in held:
            process.suspend()
        beside = runs.enter_context(Running(tmp_path, "run", "other.yaml", "--json", *LONGER))
        waiting = runs.enter_context(Running(tmp_path, "run", "small.yaml", "--json", "--wait", *LONGER))
        code, output = dualprune(tmp_path, "run", "small.yaml", *LONGER)
        assert code == 1
        said = next(line for line in output if "small is not started: run-small is held by" in line)
        assert f"process {first.process.pid}" in said
        assert "--wait" in said
        beside.wait_for("dense: is at work in another run")
        for process in held:
            process.resume()
        for run in (first, beside, waiting):
            code, output = run.end()
            assert code == 0, "\n".join(output)
    rows = [{row["name"]: row for row in json_of(run.lines)["stages"]} for run in (first, beside, waiting)]
    assert len({row["dense"]["artefact"] for row in rows}) == 1
    assert rows[1]["prune-4x"]["artefact"] != rows[0]["prune-4x"]["artefact"]
    logs = [(tmp_path / "runs" / "logs" / name).glob("*/driver.log") for name in ("small", "other")]
    trained = [
        line for found in logs for log in found for line in log.read_text().splitlines() if "trains from" in line
    ]
    assert sum(" dense: trains from step 0" in line for line in trained) == 1, trained
    assert sum(" prune-8x: trains from step 0" in line for line in trained) == 1, trained
