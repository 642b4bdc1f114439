"""A filesystem that fails or dies at the n-th write, and a process that does, over and over, at a stage's.

What is counted is every call by which `stages.files` changes a local folder: folders made, files opened,
written (by halves), synced, renamed and removed; or a service's: files put and removed.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

from fsspec.implementations.local import LocalFileSystem

from dualprune.stages.files import folder as files
from dualprune.stages.files.folder import Folder

How = Literal["fails once", "fails from then on", "does it and fails", "dies"]
DIED = 77
CHANGES = ("makedirs", "mkdir", "fsync", "replace", "unlink", "remove", "rmdir")


class Faults:
    """Counts calls, and at the n-th does what it is told; n = 0 only counts."""

    def __init__(self, n: int, how: How) -> None:
        self.n, self.how = n, how
        self.count = 0
        self.calls: list[str] = []

    def strikes(self, what: str) -> bool:
        """Count a call; whether it is one to fail at."""
        self.count += 1
        self.calls.append(what)
        return self.n > 0 and (self.count >= self.n if self.how == "fails from then on" else self.count == self.n)

    def strike(self, what: str) -> None:
        """Count a call; raise or die if it is the one."""
        if self.strikes(what):
            self.end(what)

    def end(self, what: str) -> None:
        """Raise OSError, or be gone without a word."""
        if self.how == "dies":
            os._exit(DIED)
        raise OSError(errno.EINVAL, f"fault {self.n} at {what}")

    def counted(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        """A function that counts itself first."""

        def counting(*args: Any, **options: Any) -> Any:
            struck = self.strikes(name)
            if not struck or self.how == "does it and fails":
                done = call(*args, **options)
            if struck:
                self.end(name)
            return done

        return counting


@contextmanager
def service_faults(store: str, n: int, how: How) -> Iterator[Faults]:
    """The same for a store on a service."""
    one, fs = Faults(n, how), Folder(store).fs
    with ExitStack() as stack:
        for name in ("pipe_file", "put_file", "rm_file", "rm"):
            stack.enter_context(patch.object(fs, name, one.counted(getattr(fs, name), name)))
        yield one


@contextmanager
def faults(n: int, how: How) -> Iterator[Faults]:
    """Make `stages.files` meet its fault; ends with the number of calls that there were."""
    one = Faults(n, how)

    class File:
        """A file that writes one half, and then perhaps not the other."""

        def __init__(self, path: str, mode: str) -> None:
            one.strike("open")
            self.file = builtins.open(path, mode)  # noqa: SIM115 - closed where ours is

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: bytes) -> None:
            self.file.write(data[: len(data) // 2])
            if one.strikes("write"):
                self.file.flush()
                one.end("write")
            self.file.write(data[len(data) // 2 :])

    proxy = SimpleNamespace(**vars(os) | {name: one.counted(getattr(os, name), name) for name in CHANGES})

    def rmtree(path: str, *_: Any, **__: Any) -> None:
        """As shutil's, by calls that are counted."""
        for folder, folders, names in os.walk(path, topdown=False):
            for name in sorted(names):
                one.strike("unlink")
                os.unlink(f"{folder}/{name}")
            for name in sorted(folders):
                one.strike("rmdir")
                os.rmdir(f"{folder}/{name}")
        one.strike("rmdir")
        os.rmdir(path)

    def rm(_: Any, path: str, recursive: bool = False) -> None:
        rmtree(path) if os.path.isdir(path) else proxy.unlink(path)

    def rm_file(_: Any, path: str) -> None:
        proxy.unlink(path)

    with (
        patch.object(files, "os", proxy),
        patch.object(files, "open", File, create=True),
        patch.object(LocalFileSystem, "rm", rm),
        patch.object(LocalFileSystem, "rm_file", rm_file),
    ):
        yield one


def main() -> None:
    """For each line [n, task]: run the task in a process of its own that dies at its n-th call; print how it ended.

    The processes are forked from this one, which imports what takes time: all that the first of them came to need.
    """
    from dualprune.stages.engine.zero import deepspeed
    from dualprune.stages.kinds.job import StageJob
    from dualprune.stages.networks.builtin import MODELS
    from dualprune.stages.training.stage import run_stage
    from tests.stages.conftest import noisy_net

    MODELS["noisy"] = noisy_net
    deepspeed()
    warm = False
    for line in sys.stdin:
        n, task = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            with service_faults(task["store"], n, "dies") if "://" in task["store"] else faults(n, "dies"):
                run_stage(StageJob.model_validate(task), lambda event: None)
            os.write(writer, "\n".join(sys.modules).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as modules:
            needed = modules.read().split()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        for name in needed if not warm else []:
            with suppress(ImportError):
                import_module(name)
        warm = True


if __name__ == "__main__":
    main()
