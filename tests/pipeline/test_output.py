"""Outputs that can't be written: full disks, closed pipes, and characters that a terminal does not know."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from dualprune.pipeline import output
from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.run import driver, here
from dualprune.pipeline.run.view import View
from dualprune.pipeline.store.store import Store
from tests.pipeline.common import config
from tests.pipeline.run.test_driver import Scripted
from tests.pipeline.run.test_view import row

ROOT = Path(__file__).parent.parent.parent


def command(*arguments: str, shell: str = '"$@"', **environment: str) -> subprocess.CompletedProcess[str]:
    """`dualprune ...` as a shell starts it, with what that does about its outputs."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "PYTHONUTF8")}
    return subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-m", "dualprune", *arguments],
        env={**own, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        encoding="latin-1",
        timeout=120,
        check=False,
    )


PIPED = '"$@" | true; exit "${PIPESTATUS[0]}"'
CLOSED = 'exec 3> >(exec true); sleep 0.5; "$@" >&3'
"""A pipe that nobody reads from the start."""


def test_what_only_shows_fails_where_it_cannot(tmp_path: Path) -> None:
    """A full disk, or an output that is closed: one line and exit code 1, also of help and the version."""
    file = str(config(tmp_path))
    for arguments in (["plan", file], ["plan", file, "--json"], ["store", "ls", "--store", f"{tmp_path}/store"]):
        done = command(*arguments, shell='"$@" > /dev/full')
        assert (done.returncode, done.stderr) == (1, "standard output can't be written: No space left on device\n")
    for arguments in (["--help"], ["--version"], ["run", "--help"]):
        assert command(*arguments, shell='"$@" > /dev/full').returncode == 1
    done = command("plan", file, shell='"$@" >&-')
    assert (done.returncode, done.stderr) == (1, "standard output can't be written: Bad file descriptor\n")
    done = command("plan", file, shell='"$@" <&- 2>&-')
    assert done.returncode == 0
    assert "dense" in done.stdout


@pytest.mark.parametrize("shell", [PIPED, CLOSED])
def test_a_reader_that_has_had_enough_is_no_failure(tmp_path: Path, shell: str) -> None:
    """Not a word of it, and the exit code that it would be; a long output too."""
    file = str(config(tmp_path))
    for arguments in (["plan", file], ["status", file], ["run", "--help"]):
        done = command(*arguments, shell=shell)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    assert command("plan", "nowhere.yaml", shell=shell).returncode == 2


def test_what_lasts_ends_with_its_reader(tmp_path: Path) -> None:
    """Though it has nothing to write at that moment."""
    file = str(config(tmp_path))
    assert command("plan", file).returncode == 0
    began = time.monotonic()
    done = command("watch", file, shell='"$@" | head -1; exit "${PIPESTATUS[0]}"')
    assert (done.returncode, done.stderr) == (output.UNREAD, "")
    assert done.stdout.startswith("no run of tiny is going on")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_characters_that_an_output_does_not_know(tmp_path: Path, environment: dict[str, str]) -> None:
    """Are shown by their numbers, whatever the locale; nothing else is lost."""
    store = tmp_path / "名é"
    Store(str(store)).probe()
    done = command("store", "ls", "--store", f"{tmp_path}/*", shell='set -- "${@:1:6}" $7; "$@"', **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"/(\\u540d|(\\udc[0-9a-f]{2}){3})(é|\\xe9|\\udcc3\\udca9): 0 stages, 0 B\n", done.stdout), (
        done.stdout
    )


class Run:
    """A run in this process, on lanes that follow a script."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        patch.setattr(driver, "Lanes", lambda *_: Scripted({}))

    def onto(self, stdout: Any, stderr: Any, *more: str) -> int:
        """Its exit code, with these outputs."""
        with self.patch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            patch.setattr(sys, "stderr", stderr)
            return cli.main(["run", str(config(self.folder)), *more])

    @property
    def log(self) -> str:
        """What its log says."""
        (log,) = self.folder.glob("store/logs/tiny/*/driver.log")
        return log.read_text()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Where nothing has been done."""
    return Run(tmp_path, monkeypatch)


@pytest.fixture
def full() -> Iterator[io.TextIOWrapper]:
    """A file on a disk that is full."""
    file = open("/dev/full", "w")  # noqa: SIM115 - closing it fails too
    yield file
    os.close(file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.close()


LOST = "standard output can't be written (No space left on device); the command goes on without it"


def test_a_run_goes_on_without_its_output(run: Run, full: io.TextIOWrapper) -> None:
    """Told once in its log, and once on the output that is left."""
    stderr = io.StringIO()
    assert run.onto(full, stderr, "--json") == output.DONE
    assert run.log.count("can't be written") == run.log.count(LOST) == 1
    assert stderr.getvalue().count(LOST) == 1
    assert "other: done" in stderr.getvalue()


@pytest.mark.parametrize(("pair", "why"), [(os.pipe, "Broken pipe"), (pty.openpty, "Input/output error")])
def test_a_run_whose_reader_is_gone(run: Run, pair: Callable[[], tuple[int, int]], why: str) -> None:
    """A closed pipe under both outputs, or a terminal that is no more: the log alone tells it."""
    reading, writing = pair()
    os.close(reading)
    with open(writing, "w") as file:
        assert run.onto(file, file) == output.DONE
    assert run.log.count("can't be written") == 1
    assert why in run.log
    assert "other: committed" in run.log


def test_a_run_that_can_write_nothing_at_all(
    run: Run, full: io.TextIOWrapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log is on the full disk too, and each loss would be told by way of the other."""
    (tmp_path / "driver.log").symlink_to("/dev/full")
    monkeypatch.setattr(here, "logs", lambda *_: tmp_path)
    assert run.onto(full, full) == output.DONE


def test_an_output_that_others_made_non_blocking(run: Run) -> None:
    """A pipe that is full for a moment loses nothing."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    found: list[bytes] = []

    def read() -> None:
        time.sleep(0.5)
        while data := os.read(reading, 4096):
            found.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    lines = [f"line {number} " + "x" * 90 for number in range(3000)]
    with pytest.MonkeyPatch.context() as patch, open(writing, "w") as pipe:
        patch.setattr(sys, "stdout", pipe)
        with output.guarded():
            for line in lines:
                output.say(output.console(), line)
    reader.join(timeout=60)
    os.close(reading)
    assert b"".join(found).decode().splitlines() == lines


class Terminal:
    """A pseudo-terminal as standard output."""

    def __init__(self) -> None:
        self.outer, inner = pty.openpty()
        self.file = open(inner, "w")  # noqa: SIM115 - closed by `read`

    def read(self) -> str:
        """All that was written; closes it."""
        self.file.close()
        found = b""
        while True:
            try:
                found += os.read(self.outer, 65536)
            except OSError:  # Linux's end of a terminal
                os.close(self.outer)
                return found.decode()


@pytest.mark.parametrize("kind", ["dumb", "unknown", "xterm"])
def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """As Emacs's shell or a CI's: progress is seen there too."""
    monkeypatch.setenv("TERM", kind)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal.file)
    with output.guarded(), View(output.console()) as view:
        view.epoch("half", row(9))
        view.note("logs: /some/:key:/[path]")
    shown = terminal.read().replace("\r\n", "\n")
    plain = "half: admm epoch 9/9  loss 0.5000  val 97.50 %  1:05 left\nlogs: /some/:key:/[path]\n"
    assert (shown == plain) == (kind != "xterm")
    assert "logs: /some/:key:/[path]" in shown


def test_a_pipe_is_no_terminal_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """CI systems ask for colours where nothing can be redrawn."""
    for name, value in (("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    with View(output.console()) as view:
        view.epoch("half", row(9))
        output.say(view.console, "red", "red")
    assert stdout.getvalue().splitlines()[0].endswith("1:05 left")
    assert "\x1b[31mred" in stdout.getvalue()


def test_no_row_is_longer_than_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow terminal would show spaces at its end as empty lines; also before what ends a style."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("stage")
    table.add_column("why")
    table.add_row("dense", "x" * 150)
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    output.show(output.console(), table)
    head, one = stdout.getvalue().splitlines()
    assert head.startswith("\x1b[1mstage")
    assert re.sub(r"\x1b\[[0-9;]*m", "", head) == "stage  why"
    assert one == "dense  " + "x" * 150


def test_a_question_with_nobody_to_answer(tmp_path: Path) -> None:
    """Where standard input is closed."""
    file = str(config(tmp_path))
    assert command("plan", file).returncode == 0
    Store(f"{tmp_path}/store").folder.write("0123456789abcdef/manifest.json", b"{")
    done = command("store", "gc", file, "--store", f"{tmp_path}/store", shell='"$@" <&-')
    assert done.returncode == 2
    assert "there is no terminal to ask on" in done.stderr
