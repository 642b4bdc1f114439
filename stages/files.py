"""Files on any fsspec filesystem: whole-file reads, and writes that are either there or not.

A local file is written beside its place, synced, and renamed over it; on object stores a put is
atomic by itself. Nothing here knows what the files hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


def sha256(data: bytes) -> str:
    """Hex digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


EXCLUSIVE = {"s3", "s3a", "gs", "gcs", "memory"}
"""Protocols whose filesystems can create a file that must not be there yet. On others, the last of several
simultaneous writers is found by looking again."""
SETTLING = 2.0
"""Seconds after which such writers look."""


def encoded(value: Any) -> bytes:
    """Indented JSON, as `Folder.write_json` writes it: equal values, equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class File:
    """What a listing says of a file."""

    bytes: int
    modified: float
    """By the filesystem's own clock, in seconds since 1970; 0 if it does not say."""


class Folder:
    """A folder on an fsspec filesystem. Paths are relative to it, with `/` between their parts."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or "/"
        self.fs, self.root = fsspec.core.url_to_fs(self.url)
        self.local = isinstance(self.fs, LocalFileSystem)
        protocols = (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
        self._exclusive = not EXCLUSIVE.isdisjoint(protocols)

    @property
    def absolute(self) -> str:
        """The URL, free of this process's working directory."""
        return str(self.fs.unstrip_protocol(self.root)) if not self.local else self.root

    def __truediv__(self, path: str) -> Folder:
        return Folder(f"{self.url}/{path}")

    def path(self, path: str = "") -> str:
        """The path as the filesystem itself names it."""
        return posixpath.join(self.root, path) if path else self.root

    def read(self, path: str) -> bytes:
        """All of a file. Raises FileNotFoundError."""
        data: bytes = self.fs.cat_file(self.path(path))
        return data

    def read_json(self, path: str) -> Any:
        """A JSON file's value. Raises FileNotFoundError, and ValueError for what is not JSON."""
        return json.loads(self.read(path))

    def write(self, path: str, data: bytes) -> None:
        """Write all of a file, so that a reader sees the old one or the new one and never a part."""
        target = self.path(path)
        if not self.local:
            self.fs.pipe_file(target, data)
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        aside = f"{target}.{uuid.uuid4().hex[:8]}.part"
        try:
            with open(aside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        except OSError:
            with suppress(OSError):  # what went wrong first is what is told
                os.unlink(aside)
            raise

    def create(self, path: str, data: bytes) -> bool:
        """Write all of a file if there is none; whether it is ours now. `data` must be like no other writer's."""
        target = self.path(path)
        if self.local:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            try:
                with open(target, "xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
            except OSError:
                os.unlink(target)
                raise
            return True
        if self.exists(path):
            return False
        try:
            self.fs.pipe_file(target, data, mode="create" if self._exclusive else "overwrite")
        except OSError:
            # Somebody else's is there; or ours is, and only the answer to our first attempt was lost.
            if not self.exists(path):
                raise
        if not self._exclusive:
            time.sleep(SETTLING)
        return self.read(path) == data

    def write_json(self, path: str, value: Any) -> None:
        """Write a value as indented JSON."""
        self.write(path, encoded(value))

    def exists(self, path: str = "") -> bool:
        """Whether there is such a file or folder."""
        return bool(self.fs.exists(self.path(path)))

    def names(self, path: str = "") -> list[str]:
        """Names of files and folders directly in a folder, sorted; none where there is no such folder."""
        try:
            entries = self.fs.ls(self.path(path), detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(posixpath.basename(entry.rstrip("/")) for entry in entries)

    def files(self, path: str = "") -> dict[str, File]:
        """All files below a folder by path, from one listing."""
        root = self.path(path)
        return {posixpath.relpath(name, root): _file(info) for name, info in self.fs.find(root, detail=True).items()}

    def info(self, path: str) -> File:
        """What the filesystem says of a file. Raises FileNotFoundError."""
        return _file(self.fs.info(self.path(path)))

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all in it; nothing where there is none.

        JSON files say that others count (manifests, parts of checkpoints). They go first, so that a removal
        that is cut short leaves nothing that looks damaged.
        """
        with suppress(FileNotFoundError):  # another process removes it too
            if self.exists(path):
                found = [file for file in self.fs.find(self.path(path)) if file.endswith(".json")]
                for file in found:
                    self.fs.rm_file(file)
                if self.exists(path):
                    self.fs.rm(self.path(path), recursive=True)


def _file(info: dict[str, Any]) -> File:
    """From what fsspec tells; the time of the last change has another name in each filesystem."""
    names = ("mtime", "LastModified", "last_modified", "updated", "created")
    when: Any = next((info[name] for name in names if info.get(name)), 0.0)
    if isinstance(when, str):
        when = datetime.fromisoformat(when.replace("Z", "+00:00"))
    return File(int(info["size"] or 0), when.timestamp() if isinstance(when, datetime) else float(when))
