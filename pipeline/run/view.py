"""What a person sees while a run goes on: on a terminal a line a running stage, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dualprune.pipeline import output
from dualprune.pipeline.measured import validated
from dualprune.pipeline.output import complain, redraws, say

EVERY = 2.0
"""Seconds between two lines of one stage where lines can't be redrawn."""


class View:
    """Shows notes and the progress of running stages."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lines: dict[str, str] = {}
        self._since: dict[str, str] = {}
        self._live: Live | None = None
        if redraws(console):
            # Asked for what to show four times a second, not told at each of a thousand stages' events.
            self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._drawn)
        self._residuals: dict[str, float] = {}
        self._shown: dict[str, float] = {}

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a line that stays."""
        say(self.console, text)

    def epoch(self, stage: str, row: dict[str, Any]) -> None:
        """Show where a stage is, and which samples it could not read."""
        self.left_out(stage, row.get("left_out", []))
        if "residual" in row:
            self._residuals[stage] = row["residual"]
        residual = f"  residual {self._residuals[stage]:.3f}" if stage in self._residuals else ""
        line = (
            f"{stage}: {row['phase']} epoch {row['epoch']}/{row['epochs']}  loss {row['loss']:.4f}"
            f"  {validated(row, row['best'], row['unit'])}{residual}  {clock(row['seconds_left'])} left"
        )
        self._show(stage, line, last=row["epoch"] == row["epochs"])

    def left_out(self, stage: str, samples: Sequence[str]) -> None:
        """Tell which samples a stage could not read."""
        for sample in samples:
            self.note(f"{stage}: left out {sample}")

    def waiting(self, stage: str, text: str) -> None:
        """Show that a stage has begun but trains not yet."""
        self._show(stage, f"{stage}: {text}", last=True)

    def begins(self, stage: str, text: str) -> None:
        """Show that a stage is being trained now."""
        self._since.setdefault(stage, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
        self.waiting(stage, text)

    def ended(self, stage: str, text: str) -> None:
        """A stage's last line."""
        self._lines.pop(stage, None)
        self._since.pop(stage, None)
        self.note(f"{stage}: {text}")

    def failed(self, stage: str, reason: str) -> None:
        """A stage's last line, on standard error; on a terminal above the lines that are redrawn there."""
        self._lines.pop(stage, None)
        self._since.pop(stage, None)
        text = f"{stage} failed: {reason}"
        if self._live is not None and output.console(stderr=True).is_terminal:
            say(self.console, text, "red")
        else:
            complain(text)

    def lines(self) -> dict[str, str]:
        """The line of each stage that runs."""
        return dict(self._lines)

    def since(self) -> dict[str, str]:
        """When each stage that is being trained began, or went on; UTC."""
        return dict(self._since)

    def _show(self, stage: str, line: str, last: bool) -> None:
        self._lines[stage] = line
        if self._live is None and (last or time.monotonic() - self._shown.get(stage, 0.0) >= EVERY):
            self._shown[stage] = time.monotonic()
            self.note(line)

    def _drawn(self) -> Group:
        """As many lines as the terminal has room for: those of the stages that began first."""
        lines, room = list(self._lines.values()), max(1, self.console.height - 2)
        rest = [f"and {len(lines) - room} more"] if len(lines) > room else []
        return Group(*(Text(line) for line in lines[:room] + rest))


def clock(seconds: float) -> str:
    """Seconds as `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
