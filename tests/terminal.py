"""A real terminal for tests: tmux, of a size that is given, and what is seen on it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import PATH

APART = ("RAY_", "TMUX", "COLUMNS", "LINES")
"""Variables of other clusters and terminals."""
needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Terminal:
    """tmux with a server of its own, in which one program runs."""

    def __init__(self, folder: Path, width: int, height: int, *arguments: str, **environment: str) -> None:
        self._socket = folder / f"tmux-{width}-{height}-{time.monotonic_ns()}"
        own = {"PYTHONPATH": f"{PATH}:{Path.cwd()}", "LANG": "C.UTF-8", **environment}
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith(APART)} | own
        program = shlex.join([sys.executable, *arguments])
        # What it has left is seen until the end, with its exit code.
        command = f"cd {shlex.quote(str(folder))}; {program}; echo ended with $?; exec sleep 600"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), command)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.tmux("kill-server")

    def tmux(self, *arguments: str) -> str:
        """What a command of tmux's says."""
        command = ["tmux", "-u", "-S", str(self._socket), *arguments]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

    def seen(self, *options: str) -> list[str]:
        """The lines on the screen, without spaces at their ends."""
        return [line.rstrip() for line in self.tmux("capture-pane", "-p", *options).splitlines()]

    def wait_for(self, found: Callable[[list[str]], bool], seconds: float = 60) -> list[str]:
        """The screen, once something is found on it."""
        limit = time.monotonic() + seconds
        while not found(seen := self.seen()):
            assert time.monotonic() < limit, "\n".join(seen)
            assert not any(line.startswith("ended with") for line in seen), "\n".join(seen)
            time.sleep(0.05)
        return seen


def picture(seen: list[str]) -> list[str]:
    """The lines of a run's picture: its head, and all below it."""
    heads = [number for number, line in enumerate(seen) if " of " in line and " done" in line]
    if not heads:
        return []
    return [line for line in seen[heads[-1] :] if line]
