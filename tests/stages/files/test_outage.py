"""A store that is full, read-only or away: a clear error that names it, nothing lost, and the same call goes on."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.store import inventory
from dualprune.pipeline.store.store import Store
from dualprune.stages.files import folder as files
from dualprune.stages.files.folder import MARK, Folder
from dualprune.stages.files.outage import StoreAway, StoreError, told
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.training.stage import run_stage
from tests.stages.conftest import MakeTask
from tests.stages.files.test_faults import KEY, settled
from tests.stages.training.test_stage import made, prune, quiet, same_bytes

pytestmark = pytest.mark.usefixtures("one_rank")


def mount(*arguments: str) -> None:
    """Call mount(8)."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a filesystem in memory of a size; unmounted after. Skips where we may not."""
    made: list[Path] = []

    def make(size: str) -> Path:
        folder = tmp_path / f"tmpfs-{len(made)}"
        folder.mkdir()
        try:
            mount("-t", "tmpfs", "-o", f"size={size}", "none", str(folder))
        except (subprocess.CalledProcessError, FileNotFoundError):
            pytest.skip("a small filesystem can only be mounted by root, in a container that allows it")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.fixture
def tiny(make_task: MakeTask) -> Callable[[str], StageJob]:
    """A prune of four epochs in a store at that path, which is a store already."""
    return lambda store: make_task(prune(batch=160), KEY, store=store)


@pytest.fixture
def whole(tiny: Callable[[str], StageJob]) -> StageJob:
    """That stage, run in peace."""
    task = tiny("whole")
    made(task)
    return task


def at_epoch(number: int, act: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """A log that does something at the end of an epoch, once the checkpoint of the one before is written."""

    def log(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == number:
            settled()
            act()

    return log


def goes_on(task: StageJob, whole: StageJob, step: int) -> None:
    """Nothing is damaged; the stage goes on from a step, and ends with the same bits."""
    assert inventory.verify(Store(task.store)).damages == ()
    begun: list[dict[str, Any]] = []
    run_stage(task, begun.append)
    assert begun[0]["steps"] == step
    same_bytes(task, whole)


@pytest.mark.parametrize("kilobytes", [16, 36, 60, 84, 100, 120])
def test_a_full_disk(
    tmpfs: Callable[[str], Path], tiny: Callable[[str], StageJob], whole: StageJob, kilobytes: int
) -> None:
    """At the first checkpoint, a later one, or the commit; with more space the stage goes on from what fitted."""
    store = tmpfs(f"{kilobytes}k")
    task = tiny(str(store))
    with pytest.raises(StoreError, match=rf"the store {store} has no space left: free some .*, then run the same"):
        run_stage(task, quiet)
    settled()
    mount("-o", "remount,size=8m", str(store))
    step = Store(task.store).checkpoint_steps(KEY)
    newest = inventory.verify(Store(task.store))
    assert newest.damages == ()
    begun: list[dict[str, Any]] = []
    run_stage(task, begun.append)
    assert begun[0]["steps"] in ({0} if step is None else {step, step - 2})
    same_bytes(task, whole)


def test_a_store_that_turns_read_only(
    tmpfs: Callable[[str], Path], tiny: Callable[[str], StageJob], whole: StageJob
) -> None:
    """In the middle of a stage."""
    store = tmpfs("8m")
    task = tiny(str(store))
    with pytest.raises(StoreError, match=rf"the store {store} is read-only: make it writable, then run the same"):
        run_stage(task, at_epoch(2, lambda: mount("-o", "remount,ro", str(store))))
    with pytest.raises(StoreError, match="is read-only"):
        Store(str(store)).probe()
    with pytest.raises(StoreError, match="is read-only"):
        run_stage(task, quiet)
    mount("-o", "remount,rw", str(store))
    goes_on(task, whole, 2)


def test_a_folder_that_is_moved_away_and_back(tiny: Callable[[str], StageJob], whole: StageJob, tmp_path: Path) -> None:
    """It is not made anew in its old place, and what was in it does not count as absent."""
    task = tiny("store")
    store, away = Path(task.store), tmp_path / "away"
    opened = Folder(task.store).established()
    message = rf"the store {store} is not there on {socket.gethostname()}: .* bring it back, then run the same command"
    with pytest.raises(StoreAway, match=message):
        run_stage(task, at_epoch(2, lambda: store.rename(away) and None))
    with pytest.raises(StoreAway) as caught:
        (opened / KEY).write("x", b"")
    assert caught.value.__cause__ is None  # nor itself
    for call in (
        lambda: run_stage(task, quiet),
        lambda: opened.read(f"{KEY}/manifest.json"),
        lambda: opened.names(KEY),
        lambda: opened.exists(KEY),
        lambda: opened.create("locks/x", b""),
        lambda: (opened / KEY).write("x", b""),
        lambda: Store(task.store).folder.established(),
    ):
        with pytest.raises(StoreAway, match="is not there"):
            call()
    assert not store.exists()
    away.rename(store)
    goes_on(task, whole, 2)


def test_a_store_that_is_unmounted(
    tmpfs: Callable[[str], Path], tiny: Callable[[str], StageJob], whole: StageJob, tmp_path: Path
) -> None:
    """The empty folder that it was mounted on is not taken for it."""
    store, disk = tmpfs("1m"), tmp_path / "disk"
    disk.mkdir()
    mount("--bind", str(disk), str(store))
    task = tiny(str(store))
    with pytest.raises(StoreAway, match=rf"the store {store} is not there"):
        run_stage(task, at_epoch(3, lambda: subprocess.run(["umount", "-l", str(store)], check=True) and None))
    assert os.listdir(store) == []
    mount("--bind", str(disk), str(store))
    goes_on(task, whole, 4)
    subprocess.run(["umount", str(store)], check=True)


def test_a_folder_that_is_no_store_is_not_made_one_by_a_worker(tiny: Callable[[str], StageJob], tmp_path: Path) -> None:
    """A node that does not share the driver's folder says so, in place of starting a store of its own."""
    task = tiny("store").model_copy(update={"store": str(tmp_path / "elsewhere")})
    for _ in range(2):
        with pytest.raises(StoreAway, match="or not shared with this machine"):
            run_stage(task, quiet)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_store_is_marked_once(tmp_path: Path) -> None:
    """And may be opened without a mark until it is written to as a store."""
    folder = Folder(str(tmp_path / "store"))
    folder.write("x", b"")
    folder.establish()
    before = (tmp_path / "store" / MARK).stat()
    (Folder(str(tmp_path / "store")).establish() / "a/b").write("c/d", b"deep")
    assert (tmp_path / "store" / MARK).stat() == before
    assert folder.read("a/b/c/d") == b"deep"


class Answer(Exception):
    """What a client library raises."""


class EndpointConnectionError(ConnectionError):
    """As botocore's."""


class NoCredentialsError(Answer):
    """As botocore's."""


@pytest.mark.parametrize(
    ("error", "local", "kind", "text"),
    [
        (OSError(errno.ENOSPC, "No space"), True, StoreError, "has no space left"),
        (OSError(errno.EDQUOT, "Quota"), True, StoreError, "has used up its quota"),
        (OSError(errno.EROFS, "Read-only"), True, StoreError, "is read-only"),
        (
            PermissionError("Access Denied"),
            False,
            StoreError,
            "refuses access: look at its permissions, or at your cred",
        ),
        (PermissionError(errno.EACCES, "x"), True, StoreError, "refuses access"),
        (OSError(errno.EIO, "disk"), True, StoreError, "reports an I/O error"),
        (OSError(errno.EIO, "what is this"), False, StoreAway, "does not answer"),
        (OSError(errno.EBUSY, "SlowDown"), False, StoreAway, r"does not answer \(.*SlowDown\)"),
        (OSError(errno.ESTALE, "Stale file handle"), True, StoreAway, "does not answer"),
        (OSError(errno.ENOTCONN, "Transport endpoint is not connected"), True, StoreAway, "does not answer"),
        (EndpointConnectionError("host:9000"), False, StoreAway, r"does not answer \(host:9000\)"),
        (TimeoutError(), False, StoreAway, r"does not answer \(TimeoutError\)"),
        (NoCredentialsError("Unable to locate credentials"), False, StoreError, "wants credentials"),
    ],
)
def test_errors_are_told_in_words_that_help(error: Exception, local: bool, kind: type, text: str) -> None:
    """Each names the store; a class says whether it may pass."""
    found = told(error, "s3://bucket/runs", local)
    assert type(found) is kind
    with pytest.raises(kind, match=f"the store s3://bucket/runs {text}"):
        raise found
    assert told(found, "elsewhere", local) is found


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENAMETOOLONG, "too long"), IsADirectoryError("x")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    """They say enough, or are our own mistakes."""
    assert told(error, "store", True) is error


def test_a_service_is_asked_again_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With longer and longer pauses; what can't pass is not repeated, and patience ends."""
    pauses: list[float] = []
    monkeypatch.setattr(files.time, "sleep", pauses.append)
    folder = Folder("memory://asked-again")
    errors: list[Exception] = [ConnectionResetError(), OSError(errno.EBUSY, "503"), TimeoutError()]

    def pipe(path: str, data: bytes, **_: Any) -> None:
        if errors:
            raise errors.pop(0)

    monkeypatch.setattr(folder.fs, "pipe_file", pipe)
    folder.write("x", b"")
    assert len(pauses) == 3
    assert pauses[0] <= 0.25 < pauses[2] <= 1.0
    errors.append(PermissionError("Access Denied"))
    with pytest.raises(StoreError, match="refuses access"):
        folder.write("x", b"")
    assert (len(pauses), errors) == (3, [])
    errors += [TimeoutError()] * 1000
    monkeypatch.setattr(files, "PATIENCE", -1.0)
    with pytest.raises(StoreAway, match="the store memory://asked-again does not answer"):
        folder.write("x", b"")
    assert len(errors) == 999


def test_patience_begins_with_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt may last longer than it, and another follows; then it ends, counted from the first failure."""
    monkeypatch.setattr(files, "PATIENCE", 0.5)
    folder = Folder("memory://slow-to-fail")
    attempts = 0

    def read(path: str, **_: object) -> bytes:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            time.sleep(0.6)
            raise TimeoutError
        return b"there"

    monkeypatch.setattr(folder.fs, "cat_file", read)
    assert (folder.read("x"), attempts) == (b"there", 2)

    def fail(path: str, **_: object) -> bytes:
        nonlocal attempts
        attempts += 1
        raise TimeoutError

    attempts = 0
    monkeypatch.setattr(folder.fs, "cat_file", fail)
    start = time.monotonic()
    with pytest.raises(StoreAway, match="does not answer"):
        folder.read("x")
    assert attempts >= 2
    assert time.monotonic() - start < 5.0  # on a busy machine; by itself it is half a second


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_web_server_may_send_for_as_long_as_it_takes(scheme: str) -> None:
    """aiohttp gives up on a whole file after five minutes by itself; here it does when nothing comes any more."""
    fs = Folder(f"{scheme}://localhost/shards").fs
    timeout = fs.client_kwargs["timeout"]
    assert (timeout.total, timeout.sock_connect, timeout.sock_read) == (None, 60.0, 60.0)
    assert asyncio.run(used(fs)) == timeout
    assert Folder(f"{scheme}://localhost/others").fs is fs
    assert not hasattr(Folder("memory://x").fs, "client_kwargs")


async def used(fs: Any) -> Any:
    """The timeout of the session that such a filesystem asks with."""
    async with await fs.get_client(loop=asyncio.get_running_loop(), **fs.client_kwargs) as session:
        return session.timeout
