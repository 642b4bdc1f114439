"""Text cut to the room that it has. Pure."""

from __future__ import annotations

from rich.cells import cell_len, chop_cells


def shortened(text: str, width: int, cut: str = "…") -> str:
    """A text of at most `width` columns, what is too much cut out of its middle."""
    if cell_len(text) <= width:
        return text
    room = width - cell_len(cut)
    if room < 2:
        return _first(text, max(width, 0))
    end = _first(text[::-1], room // 2)[::-1]
    return _first(text, room - cell_len(end)) + cut + end


def _first(text: str, width: int) -> str:
    return chop_cells(text, width)[0] if width > 0 and text else ""
