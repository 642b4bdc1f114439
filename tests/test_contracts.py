"""The tree's contracts: who imports whom (pyproject.toml, tool.importlinter), and what importing costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATH, ROOT

HEAVY = ("torch", "torchvision", "ray", "deepspeed", "webdataset", "wandb")


def linted(tree: Path) -> subprocess.CompletedProcess[str]:
    """What import-linter says of a tree, in a process of its own: it switches the loggers of its process off."""
    lint = "from importlinter import cli; sys.exit(cli.lint_imports(no_cache=True))"
    call = f"import sys; sys.path.insert(0, '.src'); {lint}"
    return subprocess.run([sys.executable, "-c", call], cwd=tree, capture_output=True, text=True, check=False)


def test_the_contracts_hold() -> None:
    """import-linter finds nothing."""
    done = linted(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


BREACHES = {
    "stages/files/folder.py": ("import dualprune.cluster.failures", "stages knows nothing of pipeline and cluster"),
    "cluster/spared.py": ("import dualprune.stages.settings.data", "cluster knows nothing of pipeline and stages"),
    "pipeline/run/driver.py": ("import ray", "ray is for cluster alone"),
    "stages/training/loop.py": ("import deepspeed.comm", "deepspeed has one door"),
    "stages/data/read/memory.py": ("import webdataset", "webdataset has one door"),
    "pipeline/run/view.py": ("import wandb", "wandb has one door"),
    "pipeline/trackers/mirror.py": ("import tensorboard", "tensorboard has one door"),
    "pipeline/reports/page/page.py": ("import vl_convert", "vl_convert has one door"),
    "pipeline/run/results.py": ("import torch", "pipeline holds no tensors"),
    "stages/settings/training.py": ("import dualprune.stages.networks.builtin", "what is pure stays light"),
}


def test_a_breach_of_each_contract_is_found(tmp_path: Path) -> None:
    """Also by an import within a function: in a copy of the tree where each is broken once, each is reported."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / ".src" / "dualprune"
    shutil.copytree(ROOT / ".src" / "dualprune", package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, (line, _) in BREACHES.items():
        path = package / file
        path.write_text(f"{path.read_text()}\n\ndef _breach() -> None:\n    {line}\n")
    done = linted(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    for _, contract in BREACHES.values():
        assert f"{contract} BROKEN" in done.stdout, done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "dualprune",
        "dualprune.pipeline.cli.main",
        "dualprune.pipeline.run.driver",
        "dualprune.cluster.lanes",
        "dualprune.pipeline.trackers.table",
    ],
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    """So that bad input is refused, and help is printed, at once."""
    call = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.slow
def test_a_users_own_modules_change_nothing(tmp_path: Path) -> None:
    """Packages and files called as ours are within `dualprune`: in the working folder, and on the search path."""
    for place in (tmp_path, tmp_path / "theirs"):
        for name in ("pipeline", "cluster", "tests"):
            (place / name).mkdir(parents=True)
            (place / name / "__init__.py").write_text("raise AssertionError('not ours')")
        for name in ("stages", "configs"):
            (place / f"{name}.py").write_text("raise AssertionError('not ours')")
    (tmp_path / "file.yaml").write_text((ROOT / "configs" / "digits.yaml").read_text())
    own = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "theirs"), PATH])}
    for command in (["plan", "file.yaml"], ["plan", "digits"], ["run", "file.yaml", "--smoke", "--only", "dense"]):
        call = [sys.executable, "-m", "dualprune", *command]
        done = subprocess.run(call, cwd=tmp_path, env=own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
