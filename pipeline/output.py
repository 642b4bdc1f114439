"""What the command line says, and what its exit codes mean. The one place where an output that can't be written is met.

While `guarded` is entered, nothing that goes to standard output or standard error raises. Characters that a terminal
does not know are shown by their numbers. What can't be written at all (a full disk, a closed pipe, a terminal that is
gone) is dropped, and told once: in the log, and on the other output.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, cast

from rich.console import Console, RenderableType

DONE, FAILED, BAD_INPUT, STOPPED, TERMINATED, UNREAD = 0, 1, 2, 130, 143, 141
WIDTH = 200
"""Columns of tables: rich would cut them where output is no terminal or a narrow one."""
READABLE = 100
"""Columns of text, at most."""

_SPACES = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)
"""At a line's end, before what ends a style."""

GONE = (errno.EPIPE, errno.ECONNRESET)
"""What a write to a pipe or socket says that nobody reads any more."""

_log = logging.getLogger(__name__)


class Unread(Exception):
    """Nobody can read any more what a command shows that does nothing else."""


class _Sink(io.RawIOBase):
    """A standard output by its descriptor. Takes all, drops what can't be written, and keeps the first reason."""

    def __init__(self, fd: int, error: OSError | None = None) -> None:
        self.fd, self.error = fd, error

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.fd

    def isatty(self) -> bool:
        return os.isatty(self.fd)

    def write(self, data: Any) -> int:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self.fd, left) :]
            except BlockingIOError:  # so it was made by another process that writes there too
                select.select([], [self.fd], [])
            except OSError as error:
                self.error = self.error or error
                break
        return len(data)

    @property
    def unread(self) -> bool:
        """Whether nothing that is written can be read any more."""
        there = select.poll()
        there.register(self.fd, 0)
        return self.error is not None or any(event & (select.POLLERR | select.POLLHUP) for _, event in there.poll(0))


class _Guard:
    """The two outputs while one command runs."""

    def __init__(self) -> None:
        self.sinks: dict[str, _Sink] = {}
        self.works = False
        """Whether the command does more than to show something, and so goes on without its output."""
        self.logged = self.told = False

    def note(self) -> None:
        """Tell once that an output is lost. Called where no lock of a console's is held, which the log may want."""
        found = [(name, sink.error.strerror) for name, sink in self.sinks.items() if sink.error is not None]
        if not found or not self.works:
            return
        text = f"standard {found[0][0]} can't be written ({found[0][1]}); the command goes on without it"
        if not self.logged and logging.getLogger().handlers:
            self.logged = True
            _log.warning(text)
        if not self.told:
            self.told = True
            complain(text)


_guard = _Guard()


@contextmanager
def guarded() -> Iterator[None]:
    """Standard output and standard error that never raise, for one command."""
    global _guard
    _guard, before = _Guard(), (sys.stdout, sys.stderr)
    for name, fd in (("input", 0), ("output", 1), ("error", 2)):
        error = _held(fd)
        if fd:
            _put(name, fd, error)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _held(fd: int) -> OSError | None:
    """Lead a descriptor that was closed (`>&-`) nowhere, lest the next file that is opened become it."""
    try:
        os.fstat(fd)
    except OSError as error:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        return error
    return None


def _put(name: str, fd: int, error: OSError | None) -> None:
    """Put a stream that never raises in the place of a standard one; one that is in memory stays."""
    stream: Any = sys.stdout if name == "output" else sys.stderr
    encoding, lines = "utf-8", True
    if stream is None and error is None:
        return  # it was closed, and the descriptor is another file's by now
    if stream is not None:
        try:
            fd = stream.fileno()
        except (AttributeError, OSError, ValueError):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
            return
        encoding, lines = stream.encoding, stream.line_buffering
        with suppress(OSError):
            stream.flush()
    sink = _guard.sinks[name] = _Sink(fd, error)
    guarded = io.TextIOWrapper(cast(Any, sink), encoding, "backslashreplace", line_buffering=lines)
    if name == "output":
        sys.stdout = guarded
    else:
        sys.stderr = guarded


def goes_on() -> None:
    """Say that the command does more than to show something: what it does goes on where its output can't be written."""
    _guard.works = True


def ended(code: int) -> int:
    """A command's exit code, now that all is written.

    An output that can't be written is a failure of what only shows something; a reader that has had enough is none.
    """
    sink = _guard.sinks.get("output")
    if sys.stdout is not None:
        sys.stdout.flush()
    if sink is None or sink.error is None or _guard.works or sink.error.errno in GONE:
        return code
    complain(f"standard output can't be written: {sink.error.strerror}")
    return FAILED if code in (DONE, UNREAD) else code


def need_reader() -> None:
    """Raise Unread if nobody can read standard output any more. For what lasts, and only shows."""
    if (sink := _guard.sinks.get("output")) is not None and sink.unread:
        raise Unread


def console(stderr: bool = False, width: int | None = None) -> Console:
    """What to print on. In a pipe nothing is redrawn, though the environment may want colours there (FORCE_COLOR)."""
    stream = sys.stderr if stderr else sys.stdout
    if stream is not None and stream.isatty():
        return Console(stderr=stderr, width=width, emoji=False)
    colours: Literal["standard"] | None = "standard" if os.environ.get("FORCE_COLOR") else None
    return Console(stderr=stderr, width=width, emoji=False, force_terminal=False, color_system=colours)


def redraws(on: Console) -> bool:
    """Whether lines can be redrawn in their places."""
    return on.is_terminal and not on.is_dumb_terminal


def say(on: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is, unbroken."""
    on.print(text, style=style, highlight=False, markup=False, emoji=False, soft_wrap=True)
    _guard.note()


def complain(text: str) -> None:
    """Say on standard error what went wrong."""
    say(console(stderr=True), text, "red")


def show(on: Console, table: RenderableType, width: int = WIDTH) -> None:
    """Print a table wide enough for every row, and no row longer than what it shows: a terminal may be narrow."""
    wide = console(on.stderr, width)
    with wide.capture() as captured:
        wide.print(table)
    wide.file.write(_SPACES.sub(r"\1", captured.get()))
    wide.file.flush()
    _guard.note()


def room(on: Console) -> int:
    """Columns that a table may have: a terminal's, or WIDTH where there is none."""
    return on.width if on.is_terminal else WIDTH


def show_text(on: Console, text: RenderableType) -> None:
    """Print what is read as text, in lines that fit the terminal and are not too long to read."""
    show(on, text, min(on.width, READABLE))


def answer(value: Any) -> None:
    """Print one JSON object, the last line of standard output."""
    print(json.dumps(value), flush=True)
    _guard.note()
