"""Files on any fsspec filesystem: whole-file reads, and writes that are either there or not.

A local file is written beside its place, synced, and renamed over it; on object stores a put is
atomic by itself. Nothing here knows what the files hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import IO, Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dualprune.stages.files.outage import gone, passes, told


def sha256(*pieces: bytes | bytearray) -> str:
    """Hex digest of the pieces one after the other."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def sha256_of(path: str) -> str:
    """Hex digest of a local file, read piece by piece."""
    with open(path, "rb") as file:
        return _sha256_of(file)


def _sha256_of(file: IO[bytes], after: bytes = b"") -> str:
    found = hashlib.sha256()
    while piece := file.read(1 << 20):
        found.update(piece)
    found.update(after)
    return found.hexdigest()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def encoded(value: Any) -> bytes:
    """Indented JSON, as `Folder.write_json` writes it: equal values, equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


MARK = ".dualprune"
"""A file in the top folder of a store, by which a store that is there is told from an empty mount point."""
PATIENCE = 60.0
"""Seconds, from its first failure on, for which a call to a service that does not answer is repeated."""
SILENCE = 60.0
"""Seconds for which a web server may send nothing; a download may last as long as it takes."""
EXCLUSIVE = {"s3", "s3a", "gs", "gcs", "memory"}
"""Protocols whose filesystems can create a file that must not be there yet. On others, the last of several
simultaneous writers is found by looking again."""
SETTLING = 2.0
"""Seconds after which such writers look."""
AT_ONCE = 64
"""Calls that a service answers at the same time: each takes its while, however many there are."""
S3 = ("s3:", "s3a:")

T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """What a listing says of a file."""

    bytes: int
    modified: float
    """By the filesystem's own clock, in seconds since 1970; 0 if it does not say."""


class Folder:
    """A folder on an fsspec filesystem. Paths are relative to it, with `/` between their parts.

    All methods raise stages.files.outage.StoreError and StoreAway, which name `store`: the folder that this one
    was reached from. Where that is a service, calls that may succeed in a while are repeated first.
    """

    def __init__(self, url: str, store: Folder | None = None) -> None:
        self.url = url.rstrip("/") or "/"
        try:
            # Other processes write here too: what a listing said a moment ago says nothing.
            self.fs, self.root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **_options(self.url))
        except ImportError as error:
            hint = "; pip install 'dualprune[s3]' does" if self.url.startswith(S3) else ""
            raise ImportError(f"{error}{hint}") from None
        except OSError as error:  # some connect at once
            raise told(error, self.url, local=False) from None
        self.local = isinstance(self.fs, LocalFileSystem)
        self.store = store or self
        self._marked: bool = store is not None and store._marked
        self._protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        self._exclusive = not EXCLUSIVE.isdisjoint(self._protocols)
        self._refuses = False
        """Whether it was seen to refuse to create a file that was there, as not all do that are said to."""

    @property
    def absolute(self) -> str:
        """The URL, free of this process's working directory."""
        return str(self.fs.unstrip_protocol(self.root)) if not self.local else self.root

    def __truediv__(self, path: str) -> Folder:
        return Folder(f"{self.url}/{path}", self.store)

    def establish(self) -> Folder:
        """Make this folder a store, if it is not one yet. Returns it as `established` does."""
        if not self.exists(MARK):
            self.write(MARK, b"A store of dualprune's: `dualprune store ls` lists what it holds.\n")
        return self.established()

    def established(self) -> Folder:
        """This folder as a store that is known to be there. Raises StoreAway if it is not.

        Should it vanish later, nothing below it counts as absent, and no write makes it anew in its old place.
        """
        folder = Folder(self.url)
        folder._marked = True
        if not folder.exists(MARK):
            raise gone(self.url)
        return folder

    def path(self, path: str = "") -> str:
        """The path as the filesystem itself names it."""
        return posixpath.join(self.root, path) if path else self.root

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """All of a file, or its bytes from `start` to `end`. Raises FileNotFoundError."""
        data: bytes = self._do(lambda: self.fs.cat_file(self.path(path), start=start, end=end))
        return data

    def read_small(self, path: str) -> bytes:
        """All of a small file, for one answer of the store: large ones are asked for their size first, and come in
        parts. Raises FileNotFoundError."""
        whole = {} if self._protocols.isdisjoint({"s3", "s3a"}) else {"max_concurrency": 1}
        data: bytes = self._do(lambda: self.fs.cat_file(self.path(path), **whole))
        return data

    def fetch(self, path: str, target: str) -> None:
        """Copy a file to a local one, piece by piece. Raises FileNotFoundError."""
        self._do(lambda: self.fs.get_file(self.path(path), target))

    def hash(self, path: str, after: bytes = b"") -> str:
        """The sha256 of a file, read piece by piece, and of bytes `after` it. Raises FileNotFoundError."""

        def digest() -> str:
            with self.fs.open(self.path(path), "rb") as file:
                return _sha256_of(file, after)

        return self._do(digest)

    def copy(self, path: str, folder: Folder) -> None:
        """Put a file under the same name into another folder of this filesystem; its bytes do not pass through here.

        On a disk both are one file by two names, where that can be: files are never changed, only replaced.
        """
        source, target = self.path(path), folder.path(path)
        if self.local:
            folder._do(lambda: folder._link(source, target))
        else:
            self._do(lambda: self.fs.cp_file(source, target))

    def read_json(self, path: str) -> Any:
        """A JSON file's value. Raises FileNotFoundError, and ValueError for what is not JSON."""
        return json.loads(self.read_small(path))

    def write(self, path: str, data: bytes | bytearray) -> None:
        """Write all of a file, so that a reader sees the old one or the new one and never a part."""
        target = self.path(path)
        self._do(lambda: self._replace(target, [data]) if self.local else self.fs.pipe_file(target, data))

    def write_pieces(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        """The same, piece by piece. What goes to a service is a file here before: it may have to be sent again."""
        target = self.path(path)
        if self.local:
            self._do(lambda: self._replace(target, pieces))
            return
        with tempfile.TemporaryDirectory() as folder:
            aside = os.path.join(folder, "file")
            with open(aside, "wb") as file:
                file.writelines(pieces)
            self._do(lambda: self.fs.put_file(aside, target))

    def write_json(self, path: str, value: Any) -> None:
        """Write a value as indented JSON."""
        self.write(path, encoded(value))

    def create(self, path: str, data: bytes) -> bool:
        """Write all of a file if there is none; whether it is ours now. `data` must be like no other writer's."""
        target = self.path(path)
        if self.local:
            return self._do(lambda: self._create(target, data))
        if not self._refuses and self.exists(path):
            return False
        if self._put_new(target, data, path):
            # Others' files are safe only where that was refused once: ours is put again to see.
            self._refuses = self._refuses or not self._put_new(target, data, path)
            if self._refuses:
                return True
        if not self._exclusive:
            time.sleep(SETTLING)
        try:
            return self.read_small(path) == data
        except FileNotFoundError:  # somebody else's was there, and is gone again
            return False

    def _put_new(self, target: str, data: bytes, path: str) -> bool:
        """Put a file that must not be there yet, where the filesystem can do that. False if there is one, whoever's:
        somebody else's, which may be gone by now; or ours, of which an answer was lost."""
        try:
            self._do(lambda: self.fs.pipe_file(target, data, mode="create" if self._exclusive else "overwrite"))
        except FileExistsError:
            return False
        except OSError:
            if not self.exists(path):
                raise
            return False
        return self._exclusive

    def exists(self, path: str = "") -> bool:
        """Whether there is such a file or folder."""
        found = bool(self._do(lambda: self.fs.exists(self.path(path))))
        if not found and self._vanished():
            raise gone(self.store.url)
        return found

    def names(self, path: str = "") -> list[str]:
        """Names of files and folders directly in a folder, sorted; none where there is no such folder."""
        try:
            entries = self._do(lambda: self.fs.ls(self.path(path), detail=False, refresh=True))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(posixpath.basename(entry.rstrip("/")) for entry in entries)

    def sizes(self) -> dict[str, int] | None:
        """Bytes of each file directly in this folder, from one listing; None where the filesystem has no listings."""
        if "http" in self._protocols:
            return None
        try:
            entries = self._do(lambda: self.fs.ls(self.root, detail=True, refresh=True))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {posixpath.basename(e["name"].rstrip("/")): int(e["size"] or 0) for e in entries}

    def files(self) -> dict[str, File]:
        """All files below this folder by path, from one listing."""
        found = self._do(lambda: self.fs.find(self.root, detail=True))
        return {name.removeprefix(self.root).lstrip("/"): _file(info) for name, info in found.items()}

    def info(self, path: str) -> File:
        """What the filesystem says of a file. Raises FileNotFoundError."""
        return _file(self._do(lambda: self.fs.info(self.path(path))))

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all in it; nothing where there is none.

        JSON files say that others count (manifests, parts of checkpoints). They go first, so that a removal
        that is cut short leaves nothing that looks damaged.
        """
        with suppress(FileNotFoundError):  # another process removes it too
            if self.exists(path):
                found = self._do(lambda: self.fs.find(self.path(path)))
                # A name with one of these fsspec takes for a pattern, and would remove what others have.
                exactly = not self.local and bool(set("*?[") & set(self.path(path)))
                for file in [file for file in found if exactly or file.endswith(".json")]:
                    self._do(partial(self.fs.rm_file, file))
                if not exactly and self.exists(path):
                    self._do(lambda: self.fs.rm(self.path(path), recursive=True))

    def discard(self, path: str) -> None:
        """Remove a file, for one answer of the store; nothing where there is none."""
        with suppress(FileNotFoundError):
            self._do(lambda: self.fs.rm_file(self.path(path)))

    def _do(self, call: Callable[[], T]) -> T:
        """The outcome of a call to the filesystem; errors in words that help."""
        limit: float | None = None
        pause = 0.25
        while True:
            try:
                return call()
            except (FileNotFoundError, NotADirectoryError):
                if self._vanished():
                    raise gone(self.store.url) from None
                raise
            except Exception as error:  # noqa: BLE001 - each filesystem has errors of its own; all are raised again
                now = time.monotonic()
                limit = limit or now + PATIENCE
                if self.local or not passes(error, local=False) or now + pause > limit:
                    # No `from`: the sentence says all that a user wants; who reads the log finds what was before.
                    raise told(error, self.store.url, self.local)  # noqa: B904
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, 8.0)

    def _vanished(self) -> bool:
        return self.local and self._marked and not os.path.exists(posixpath.join(self.store.root, MARK))

    def _replace(self, target: str, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        self._make(os.path.dirname(target))
        aside = f"{target}.{uuid.uuid4().hex[:8]}.part"
        try:
            with open(aside, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        except BaseException:
            with suppress(OSError):  # what went wrong first is what is told
                os.unlink(aside)
            raise

    def _link(self, source: str, target: str) -> None:
        self._make(os.path.dirname(target))
        if os.path.exists(target) and os.path.samefile(source, target):
            return
        aside = f"{target}.{uuid.uuid4().hex[:8]}.part"
        try:
            try:
                os.link(source, aside)
            except FileNotFoundError:
                raise
            except OSError:  # a filesystem without links
                shutil.copyfile(source, aside)
            os.replace(aside, target)
        except OSError:
            with suppress(OSError):  # what went wrong first is what is told
                os.unlink(aside)
            raise

    def _create(self, target: str, data: bytes) -> bool:
        self._make(os.path.dirname(target))
        try:
            with open(target, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        except OSError:
            with suppress(OSError):
                os.unlink(target)
            raise
        return True

    def _make(self, folder: str) -> None:
        """Make a folder; of an established store only what is below it, should it vanish at this moment."""
        if not self._marked:
            os.makedirs(folder, exist_ok=True)
            return
        if self._vanished():
            raise gone(self.store.url)
        missing = []
        while not os.path.isdir(folder) and folder != self.store.root:
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(folder)


def _options(url: str) -> dict[str, Any]:
    """What the filesystem of a URL is made with beside what all are."""
    if url.startswith(S3):
        usual = fsspec.config.conf.get(url.partition(":")[0], {}).get("config_kwargs", {})
        return {"config_kwargs": {"max_pool_connections": AT_ONCE, **usual}}
    if not url.startswith(("http:", "https:")):
        return {}
    import aiohttp

    # Without it a file must be there within five minutes, however large it is.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
    return {"client_kwargs": {"timeout": timeout}}


def _file(info: dict[str, Any]) -> File:
    """From what fsspec tells; the time of the last change has another name in each filesystem."""
    names = ("mtime", "LastModified", "last_modified", "updated", "created")
    when: Any = next((info[name] for name in names if info.get(name)), 0.0)
    if isinstance(when, str):
        when = datetime.fromisoformat(when.replace("Z", "+00:00"))
    return File(int(info["size"] or 0), when.timestamp() if isinstance(when, datetime) else float(when))
