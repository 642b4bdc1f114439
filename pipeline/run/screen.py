"""Lines at the foot of a terminal that are drawn again and again in their places, below what scrolls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from dualprune.pipeline.run.drawing import ASCII, UNICODE, Glyphs

OFTEN = 2
"""Drawings a second: clocks tick, and it costs next to nothing."""
Draw = Callable[[int, int, Glyphs], Sequence[Text]]
"""Lines for a width, a height, and the characters that there are."""


class Screen(RenderHook):
    """Draws while it is entered, from a thread of its own.

    Lines are written over those before, without erasing these first: so nothing is ever seen empty.
    """

    def __init__(self, console: Console, draw: Draw) -> None:
        self.console = console
        self._draw = draw
        self._height = 0
        self._live = Live(console=console, refresh_per_second=OFTEN, transient=True, get_renderable=self._drawn)

    def __enter__(self) -> Screen:
        self._live.start()
        self.console.push_render_hook(self)
        self.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        self.console.pop_render_hook()
        self._live.stop()

    def refresh(self) -> None:
        """Draw at once."""
        self._live.refresh()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Go to where the last drawing began. Where lines are printed above it, let rich erase it before."""
        _, *printed, drawing = renderables
        if not all(isinstance(one, Control) for one in printed):
            return renderables
        up = [(ControlType.CURSOR_UP, self._height - 1)] if self._height > 1 else []
        return [Control(ControlType.CARRIAGE_RETURN, *up), drawing]

    def _drawn(self) -> ConsoleRenderable:
        width, height = self.console.size
        glyphs = UNICODE if self.console.encoding.startswith("utf") else ASCII
        # With a character in the last column, what erases the rest of the line would erase that.
        return _Frame(self, self._draw(max(1, width - 1), max(2, height - 1), glyphs))

    def shows(self, height: int) -> None:
        """Note that so many lines are on the terminal now."""
        self._height = height


class _Frame:
    """Lines, each with what erases what was right of it, and below the last one."""

    def __init__(self, screen: Screen, lines: Sequence[Text]) -> None:
        self._screen, self._lines = screen, lines

    def __rich_console__(self, console: Console, _: ConsoleOptions) -> RenderResult:
        self._screen.shows(len(self._lines))
        for number, line in enumerate(self._lines):
            if number:
                yield Segment.line()
            yield from line.render(console)
            yield Segment("\x1b[K", None, [(ControlType.ERASE_IN_LINE, 0)])
        yield Segment("\x1b[J", None, [(ControlType.ERASE_IN_LINE, 0)])
