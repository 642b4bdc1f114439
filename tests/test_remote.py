"""A Ray cluster whose workers have dualprune's dependencies but not dualprune: the packages are sent along."""

from __future__ import annotations

import os
import subprocess
import time
import venv
from pathlib import Path

import pytest
import torch

from tests.running import CONFIG, dualprune, json_of

pytestmark = pytest.mark.slow


def test_workers_get_the_packages(tmp_path: Path) -> None:
    """A head started from an environment that can't import dualprune runs a stage of it."""
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    # As PYTHONPATH, site-packages gives the dependencies without the .pth files that editable installs work by.
    site = Path(torch.__file__).parent.parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(site)}
    bare = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    if subprocess.run([python, "-c", "import stages"], **bare).returncode == 0:  # type: ignore[call-overload]
        pytest.skip("dualprune is installed as a copy into site-packages, so no environment here lacks it")
    port = "6399"
    # In the foreground, so that its end is the end of this cluster's processes and of no other's.
    start = [python, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=2", "--block"]
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen(
            [*start, "--include-dashboard=false"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        _wait(tmp_path / "head.log", "Ray runtime started")
        (tmp_path / "small.yaml").write_text(CONFIG)
        address = ["--set", f"cluster.address=127.0.0.1:{port}"]
        code, output = dualprune(tmp_path, "run", "small.yaml", *address, "--set", "cluster.workers=64")
        assert code == 2, "\n".join(output)
        assert "a stage's workers need 64 CPUs at once, and the cluster has 2" in output[-1]
        settings = ["cluster.workers=1", f"cluster.address=127.0.0.1:{port}", "stages.dense.train.epochs=1"]
        settings += ["stages.prune-4x.admm.updates=1", "stages.prune-4x.retrain.epochs=1"]
        arguments = [part for setting in settings for part in ("--set", setting)]
        code, output = dualprune(tmp_path, "run", "small.yaml", "--json", *arguments)
        assert code == 0, "\n".join(output)
        assert [row["state"] for row in json_of(output)["stages"]] == ["done"] * 3
    finally:
        head.terminate()
        head.wait(timeout=60)


def _wait(log: Path, text: str) -> None:
    limit = time.monotonic() + 120
    while text not in log.read_text():
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.1)
