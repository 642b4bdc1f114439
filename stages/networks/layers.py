"""Where in a network an error was raised."""

from __future__ import annotations

import traceback

from torch import nn


def note_layer(error: BaseException, network: nn.Module) -> None:
    """Add to an exception's notes which layer of a network was at work: a shape mismatch alone doesn't say."""
    names = {id(layer): name for name, layer in network.named_modules() if name}
    selves = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    at_work = [layer for layer in selves if id(layer) in names]
    if at_work:
        text = f"in layer {names[id(at_work[-1])]}, {' '.join(repr(at_work[-1]).split())}"
        # What add_note does, which Python 3.10 has not.
        error.__notes__ = [*getattr(error, "__notes__", []), text]  # type: ignore[attr-defined]
