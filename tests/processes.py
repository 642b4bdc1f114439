"""Other processes of this machine: those of this tree, and those with a mark in the environment that they were
started with and hand on."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATH = os.pathsep.join([str(ROOT / ".src"), str(ROOT)])
"""PYTHONPATH of processes that are to import this tree's dualprune, and its tests."""


def marked(mark: str) -> list[tuple[int, str]]:
    """Number and title of each living process whose environment has `mark` in it."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if mark.encode() not in (process / "environ").read_bytes():
                continue
            title = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it has just ended
            continue
        if state not in "ZX":
            found.append((int(process.name), title[:120]))
    return found
