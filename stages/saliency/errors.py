"""Why it can't be shown what a network looks at."""

from __future__ import annotations


class NotShown(ValueError):
    """A network, an objective or samples that maps can't be made of; and why."""
