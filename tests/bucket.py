"""A bucket in memory that takes its time to answer, and counts: `bucket://NAME/...` for fsspec."""

from __future__ import annotations

import posixpath
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec

PAGE = 1000
"""Entries that a listing gives for one answer."""


class Bucket(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """As far as `stages.files` asks a filesystem. All of this process's buckets are one, which threads may share."""

    protocol = ("bucket", "memory")
    """The second one has dualprune know that it can create a file that must not be there."""
    delay: ClassVar[float] = 0.0
    """Seconds until an answer. A long listing takes several answers, one after the other."""
    answers: ClassVar[Counter[str]] = Counter()
    """How many there were, by what was asked."""
    asking: ClassVar[list[int]] = [0, 0]
    """How many are waited for, and the most that were at once."""
    files: ClassVar[dict[str, bytes]] = {}
    folders: ClassVar[dict[str, dict[str, None]]] = {}
    """Names directly in each."""
    _guard: ClassVar[threading.RLock] = threading.RLock()
    _apart: ClassVar[threading.local] = threading.local()

    @classmethod
    @contextmanager
    def slow(cls, delay: float) -> Iterator[None]:
        """Within it, answers take so many seconds; they are counted anew."""
        cls.answers.clear()
        cls.asking[1], cls.delay = 0, delay
        try:
            yield
        finally:
            cls.delay = 0.0

    @classmethod
    @contextmanager
    def apart(cls) -> Iterator[None]:
        """What this thread asks meanwhile is answered at once, and not counted."""
        cls._apart.now = True
        try:
            yield
        finally:
            cls._apart.now = False

    def _answer(self, what: str, entries: int = 1) -> None:
        if getattr(self._apart, "now", False):
            return
        pages = max(1, -(-entries // PAGE))
        with self._guard:
            self.answers[what] += pages
            self.asking[0] += 1
            self.asking[1] = max(self.asking)
        time.sleep(self.delay * pages)
        with self._guard:
            self.asking[0] -= 1

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """A file's bytes."""
        self._answer("get")
        return self._there(path)[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Put a file."""
        self._answer("put")
        path = self._strip_protocol(path)
        with self._guard:
            if mode == "create" and path in self.files:
                raise FileExistsError(path)
            self.files[path] = bytes(value)
            while path:
                folder, path = posixpath.dirname(path), posixpath.basename(path)
                self.folders.setdefault(folder, {})[path] = None
                path = folder

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        """Put a local file."""
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file."""
        self._answer("copy")
        with type(self).apart():
            self.pipe_file(path2, self._there(path1))

    def rm_file(self, path: str) -> None:
        """Remove a file, if it is there."""
        self._answer("delete")
        path = self._strip_protocol(path)
        with self._guard:
            if self.files.pop(path, None) is not None:
                self._prune(path)

    def _prune(self, path: str) -> None:
        folder, name = posixpath.split(path)
        self.folders[folder].pop(name, None)
        if folder and not self.folders[folder]:
            del self.folders[folder]
            self._prune(folder)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove all below a folder."""
        for file in self.find(path):
            self.rm_file(file)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is such a file or folder."""
        self._answer("head")
        path = self._strip_protocol(path)
        return path in self.files or path in self.folders

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Of a file or a folder."""
        self._answer("head")
        return self._entry(self._strip_protocol(path))

    def _entry(self, path: str) -> dict[str, Any]:
        if path in self.folders:
            return {"name": path, "size": 0, "type": "directory"}
        return {"name": path, "size": len(self._there(path)), "type": "file", "mtime": 0.0}

    def _there(self, path: str) -> bytes:
        try:
            return self.files[self._strip_protocol(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is directly in a folder."""
        path = self._strip_protocol(path)
        with self._guard:
            names = [f"{path}/{name}" for name in self.folders.get(path, {})]
            found = [self._entry(name) for name in names] if detail else names
        self._answer("list", len(names))
        if not names:
            raise FileNotFoundError(path)
        return found

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **_: Any
    ) -> Any:
        """All files below a folder."""
        path = self._strip_protocol(path)
        with self._guard:
            names = [path] if path in self.files else [name for name in self.files if name.startswith(f"{path}/")]
            found = {name: self._entry(name) for name in names} if detail else names
        self._answer("list", len(names))
        return found


fsspec.register_implementation("bucket", "tests.bucket.Bucket")
