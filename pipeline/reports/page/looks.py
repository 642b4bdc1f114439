"""What the chosen network looks at, as `dualprune saliency` left it: numbers in words, and its pictures. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dualprune.pipeline.reports.page import drawing
from dualprune.pipeline.reports.page.facts import Run
from dualprune.pipeline.reports.page.figures.base import Table, percent, plural

SHOWN = 3
"""Pictures that are not folded."""


@dataclass(frozen=True)
class Picture:
    """One of them."""

    title: str
    about: str
    svg: str
    """Fit to stand in a page."""


@dataclass(frozen=True)
class Looks:
    """All of them, with what is to be said."""

    sentence: str
    pictures: tuple[Picture, ...]
    folded: tuple[Picture, ...]
    changed: Table | None
    """Samples to which the network answers otherwise than the dense one."""


def looks(run: Run) -> Looks | None:
    """What was left of the chosen network; nothing where there is none, or it makes no sense."""
    found = run.looked
    try:
        pictures = tuple(
            Picture(str(one["title"]), str(one["about"]), drawing.taken(one["svg"])) for one in found.get("figures", ())
        )
        sentence, changed = " ".join(_said(found)), _changed(found)
    except (KeyError, TypeError, ValueError):
        return None
    if not pictures:
        return None
    return Looks(sentence, pictures[:SHOWN], pictures[SHOWN:], changed)


def _said(found: Mapping[str, Any]) -> Iterator[str]:
    samples = plural(int(found["samples"]), f"{found['split']} sample")
    yield "What of an input speaks for an answer (orange, or upwards), and what against it (blue, or downwards):"
    yield f"gradient x input, on {samples}."
    for one in found["networks"]:
        same = f"{one['name']} answers as {found['dense']['name']} does to {percent(100 * one['agreement'])} of them"
        better, worse = one.get("better"), one.get("worse")
        yield f"{same}." if better is None else f"{same}; {better} became right, {worse} wrong."
    if found.get("left_out"):
        yield f"{plural(int(found['left_out']), 'more picture')} did not fit; `dualprune saliency` draws them."


def _changed(found: Mapping[str, Any]) -> Table | None:
    rows = tuple(
        (f"{one['sample']}", str(one["before"]), str(one["after"]))
        for network in found["networks"]
        for one in network["changed"]
    )
    return Table(("sample", "before", "after"), rows) if rows else None
