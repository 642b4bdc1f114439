"""A picture of a run as lines of text that fit a terminal. Pure.

Where there is no room for all stages, those that run come first, then those that failed, and others are counted. Where
there is none for all columns, what is left of a running stage's has a line below it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from dualprune.pipeline.measured import number
from dualprune.pipeline.run.cut import shortened
from dualprune.pipeline.run.picture import Picture, Stage, State
from dualprune.pipeline.run.work import clock

GAP = "  "
NAMED = 10
"""Columns that a stage's name has at least; at most it has a quarter of the line."""


@dataclass(frozen=True)
class Glyphs:
    """Characters that a terminal knows."""

    marks: dict[State, str]
    bar: tuple[str, str]
    levels: str
    """Of a trend, the lowest first."""
    cut: str


UNICODE = Glyphs(
    {"done": "✓", "running": "▶", "waiting": "◌", "queued": "·", "failed": "✗", "skipped": "–", "left out": "–"},
    ("━", "─"),
    "▁▂▃▄▅▆▇█",
    "…",
)
ASCII = Glyphs(
    {"done": "+", "running": ">", "waiting": "o", "queued": ".", "failed": "x", "skipped": "-", "left out": "-"},
    ("#", "-"),
    "_.:-=+*#",
    "..",
)
STYLES: dict[State, str] = {
    "done": "green",
    "running": "bold cyan",
    "waiting": "yellow",
    "queued": "dim",
    "failed": "red",
    "skipped": "dim",
    "left out": "dim",
}


@dataclass(frozen=True)
class _Column:
    """What is told of each stage, in so many columns."""

    title: str
    width: int
    cell: Callable[[_Page, Stage], str]
    style: str = ""
    left: bool = False
    """Whether it stands at the left of its room."""
    unit: str = "{}"
    """How a cell is told where there is no title."""


@dataclass(frozen=True)
class _Page:
    """What all lines of one drawing have in common."""

    glyphs: Glyphs
    width: int
    now: float
    named: int
    """Columns of names."""
    columns: tuple[_Column, ...]
    below: tuple[_Column, ...]
    """What of a running stage has no column."""


def drawn(picture: Picture, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Text]:
    """At most `height` lines, none of them over `width` columns."""
    page = _page(picture, width, glyphs)
    head = [_header(picture), *([Text(_clean(picture.notice), "yellow")] if picture.notice else [])]
    if any(_has_cells(stage) for stage in picture.stages):
        head.append(_titles(page))
    shown, detailed = _chosen(picture.stages, height - len(head), page)
    lines = head
    for number_, stage in enumerate(picture.stages):
        if number_ in shown:
            lines.append(_line(page, stage))
            if detailed and _has_details(page, stage):
                lines.append(_details(page, stage))
    if len(shown) < len(picture.stages):
        rest = [stage for number_, stage in enumerate(picture.stages) if number_ not in shown]
        lines.append(Text(f"  and {_counts(rest)}", "dim"))
    return [_fitted(line, width, glyphs) for line in lines[:height]]


def spark(values: Sequence[float], width: int, levels: str = UNICODE.levels) -> str:
    """The last values as heights over zero, a character each."""
    last = [value for value in values if math.isfinite(value)][-width:]
    most, top = max(last, default=0.0) or 1.0, len(levels) - 1
    return "".join(levels[min(top, max(0, round(value / most * top)))] for value in last)


def _page(picture: Picture, width: int, glyphs: Glyphs) -> _Page:
    longest = max((cell_len(stage.name) + _indent(stage, width) for stage in picture.stages), default=0)
    named = min(longest, max(NAMED, width // 4))
    units = {(stage.best, stage.unit) for stage in picture.stages}
    one = next(iter(units)) if len(units) == 1 else ("", "")
    bar = max(6, min(30, width // 6))
    measured = _Column(f"val {one[1]}".strip(), 8, lambda _, stage: number(stage.value, stage.unit))
    base = [_Column("progress", bar + 6, _progress, left=True), _Column("left", 8, _left), measured]
    base.append(_Column("vs dense", 8, _to_dense))
    room = width - 2 - named - sum(column.width + len(GAP) for column in base)
    chosen: list[_Column] = []
    more = _more(width)
    for column in more:
        if column.width + len(GAP) > room:
            break
        room -= column.width + len(GAP)
        chosen.append(column)
    below = tuple(column for column in more[len(chosen) :] if column.title != "rate")
    return _Page(glyphs, width, picture.now, named, (*base, *chosen), below)


def _more(width: int) -> list[_Column]:
    """Columns that are there where they have room, the first ones first."""
    trend = 16 if width >= 160 else 8
    return [
        _Column("rate", 7, lambda _, stage: "" if stage.rate is None else f"{stage.rate:.2f}x"),
        _Column("epoch", 24, _epoch, left=True),
        _Column("residual", trend + 6, lambda page, stage: _residual(page, stage, trend), unit="residual {}"),
        _Column("loss", 8, lambda _, stage: _told(stage, "loss", ".4f"), unit="loss {}"),
        _Column("workers", 7, lambda _, stage: _told(stage, "world", "d"), unit="workers {}"),
        _Column("memory", 8, lambda _, stage: _memory(stage)),
        _Column("samples/s", 9, lambda _, stage: _told(stage, "samples_per_second", ",.0f"), unit="{} samples/s"),
        _Column(
            "data wait", 9, lambda _, stage: _told(stage, "waited", ".0%").replace("%", " %"), unit="waits {} for data"
        ),
    ]


def _chosen(stages: Sequence[Stage], room: int, page: _Page) -> tuple[set[int], bool]:
    """Numbers of the stages that are shown in so many lines, and whether with details."""
    details = sum(_has_details(page, stage) for stage in stages)
    if len(stages) + details <= room:
        return set(range(len(stages))), True
    room = max(room - 1, 0)  # the rest is counted in a line
    running = _numbers(stages, "running")[:room]
    failed = _numbers(stages, "failed")[: max(1, room // 4)]
    detailed = len(running) + details + len(failed[:1]) <= room
    room -= len(running) + (details if detailed else 0)
    # What comes next has two thirds of what is left, so that some that are done are seen beside it.
    ahead, behind = [*_numbers(stages, "waiting"), *_numbers(stages, "queued")], _numbers(stages, "done")[::-1]
    next_ = max(0, room - room // 3 - len(failed))
    ranked = dict.fromkeys([*failed, *ahead[:next_], *behind, *ahead[next_:], *range(len(stages))])
    others = [one for one in ranked if one not in running]
    return {*running, *others[: max(0, room)]}, detailed


def _numbers(stages: Sequence[Stage], state: State) -> list[int]:
    return [number_ for number_, stage in enumerate(stages) if stage.state == state]


def _header(picture: Picture) -> Text:
    many = Counter(stage.state for stage in picture.stages)
    parts = [f"{many['done']} of {len(picture.stages)} done"]
    parts += [f"{many[state]} {state}" for state in STYLES if state != "done" and many[state]]
    workers = sum(stage.work.world or 0 for stage in picture.stages if stage.work is not None)
    parts += [f"{workers} workers" if workers > 1 else "1 worker"] if workers else []
    age = "" if picture.began is None else f" {clock(picture.now - picture.began)}"
    return Text.assemble((picture.run, "bold"), f"{age}: {', '.join(parts)}")


def _counts(stages: Sequence[Stage]) -> str:
    return ", ".join(f"{many} {state}" for state, many in Counter(stage.state for stage in stages).items())


def _titles(page: _Page) -> Text:
    line = Text("  " + "stage".ljust(page.named), "dim")
    for column in page.columns:
        line.append(GAP + _placed(column, column.title))
    return line


def _line(page: _Page, stage: Stage) -> Text:
    """A stage's own line: its cells, or the reason why it has none."""
    indent = _indent(stage, page.width)
    name = " " * indent + shortened(stage.name, page.named - indent, page.glyphs.cut)
    line = Text.assemble((page.glyphs.marks[stage.state], STYLES[stage.state]), " ")
    line.append(name + " " * (page.named - cell_len(name)), "bold" if stage.state == "running" else "")
    if not _has_cells(stage):
        line.append(GAP + _words(page, stage), STYLES[stage.state] if stage.state != "running" else "")
        return line
    for column in page.columns:
        line.append(GAP)
        if column.title == "progress" and stage.work is not None:
            line.append_text(_bar(page, stage, column.width))
        else:
            line.append(_placed(column, column.cell(page, stage)), column.style)
    return line


def _has_cells(stage: Stage) -> bool:
    """Whether there are figures to tell of a stage, and not words alone."""
    return stage.state == "done" or (stage.work is not None and stage.work.share is not None)


def _words(page: _Page, stage: Stage) -> str:
    """What there is to say of a stage that does not train."""
    work = stage.work
    if work is None:
        if stage.state in ("queued", "running"):
            return _clean(stage.why or stage.state)
        return _clean(f"{stage.state}: {stage.why}" if stage.why else stage.state)
    since = work.began if work.trains else work.asked
    age = "" if since is None else f" {clock(page.now - since)}"
    return _clean(f"{work.said}{age}{GAP}{_retried(stage)}".rstrip())


def _has_details(page: _Page, stage: Stage) -> bool:
    return stage.work is not None and _has_cells(stage) and bool(page.below or stage.retries)


def _details(page: _Page, stage: Stage) -> Text:
    """What has no column, below a stage's line."""
    cells = [column.unit.format(text) for column in page.below if (text := column.cell(page, stage))]
    retried = [_retried(stage)] if stage.retries else []
    return Text("    " + _clean(GAP.join([*cells[:2], *retried, *cells[2:]])), "cyan")


def _retried(stage: Stage) -> str:
    return f"tried again: {stage.retries[-1]}" if stage.retries else ""


def _progress(page: _Page, stage: Stage) -> str:
    return "done" if stage.seconds is None else f"done in {clock(stage.seconds)}"


def _bar(page: _Page, stage: Stage, width: int) -> Text:
    share = (stage.work.share if stage.work is not None else None) or 0.0
    room = width - 6
    full = int(share * room)
    bar, rest = page.glyphs.bar
    return Text.assemble((bar * full, "cyan"), (rest * (room - full), "dim"), f" {int(100 * share):3d} %")


def _left(page: _Page, stage: Stage) -> str:
    work = stage.work
    if work is None or work.seconds_left is None:
        return ""
    return clock(work.seconds_left - max(0.0, page.now - (work.heard or page.now)))


def _to_dense(_: _Page, stage: Stage) -> str:
    if stage.value is None or stage.dense is None:
        return ""
    return f"{stage.value - stage.dense:+{'.2f' if stage.unit == '%' else '.3g'}}"


def _epoch(_: _Page, stage: Stage) -> str:
    work = stage.work
    if work is None:
        return ""
    if work.epoch is None:
        return work.said
    return f"{work.phase} {work.epoch}/{work.epochs}{f' {100 * work.done:.0f} %' if work.within else ''}"


def _residual(page: _Page, stage: Stage, width: int) -> str:
    if stage.work is None or not stage.work.residuals:
        return ""
    return f"{spark(stage.work.residuals, width, page.glyphs.levels)} {stage.work.residuals[-1]:.3f}"


def _told(stage: Stage, name: str, form: str) -> str:
    value: Any = None if stage.work is None else getattr(stage.work, name)
    return "" if value is None else f"{value:{form}}"


def _memory(stage: Stage) -> str:
    found = None if stage.work is None else stage.work.memory_bytes
    return "" if found is None else f"{found / 2**30:.1f} GiB" if found >= 2**30 else f"{found / 2**20:.0f} MiB"


def _indent(stage: Stage, width: int) -> int:
    return min(stage.depth, max(1, width // 20))


def _placed(column: _Column, text: str) -> str:
    """A cell's text in its room; what is too long is cut."""
    text = shortened(_clean(text), column.width)
    space = " " * (column.width - cell_len(text))
    return text + space if column.left else space + text


def _clean(text: str) -> str:
    """On one line, without what moves a cursor."""
    return "".join(one if one.isprintable() else " " for one in text)


def _fitted(line: Text, width: int, glyphs: Glyphs) -> Text:
    """A line without spaces at its end, cut where it is too long."""
    line.no_wrap, line.overflow = True, "crop"
    line.rstrip()
    if line.cell_len > width:
        line.truncate(max(0, width - cell_len(glyphs.cut)), overflow="crop")
        line.append(glyphs.cut[:width])
    return line
