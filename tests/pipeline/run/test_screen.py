"""Pictures on a real terminal, of runs that are made by hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import PATH
from tests.terminal import Terminal, needs_tmux, picture

PROGRAM = """
import sys, time
from dualprune.pipeline import output
from dualprune.pipeline.run.view import View
from tests.pipeline.run.pictures import many
number, at_work, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
with output.guarded(), View(output.console()) as view:
    view.run, view.look = "digits", lambda doings: many(number, at_work).stages
    end = time.monotonic() + seconds
    for count in range(10**6):
        if time.monotonic() > end:
            break
        view._screen.refresh()
        time.sleep(0.02)
        if count % 5 == 0:
            view.note(f"note {count} " + "of some length " * (count % 16))
        if count % 50 == 7:
            view.note("x" * view.console.width)
            view.note("two lines\\nof one note")
"""
"""A run whose picture is drawn as fast as it goes, while notes come."""


@pytest.fixture
def program(tmp_path: Path) -> str:
    """Where PROGRAM is."""
    (tmp_path / "program.py").write_text(PROGRAM)
    return str(tmp_path / "program.py")


@needs_tmux
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_nothing_wraps_and_nothing_flickers(tmp_path: Path, program: str, width: int, height: int) -> None:
    """However often one looks, the whole picture is there, with all stages that run, and nothing of an older one."""
    with Terminal(tmp_path, width, height, program, "200", "5", "12") as terminal:
        terminal.wait_for(lambda seen: bool(picture(seen)))
        end, looks, broken = time.monotonic() + 6, 0, list[str]()
        while time.monotonic() < end:
            seen = terminal.seen()
            shown = picture(seen)
            assert max(map(len, shown)) < width
            whole = len(shown) == height - 3 and shown[-1].startswith("  and ")
            if not whole or sum(line.startswith("▶") for line in shown) != 5:
                broken.append("\n".join(seen))
            looks += 1
        assert looks > 20
        # A terminal that is busy may be looked at while it has read a part of what was written at once.
        assert len(broken) <= looks // 20, broken[0]
        joined, plain = terminal.seen("-J"), terminal.seen()
        assert len(picture(joined)) == len(picture(plain))
        history = terminal.wait_for(lambda seen: any("ended with 0" in line for line in seen))
        assert picture(history) == []
        notes = [line for line in terminal.tmux("capture-pane", "-p", "-J", "-S", "-").splitlines() if line.strip()]
        expected = re.compile(r"(note \d+)?( ?(of|some|length))* *$|x+$|two lines$|of one note$|ended with 0$")
        assert [line for line in notes if not expected.match(line)] == []
        assert f"{'x' * width}" in [line.rstrip() for line in notes]


@needs_tmux
def test_a_terminal_that_is_made_smaller_and_larger(tmp_path: Path, program: str) -> None:
    """Has one picture, that fits it."""
    with Terminal(tmp_path, 200, 50, program, "40", "2", "20") as terminal:
        terminal.wait_for(lambda seen: len(picture(seen)) == 40 + 2 + 2)
        for width, height in ((100, 40), (60, 20), (150, 45)):
            terminal.tmux("resize-window", "-x", str(width), "-y", str(height))
            terminal.wait_for(lambda seen, height=height: len(picture(seen)) == min(height - 3, 44))
            time.sleep(0.3)
            seen = terminal.seen()
            assert max(map(len, picture(seen))) < width
            assert sum(" of 40 done" in line for line in seen) == 1, "\n".join(seen)


@needs_tmux
def test_a_terminal_that_knows_few_characters(tmp_path: Path, program: str) -> None:
    """Gets those that it knows."""
    with Terminal(tmp_path, 80, 24, program, "40", "2", "3", PYTHONIOENCODING="latin-1") as terminal:
        seen = picture(terminal.wait_for(lambda seen: len(picture(seen)) > 5))
    assert sum(line.startswith(">") for line in seen) == 2
    assert all(line.isascii() for line in seen)


PIPED = """
import time
from dualprune.pipeline import output
from dualprune.pipeline.run.view import View
with output.guarded(), View(output.console()) as view:
    view.run = "digits"
    view.waiting("half")
    view.begins("half", "training", {"event": "training", "steps": 0, "world": 2})
    for epoch in range(1, 4):
        row = {"phase": "train", "epoch": epoch, "epochs": 3, "loss": 0.5, "seconds_left": 3.0}
        for done in (0.2, 0.6):
            view.epoch("half", {"event": "steps", "done": done, **row})
        view.epoch("half", {"event": "epoch", **row, "val_accuracy": 90.0, "best": "accuracy", "unit": "%"})
    view.failed("half", "ValueError: no")
"""


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_pipe_gets_plain_lines(tmp_path: Path, term: str) -> None:
    """Without what moves a cursor, and without colours."""
    environment = {**os.environ, "PYTHONPATH": PATH, "TERM": term}
    done = subprocess.run([sys.executable, "-c", PIPED], env=environment, capture_output=True, check=True)
    lines = done.stdout.decode().splitlines()
    assert lines[:2] == ["half: waits for its workers", "half: training"]
    assert lines[-1] == "half: train epoch 3/3  loss 0.5000  val 90.00 %  0:03 left"
    assert all(line.isprintable() for line in lines)
    assert done.stderr.decode() == "half failed: ValueError: no\n"
