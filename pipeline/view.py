"""What a person sees while a run goes on: on a terminal a line a running stage, elsewhere a line now and then."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

EVERY = 2.0
"""Seconds between two lines of one stage where lines can't be redrawn."""


class View:
    """Shows notes and the progress of running stages."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._lines: dict[str, str] = {}
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
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def epoch(self, stage: str, row: dict[str, Any]) -> None:
        """Show where a stage is."""
        if "residual" in row:
            self._residuals[stage] = row["residual"]
        residual = f"  residual {self._residuals[stage]:.3f}" if stage in self._residuals else ""
        line = (
            f"{stage}: {row['phase']} epoch {row['epoch']}/{row['epochs']}  loss {row['loss']:.4f}"
            f"  val {row['val_accuracy']:.2f} %{residual}  {clock(row['seconds_left'])} left"
        )
        self._show(stage, line, last=row["epoch"] == row["epochs"])

    def waiting(self, stage: str, text: str) -> None:
        """Show that a stage has begun but trains not yet."""
        self._show(stage, f"{stage}: {text}", last=True)

    def ended(self, stage: str, text: str) -> None:
        """A stage's last line."""
        self._lines.pop(stage, None)
        self._draw()
        self.note(f"{stage}: {text}")

    def lines(self) -> dict[str, str]:
        """The line of each stage that runs."""
        return dict(self._lines)

    def _show(self, stage: str, line: str, last: bool) -> None:
        self._lines[stage] = line
        if self._live:
            self._draw()
        elif last or time.monotonic() - self._shown.get(stage, 0.0) >= EVERY:
            self._shown[stage] = time.monotonic()
            self.note(line)

    def _draw(self) -> None:
        if self._live:
            self._live.update(Group(*(Text(line) for line in self._lines.values())))


def clock(seconds: float) -> str:
    """Seconds as `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
