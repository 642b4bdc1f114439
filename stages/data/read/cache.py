"""Copies of remote shards on this machine's disk: checked, bounded, shared by all of its processes.

A copy is named for its sha256, so the same shard is kept once whoever reads it. A process that fetches one holds a
lock file's lock; the system takes it away from a process that dies, and the next one to make room removes what
that left. Who has a file open may read on when it is removed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dualprune.stages.data.format import DataError
from dualprune.stages.files.folder import Folder, sha256_of
from dualprune.stages.files.home import NoHome, cache_folder

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that only this machine's own disk has."""
TRIES = 3
"""Fetches of a shard that comes in damaged."""

_log = logging.getLogger(__name__)


class Cache:
    """Whole shards in a folder of at most `limit` bytes; the ones not used for longest make room."""

    def __init__(self, root: str, limit: int) -> None:
        self.root, self.limit = Path(root), limit

    def read(self, folder: Folder, shard: dict[str, Any], offset: int, size: int) -> bytes:
        """Bytes of a shard (its entry in the manifest), which is fetched from `folder` if there is no copy.

        Raises DataError, and the errors of `folder` once it has been asked patiently.
        """
        path = self.root / f"{shard['sha256']}.tar"
        while True:
            with suppress(FileNotFoundError, NotADirectoryError):
                file = os.open(path, os.O_RDONLY)
                try:
                    os.utime(file)
                    return os.pread(file, size, offset)
                finally:
                    os.close(file)
            with self._writable():
                self._fetch(folder, shard, path)

    def keep(self, file: str, shard: Mapping[str, Any]) -> None:
        """Take in a copy of `file`, the very bytes of a shard, unless there is one. Raises DataError."""
        path = self.root / f"{shard['sha256']}.tar"
        with self._writable(), self._alone():
            if not path.exists():
                shutil.copyfile(file, path.with_suffix(".part"))
                os.replace(path.with_suffix(".part"), path)
                self._make_room()

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """Raise a DataError for errors that this machine's own disk has."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL and not str(error.filename).startswith(str(self.root)):
                raise
            ways = "free space there, or name another folder in DUALPRUNE_CACHE"
            raise DataError(f"the cache of shards {self.root} can't be written ({error}): {ways}") from None

    def _fetch(self, folder: Folder, shard: dict[str, Any], path: Path) -> None:
        """Bring a shard in, or wait for the process that is doing so."""
        url = f"{folder.url}/{shard['file']}"
        if shard["bytes"] > self.limit:
            raise DataError(f"{url} has {shard['bytes']} bytes, more than data.cache ({self.limit}) allows in all")
        part, mine = path.with_suffix(".part"), path.with_suffix(f".{shard['bytes']}.lock")
        with self._alone():
            if path.exists():
                return
            lock = os.open(mine, os.O_RDWR | os.O_CREAT, 0o644)
            ours = _locked(lock)
            if ours:
                self._make_room()
        if not ours:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is there, or who fetched it gave up or died
            os.close(lock)
            return
        try:
            for attempt in range(TRIES):
                try:
                    folder.fetch(shard["file"], str(part))
                except FileNotFoundError:
                    raise DataError(f"{url} is missing, though the manifest lists it") from None
                if sha256_of(str(part)) == shard["sha256"]:
                    os.replace(part, path)
                    return
                _log.warning("%s came in damaged (fetch %d of %d)", url, attempt + 1, TRIES)
            raise DataError(f"{url} is not what the manifest says: its sha256 differs, {TRIES} times")
        finally:
            with self._alone():
                part.unlink(missing_ok=True)
                mine.unlink(missing_ok=True)
                os.close(lock)

    def _make_room(self) -> None:
        """Remove what dead processes left, then the copies not used for longest. For `_alone`."""
        used, copies = 0, []
        for file in self.root.iterdir():
            if file.suffix == ".lock":
                used += _unfinished(file)
            elif file.suffix == ".part" and not any(self.root.glob(f"{file.stem}.*.lock")):
                file.unlink(missing_ok=True)  # of `keep`, which is alone while it writes
            elif file.suffix == ".tar":
                state = file.stat()
                copies.append((state.st_mtime_ns, state.st_size, file))
        used += sum(bytes_ for _, bytes_, _ in copies)
        for _, bytes_, file in sorted(copies):
            if used <= self.limit:
                break
            file.unlink(missing_ok=True)
            used -= bytes_

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The one process that may start a fetch or remove a file now."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / "alone", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _unfinished(lock: Path) -> int:
    """The bytes that are being fetched under a lock; where the process is dead, none: what it left is removed."""
    name, size = lock.stem.rsplit(".", 1)
    file = os.open(lock, os.O_RDWR)
    try:
        if not _locked(file):
            return int(size)
        lock.with_name(f"{name}.part").unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        return 0
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    """Whether the lock on an open file is ours now; it is until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def default_root() -> str:
    """The folder that copies are kept in: DUALPRUNE_CACHE, or one of the user's. Raises DataError."""
    try:
        return os.environ.get("DUALPRUNE_CACHE") or str(cache_folder("shards"))
    except NoHome as error:
        raise DataError(f"{error}; or DUALPRUNE_CACHE, for shards alone") from None
