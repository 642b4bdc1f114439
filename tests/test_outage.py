"""Whole runs whose store fills up, or goes away for a while: what is said, and that the same command goes on."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dualprune.pipeline.store import inventory
from dualprune.pipeline.store.store import Store
from tests.running import TWO_STAGES, Running, dualprune, json_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def command(folder: Path, store: Path) -> list[str]:
    """The command of a run in `folder` with its store there: its first stage is long, and often saved."""
    (folder / "file.yaml").write_text(TWO_STAGES)
    settings = (f"store={store}", "engine.checkpoint_steps=5", "stages.dense.train.epochs=40")
    return ["run", "file.yaml", "--json", *(word for setting in settings for word in ("--set", setting))]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small filesystem. Skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small filesystem can only be mounted by root, in a container that allows it")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def finishes(folder: Path, store: Path) -> None:
    """The same command runs what is left, and all is whole."""
    code, output = dualprune(folder, *command(folder, store))
    assert code == 0, "\n".join(output)
    assert {row["state"] for row in json_of(output)["stages"]} <= {"done", "cached"}
    found = inventory.verify(Store(str(store)))
    assert (found.artefacts, found.damages) == (2, ())


@pytest.mark.soak
def test_a_disk_that_fills_up(tmp_path: Path, disk: Path) -> None:
    """The stage fails with a sentence that names the store and says what to do; with space, it goes on."""
    with Running(tmp_path, *command(tmp_path, disk)) as run:
        run.wait_for("dense: train epoch")
        with (disk / "ballast").open("ab", buffering=0) as ballast:
            while run.process.poll() is None:  # what an older checkpoint gives back is taken too
                space = os.statvfs(disk)
                with suppress(OSError):  # the run may have been faster
                    ballast.write(bytes(max(0, space.f_bavail - 8) * space.f_bsize))
                time.sleep(0.02)
        code, output = run.end()
    told = "\n".join(output)
    assert code == 1, told
    assert f"dense failed: StoreError: the store {disk} has no space left: free some" in told
    assert "Traceback" not in told
    (disk / "ballast").unlink()
    assert inventory.verify(Store(str(disk))).damages == ()
    finishes(tmp_path, disk)


def test_a_store_that_is_away_for_a_while(tmp_path: Path) -> None:
    """The stage is tried again, and goes on when the store is back."""
    store = tmp_path / "store"
    with Running(tmp_path, *command(tmp_path, store)) as run:
        run.wait_for("dense: train epoch")
        store.rename(tmp_path / "away")
        run.wait_for(f"dense: StoreAway: the store {store} is not there on ")
        assert not store.exists()
        (tmp_path / "away").rename(store)
        code, output = run.end()
    assert code == 0, "\n".join(output)
    assert any("dense: goes on after step" in line for line in output)
    finishes(tmp_path, store)
