"""Whole runs on a GPU: `pytest -m gpu`, on a machine that has one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from tests.running import CONFIG, Running, dualprune, json_of, stage
from tests.test_run import LEFT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or not asked for with -m gpu"),
]
ON_IT = ["--set", "cluster.gpus=1", "--set", "cluster.workers=1"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run(tmp_path: Path, precision: str) -> None:
    """Exactly the weights that were asked for, as accurate as on a CPU."""
    (tmp_path / "small.yaml").write_text(CONFIG)
    code, lines = dualprune(tmp_path, "run", "small.yaml", "--json", "--set", f"precision={precision}", *ON_IT)
    assert code == 0, "\n".join(lines)
    rows = json_of(lines)["stages"]
    assert [row["state"] for row in rows] == ["done"] * 3
    assert [row["nonzeros"] for row in rows[1:]] == [sum(LEFT[row["name"]].values()) for row in rows[1:]]
    assert all(row["val_accuracy"] > 80 and row["test_accuracy"] > 80 for row in rows)


def test_a_compiled_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    """From a checkpoint in mid-stage."""
    (tmp_path / "small.yaml").write_text(CONFIG)
    arguments = ["run", "small.yaml", "--json", *ON_IT, "--set", "engine.compile=true"]
    arguments += ["--set", "engine.checkpoint_steps=5"]
    with Running(tmp_path, *arguments) as run:
        run.wait_for_checkpoint(tmp_path, parts=1)
        run.process.send_signal(signal.SIGKILL)
        run.end()
    code, lines = dualprune(tmp_path, *arguments)
    assert code == 0, "\n".join(lines)
    assert [row["state"] for row in json_of(lines)["stages"]] == ["done"] * 3
    assert stage(lines, "prune-8x")["nonzeros"] == sum(LEFT["prune-8x"].values())
