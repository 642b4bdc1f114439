"""The cache of remote shards: bounded, checked, fetched once for all processes, and patient with its service."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import multiprocessing
import os
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualprune.stages.data.format import DataError
from dualprune.stages.data.read.cache import Cache
from dualprune.stages.files.folder import Folder
from tests.s3server import BUCKET, S3Server

SIZE = 1000


def content(number: int) -> bytes:
    """The bytes of a shard."""
    return np.random.default_rng(number).bytes(SIZE)


def entry(number: int) -> dict[str, Any]:
    """A shard's entry in a manifest."""
    return {"file": f"{number}.tar", "bytes": SIZE, "sha256": hashlib.sha256(content(number)).hexdigest()}


@pytest.fixture
def remote() -> Folder:
    """Eight shards in memory."""
    folder = Folder(f"memory://{uuid.uuid4().hex}")
    for number in range(8):
        folder.write(f"{number}.tar", content(number))
    return folder


def copies(root: Path) -> set[int]:
    """The shards that there are copies of; fails if anything else is left but the lock."""
    known = {f"{entry(number)['sha256']}.tar": number for number in range(8)}
    return {known[file.name] for file in root.iterdir() if file.name != "alone"}


def test_what_is_kept_is_not_fetched(tmp_path: Path, remote: Folder, fetched: list[str]) -> None:
    """Bytes that are at hand are taken in; what a process left that died meanwhile goes."""
    (tmp_path / "at hand").write_bytes(content(2))
    cache = Cache(str(tmp_path / "cache"), 3 * SIZE)
    for _ in range(2):
        cache.keep(str(tmp_path / "at hand"), entry(2))
    (tmp_path / "cache" / f"{entry(4)['sha256']}.part").write_bytes(content(4)[:500])
    assert cache.read(remote, entry(2), 10, 20) == content(2)[10:30]
    assert cache.read(remote, entry(1), 0, SIZE) == content(1)
    assert fetched == ["1.tar"]
    assert copies(tmp_path / "cache") == {1, 2}


def test_a_shard_is_fetched_once_and_the_least_used_makes_room(
    tmp_path: Path, remote: Folder, fetched: list[str]
) -> None:
    cache = Cache(str(tmp_path), 3 * SIZE)
    for number in (0, 1, 2, 0, 1, 0):
        assert cache.read(remote, entry(number), 10, 20) == content(number)[10:30]
    assert fetched == ["0.tar", "1.tar", "2.tar"]
    assert copies(tmp_path) == {0, 1, 2}
    cache.read(remote, entry(3), 0, 1)
    assert copies(tmp_path) == {0, 1, 3}
    for number in range(8):
        cache.read(remote, entry(number), 0, 1)
        assert len(copies(tmp_path)) <= 3
    assert copies(tmp_path) == {5, 6, 7}


def test_a_shard_larger_than_the_cache_is_refused(tmp_path: Path, remote: Folder) -> None:
    with pytest.raises(DataError, match=r"0\.tar has 1000 bytes, more than data.cache \(999\)"):
        Cache(str(tmp_path), 999).read(remote, entry(0), 0, 1)


@pytest.mark.parametrize("why", ["full", "a file"])
def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, remote: Folder, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """As what it is, and not as the store."""
    root = tmp_path / "cache"
    if why == "full":

        def fetch(self: Folder, path: str, target: str) -> None:
            with open("/dev/full", "wb", buffering=0) as file:
                file.write(b"...")

        monkeypatch.setattr(Folder, "fetch", fetch)
    else:
        root.write_text("...")
    with pytest.raises(DataError, match=f"the cache of shards {root} can't be written .* DUALPRUNE_CACHE"):
        Cache(str(root), 8 * SIZE).read(remote, entry(0), 0, SIZE)


def test_a_shard_that_is_not_what_it_was_is_refused_by_name(
    tmp_path: Path, remote: Folder, fetched: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    remote.write("0.tar", content(1))
    with pytest.raises(DataError, match=r"0\.tar is not what the manifest says"):
        Cache(str(tmp_path), 3 * SIZE).read(remote, entry(0), 0, 1)
    assert fetched == ["0.tar"] * 3
    assert "0.tar came in damaged" in caplog.text
    remote.remove("1.tar")
    with pytest.raises(DataError, match=r"1\.tar is missing"):
        Cache(str(tmp_path), 3 * SIZE).read(remote, entry(1), 0, 1)
    assert copies(tmp_path) == set()


def test_what_a_dead_process_left_is_removed(tmp_path: Path, remote: Folder) -> None:
    name = entry(5)["sha256"]
    for other in (name, "f" * 64):
        (tmp_path / f"{other}.{SIZE}.lock").touch()
        (tmp_path / f"{other}.part").write_bytes(b"half")
    assert Cache(str(tmp_path), SIZE).read(remote, entry(5), 0, SIZE) == content(5)
    assert copies(tmp_path) == {5}


def test_what_another_process_is_fetching_counts(tmp_path: Path, remote: Folder) -> None:
    cache = Cache(str(tmp_path), 3 * SIZE)
    for number in (0, 1, 2):
        cache.read(remote, entry(number), 0, 1)
    lock = tmp_path / f"{'f' * 64}.{SIZE}.lock"
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        cache.read(remote, entry(3), 0, 1)
        assert lock.exists()
        lock.unlink()
    assert copies(tmp_path) == {2, 3}


def _reader(root: str, folder: str, limit: int, seed: int, notes: str) -> None:
    remote, cache = Folder(folder), Cache(root, limit)
    plain = remote.fetch

    def noted(path: str, target: str) -> None:
        with open(notes, "a") as file:
            file.write(f"{path}\n")
        plain(path, target)

    remote.fetch = noted  # type: ignore[method-assign]
    for number in np.random.default_rng(seed).integers(0, 8, 60):
        assert cache.read(remote, entry(int(number)), 5, 100) == content(int(number))[5:105]
        with cache._alone():  # so that no file goes and another comes while they are counted
            used = sum(file.stat().st_size for file in os.scandir(root) if file.name.endswith(".tar"))
        assert used <= limit, used


@pytest.mark.parametrize("limit", [8 * SIZE, 3 * SIZE], ids=["room for all", "room for three"])
def test_processes_share_it(tmp_path: Path, limit: int) -> None:
    there, root, notes = tmp_path / "there", tmp_path / "cache", tmp_path / "notes"
    for folder in (there, root):
        folder.mkdir()
    for number in range(8):
        (there / f"{number}.tar").write_bytes(content(number))
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_reader, args=(str(root), str(there), limit, seed, str(notes))) for seed in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    if limit == 8 * SIZE:
        assert sorted(notes.read_text().split()) == [f"{number}.tar" for number in range(8)]
    assert len(copies(root)) <= limit // SIZE


@pytest.mark.slow
def test_a_service_that_refuses_now_and_then_is_asked_again(tmp_path: Path, s3: S3Server) -> None:
    remote = Folder(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    remote.write("0.tar", content(0))
    refused = iter([True] * 8)
    s3.refuses = lambda method, path: path.endswith("0.tar") and next(refused, False)
    try:
        assert Cache(str(tmp_path), SIZE).read(remote, entry(0), 0, SIZE) == content(0)
    finally:
        s3.refuses = lambda method, path: False
    assert next(refused, None) is None


class Moody(http.server.BaseHTTPRequestHandler):
    """Serves shard 0: refuses first, then cuts the connection, then sends other bytes, then the right ones."""

    def do_GET(self) -> None:
        """Answer."""
        answers: list[str] = self.server.answers  # type: ignore[attr-defined]
        answer = answers.pop(0) if answers else "right"
        self.send_response(503 if answer == "refuse" else 200)
        body = content(1 if answer == "other" else 0)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:400] if answer == "cut" else body)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def moody() -> Iterator[http.server.ThreadingHTTPServer]:
    """A web server on a port of this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    server.answers = ["refuse", "cut", "other", "refuse"]  # type: ignore[attr-defined]
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_server_may_refuse_cut_off_and_err(tmp_path: Path, moody: http.server.ThreadingHTTPServer) -> None:
    remote = Folder(f"http://127.0.0.1:{moody.server_port}/shards")
    assert remote.sizes() is None
    assert Cache(str(tmp_path), SIZE).read(remote, entry(0), 0, SIZE) == content(0)
    assert moody.answers == []  # type: ignore[attr-defined]
