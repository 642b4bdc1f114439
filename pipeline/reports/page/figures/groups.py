"""Groups of runs in figures: a colour and a shape each, and their names above the axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dualprune.pipeline.reports.page.facts import Run
from dualprune.pipeline.reports.page.figures.base import Spec, width_of
from dualprune.pipeline.reports.page.figures.marks import text
from dualprune.pipeline.reports.page.theme import colour
from dualprune.pipeline.reports.page.versus import Comparison

SHAPES = ("circle", "square", "diamond", "triangle-right", "cross", "triangle-left")
"""By group; the other triangles say that a dot lies beyond the axes."""
SIGNS = {"circle": "●", "square": "■", "diamond": "◆", "triangle-right": "▶", "cross": "✚", "triangle-left": "◀"}
"""Shapes as characters, for names of groups."""


def sign(which: int) -> str:
    """The shape of a group as a character."""
    return SIGNS[SHAPES[which]]


def runs_of(found: Comparison) -> Iterator[tuple[int, Run]]:
    """All runs, each with the number of its group."""
    return ((number, run) for number, group in enumerate(found.groups) for run in group.runs)


def names(found: Comparison, left: float = 0.0, right: float | None = None) -> list[Spec]:
    """The groups' names above the axes: from `left` on, or up to `right`."""
    shown: Sequence[str] = [f"{sign(which)} {group.name}" for which, group in enumerate(found.groups)]
    at = left if right is None else right - sum(width_of(name) + 16 for name in shown) + 16
    layers = []
    for which, name in enumerate(shown):
        where = {"x": {"value": at}, "y": {"value": -16}}
        layers.append(text([{"text": name}], where, align="left", fill=colour(f"s{which}"), fontWeight="bold"))
        at += width_of(name) + 16
    return layers
