"""The folder in which a user's downloads are kept for all runs."""

from __future__ import annotations

import os
from pathlib import Path


class NoHome(OSError):
    """There is no such folder, and none can be made."""


def cache_folder(*names: str) -> Path:
    """`names` below `dualprune` in XDG_CACHE_HOME or ~/.cache, made if it is not there. Raises NoHome."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    way = "set XDG_CACHE_HOME, or HOME, to a folder that can be written"
    if not os.path.isabs(base):  # what Python leaves of `~` where HOME is unset and the user has a number only
        raise NoHome(f"this user has no home folder to keep downloads in: {way}")
    path = Path(base, "dualprune", *names)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoHome(f"downloads can't be kept ({error}): {way}") from None
    return path
