"""Lists of shell patterns over names, of which those that begin with `!` leave names out."""

from __future__ import annotations

from collections.abc import Sequence


def listed(given: str | list[str] | None) -> list[str]:
    """One, several, or none, as a list."""
    return [given] if isinstance(given, str) else given or []


def included(patterns: Sequence[str]) -> list[str]:
    """Patterns of what is meant."""
    return [pattern for pattern in patterns if not pattern.startswith("!")]


def excluded(patterns: Sequence[str]) -> list[str]:
    """Patterns of what is left out of that."""
    return [pattern[1:] for pattern in patterns if pattern.startswith("!")]
