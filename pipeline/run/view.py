"""What a person sees while a run goes on: on a terminal a picture of it, elsewhere a line now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from dualprune.pipeline import output
from dualprune.pipeline.output import complain, redraws, say
from dualprune.pipeline.run.drawing import Glyphs, drawn
from dualprune.pipeline.run.picture import Doings, Picture, Stage
from dualprune.pipeline.run.screen import Screen
from dualprune.pipeline.run.work import WAITS, Work, kept

EVERY = 2.0
"""Seconds between two lines of one stage at epochs' ends, where lines can't be redrawn."""
WITHIN = 30.0
"""The same within an epoch."""

Look = Callable[[Doings], tuple[Stage, ...]]
"""The stages of a run, given what they do."""


class View:
    """Shows notes and how a run stands; with `lines`, as lines also where a picture could be redrawn."""

    def __init__(self, console: Console, lines: bool = False) -> None:
        self.console = console
        self.run = ""
        self.look: Look = lambda doings: ()
        """Asked on another thread."""
        self.began = time.time()
        self._works: dict[str, Work] = {}
        self._retries: dict[str, tuple[str, ...]] = {}
        self._lines = Lines(console)
        self._screen = Screen(console, self._drawn) if redraws(console) and not lines else None

    def __enter__(self) -> View:
        if self._screen:
            self._screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen:
            self._screen.__exit__()

    def note(self, text: str, style: str | None = None) -> None:
        """Print a line that stays; on a terminal broken between words, unless one of them has no room in any case."""
        width = self.console.width
        if self._screen is not None and all(cell_len(word) <= width for word in text.split()):
            self.console.print(Text(text, style or ""))
        else:
            say(self.console, text, style)

    def epoch(self, stage: str, row: Mapping[str, Any]) -> None:
        """Show where a stage is, after an epoch or within one, and which samples it could not read."""
        self.left_out(stage, row.get("left_out", []))
        self._works[stage] = self._works.get(stage, Work()).after(row, time.time())
        self._show(stage)

    def left_out(self, stage: str, samples: Sequence[str]) -> None:
        """Tell which samples a stage could not read."""
        for sample in samples:
            self.note(f"{stage}: left out {sample}")

    def waiting(self, stage: str, text: str = WAITS) -> None:
        """Show that a stage has begun but trains not yet."""
        self._works[stage] = Work(text, asked=time.time())
        self._show(stage)

    def begins(self, stage: str, text: str, row: Mapping[str, Any]) -> None:
        """Show that a stage is being trained now, as it said in this row."""
        self._works[stage] = self._works.get(stage, Work()).begins(text, row, time.time())
        if self._screen is None:
            self._lines.tell(stage, f"{stage}: {text}")

    def again(self, stage: str, reason: str) -> None:
        """Tell why a stage's training broke off; it waits for workers again."""
        self._retries[stage] = (*self._retries.get(stage, ()), reason)
        self._works[stage] = self._works.get(stage, Work()).again(time.time())
        self.note(f"{stage}: {reason}")

    def ended(self, stage: str, text: str) -> None:
        """A stage's last line."""
        self._works.pop(stage, None)
        self.note(f"{stage}: {text}")

    def failed(self, stage: str, reason: str) -> None:
        """A stage's last line, on standard error; on a terminal above the lines that are redrawn there."""
        self._works.pop(stage, None)
        text = f"{stage} failed: {reason}"
        if self._screen is not None and output.console(stderr=True).is_terminal:
            self.note(text, "red")
        else:
            complain(text)

    def lines(self) -> dict[str, str]:
        """The line of each stage that is at work."""
        return {stage: f"{stage}: {work.line}" for stage, work in list(self._works.items())}

    def account(self) -> dict[str, Any]:
        """The same as facts, for the store."""
        works = dict(self._works)
        since = {stage: _utc(work.began) for stage, work in works.items() if work.began is not None}
        return {"works": kept(works), "since": since, "retries": dict(self._retries), "began": self.began}

    def _show(self, stage: str) -> None:
        if self._screen is None:
            work = self._works[stage]
            self._lines.tell(stage, f"{stage}: {work.line}", work)

    def _drawn(self, width: int, height: int, glyphs: Glyphs) -> list[Text]:
        if not self.run:
            return []  # it is planned yet
        stages = self.look(Doings(dict(self._works), dict(self._retries)))
        return drawn(Picture(self.run, time.time(), stages, self.began), width, height, glyphs)


class Lines:
    """Lines of stages where none can be redrawn: now and then one of each."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._told: dict[str, tuple[str, float, int]] = {}

    def tell(self, stage: str, line: str, work: Work | None = None) -> None:
        """Print a stage's line, if it is new and its last one is long enough ago; always what is said but once."""
        now, ended = time.monotonic(), 0 if work is None else work.ended
        before, at, then = self._told.get(stage, ("", -math.inf, 0))
        once = work is None or work.epoch is None or (not work.within and work.epoch == work.epochs)
        if line != before and (once or now - at >= (WITHIN if ended == then else EVERY)):
            self._told[stage] = line, now, ended
            say(self.console, line)


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
