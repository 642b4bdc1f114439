"""Lines at the foot of a terminal that are drawn again and again in their places, below what scrolls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderHook, RenderResult
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from dualprune.pipeline.run.drawing import ASCII, UNICODE, Glyphs

NEWLINE = "\n"
ABOVE = 3
"""Lines that a drawing leaves to what is printed above it."""
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
        self._shown: list[int] = []
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
        """Put what is printed above the drawing, and go to where that begins."""
        _, *printed, drawing = renderables  # the first is rich's own way to that place, which erases all on it
        # A terminal that has become narrower has broken the drawing's lines.
        rows = sum(max(1, -(-cells // self.console.width)) for cells in self._shown)
        return [_Above(rows, printed) if rows else Group(*printed), drawing]

    def _drawn(self) -> ConsoleRenderable:
        width, height = self.console.size
        glyphs = UNICODE if self.console.encoding.startswith("utf") else ASCII
        # With a character in the last column, what erases the rest of the line would erase that.
        return _Frame(self, self._draw(max(1, width - 1), max(2, height - ABOVE), glyphs))

    def shows(self, widths: list[int]) -> None:
        """Note that lines of these widths are on the terminal now."""
        self._shown = widths


class _Above:
    """Lines inserted above a drawing of so many lines, at whose end the cursor is; it is left at its beginning.

    The drawing moves as a whole: first all scrolls up, then it is moved down again from the new lines' place on.
    """

    def __init__(self, height: int, printed: Sequence[ConsoleRenderable]) -> None:
        self._height, self._printed = height, printed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = self._height
        for line in Segment.split_lines(console.render(Group(*self._printed), options)):
            rows = max(1, -(-sum(segment.cell_length for segment in line) // options.max_width))
            if rows + height > options.size.height:  # there is no room to move it: write over it
                yield _code(f"\r{_up(height - 1)}\x1b[J")
                yield from [*line, Segment.line()]  # a line that rich sees, lest it cut all that follows
                yield _code(NEWLINE * (height - 1))
                continue
            yield _code(f"\r{NEWLINE * rows}{_up(rows + height - 1)}\x1b[{rows}L")
            yield from [*line, Segment.line()]
            yield _code(_down(height - 1))
        yield _code(f"\r{_up(height - 1)}")


class _Frame:
    """A drawing: lines, each with what erases what was right of it, and below the last one."""

    def __init__(self, screen: Screen, lines: Sequence[Text]) -> None:
        self._screen, self._lines = screen, lines

    def __rich_console__(self, console: Console, _: ConsoleOptions) -> RenderResult:
        self._screen.shows([line.cell_len for line in self._lines])
        for number, line in enumerate(self._lines):
            if number:
                yield Segment.line()
            yield from line.render(console)
            yield _code("\x1b[K")
        yield _code("\x1b[J")


def _code(text: str) -> Segment:
    """What a terminal does, and does not show. rich knows few of them by name: it goes by there being one."""
    return Segment(text, None, [(ControlType.CARRIAGE_RETURN,)])


def _up(lines: int) -> str:
    return f"\x1b[{lines}A" if lines > 0 else ""


def _down(lines: int) -> str:
    return f"\x1b[{lines}B" if lines > 0 else ""
