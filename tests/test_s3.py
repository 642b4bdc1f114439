"""A whole run whose store is on S3, and where its credentials are not."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualprune.stages.files.folder import Folder
from tests.running import TWO_STAGES, Running, dualprune, json_of
from tests.s3server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(1800)]


def written(folder: Path, store: Folder, pid: int) -> Iterator[tuple[str, bytes]]:
    """Every file that the run has left: beside it (logs, W&B), in its store, and in Ray's own folder."""
    ray = Path(tempfile.gettempdir(), "ray").glob(f"session_*_{pid}")
    for file in [file for top in (folder, *ray) for file in top.rglob("*")]:
        if file.is_file():
            yield str(file), file.read_bytes()
    for name in store.files():
        yield f"{store.url}/{name}", store.read(name)


def test_a_run_on_s3(tmp_path: Path, s3: S3Server) -> None:
    """It runs, runs nothing the second time, verifies, and its credentials are in nothing that it wrote."""
    store = Folder(f"s3://{BUCKET}/{uuid.uuid4().hex}/runs")
    (tmp_path / "file.yaml").write_text(TWO_STAGES)
    command = ("run", "file.yaml", "--json", "--set", f"store={store.url}", "--set", "cluster.workers=2")
    with Running(tmp_path, *command) as run:
        code, output = run.end()
    assert code == 0, "\n".join(output)
    assert [row["state"] for row in json_of(output)["stages"]] == ["done"] * 2
    found = dict(written(tmp_path, store, run.process.pid))
    for part in ("driver.log", "lane-0-rank-1.log", ".wandb", "/manifest.json", "raylet.out", "plans/two.json"):
        assert any(part in name for name in found), part
    for secret in (SECRET_KEY, ACCESS_KEY):
        assert secret not in "\n".join(output)
        assert [name for name, data in found.items() if secret.encode() in data] == []
    code, output = dualprune(tmp_path, *command)
    assert (code, [row["state"] for row in json_of(output)["stages"]]) == (0, ["cached"] * 2)
    code, output = dualprune(tmp_path, "store", "verify", "--store", store.url, "--json")
    assert (code, json_of(output)["artefacts"], json_of(output)["damages"]) == (0, 2, [])
    code, output = dualprune(tmp_path, "store", "gc", "file.yaml", "--store", store.url)
    assert (code, output[-1]) == (0, "nothing can go")
