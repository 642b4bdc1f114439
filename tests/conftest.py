"""What all tests share: a run to compare with; folders on a disk, in memory and on an S3 service."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
import torch
from filelock import FileLock

from dualprune.stages.data.make import convert
from dualprune.stages.files import answers
from dualprune.stages.files.folder import Folder
from tests.running import CONFIG, dualprune
from tests.s3server import BUCKET, S3Server


def pytest_configure(config: pytest.Config) -> None:
    """One thread each, here and in what tests start: files of tests may run side by side. No GPU without `-m gpu`."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def answers_kept(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a test finds out of networks no other test of its process knows: theirs may have the same names.

    The folder of it, by which XDG_CACHE_HOME can tell another process; it is made when something is kept.
    """
    place = tmp_path_factory.getbasetemp() / f"answers-{uuid.uuid4().hex}"

    def folder(*names: str) -> Path:
        path = Path(place, "dualprune", *names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    monkeypatch.setattr(answers, "cache_folder", folder)
    return place


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Path, list[str]]:
    """A finished run and its output; one for all processes that run tests side by side."""
    place = tmp_path_factory.getbasetemp()
    folder = (place if worker_id == "master" else place.parent) / "undisturbed"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            (folder / "small.yaml").write_text(CONFIG)
            code, lines = dualprune(folder, "run", "small.yaml", "--json")
            assert code == 0, "\n".join(lines)
            (folder / "output").write_text("\n".join(lines))
        return folder, (folder / "output").read_text().split("\n")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 service with a bucket; this process, and those that it starts, find it by their environment."""
    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield server
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder."""
    if request.param == "local":
        return Folder(str(tmp_path / "place"))
    if request.param == "memory":
        return Folder(f"memory://{uuid.uuid4().hex}")
    request.getfixturevalue("s3")
    return Folder(f"s3://{BUCKET}/{uuid.uuid4().hex}/place")


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are written in this process, which takes less time and sees what is in its memory."""
    monkeypatch.setattr(convert, "ProcessPoolExecutor", lambda processes, context, begin: ThreadPoolExecutor(1))
