"""How messages name the kinds of stages: tests of these need no change for a new one."""

from __future__ import annotations

from dualprune.stages.kinds.table import KINDS

STAGES_SAID = ", ".join(KINDS)
"""Of stages."""
KINDS_SAID = f"{STAGES_SAID}, select"
"""Of all entries."""


def listed(word: str) -> str:
    """Kinds that prune or the like: all but `train`, the last one after `word`."""
    *most, last = (name for name in KINDS if name != "train")
    return f"{', '.join(most)} {word} {last}"
