"""Words that several parts of a page use."""

from __future__ import annotations

from dualprune.pipeline.reports.page.facts import State

STATES: dict[State, str] = {
    "done": "done",
    "lost": "done, and lost",
    "failed": "failed",
    "running": "running",
    "queued": "waiting",
    "stopped": "stopped",
    "not begun": "not begun",
}
"""Of stages, for people."""
