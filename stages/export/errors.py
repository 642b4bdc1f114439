"""Why a network is not exported."""

from __future__ import annotations

from torch import nn

from dualprune.stages.files.source import line_of
from dualprune.stages.networks.layers import note_layer

LONGEST = 300
"""Characters of what torch says that are told: its messages go on for pages."""


class NotExported(ValueError):
    """A network that a format can't hold, that can't be traced, or whose file did not compute the same; and why."""


def untraceable(error: Exception, network: nn.Module, what: str) -> NotExported:
    """What is told of a network that could not be followed: the reason, its layer and the line of a user's own."""
    own = getattr(network, "network", network)  # what stages.export.calls.Plain is around
    note_layer(error, own if isinstance(own, nn.Module) else network)
    said = " ".join(str(error).strip().partition("\n\n")[0].split())
    said = said if len(said) <= LONGEST else f"{said[:LONGEST]} ..."
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith("in layer ")]
    line = line_of(error)
    places = [*notes[-1:], *([f"at {line}"] if line else [])]
    return NotExported(f"{what}: {type(error).__name__}: {said}" + "".join(f"; {place}" for place in places))
