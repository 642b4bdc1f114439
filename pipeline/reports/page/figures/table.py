"""The table of figures. To add one: a function from a run's facts in a file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from dualprune.pipeline.reports.page.facts import Run
from dualprune.pipeline.reports.page.figures import alike, epochs, gains, graph, lasted, layers, surface, tradeoff
from dualprune.pipeline.reports.page.figures.base import Figure

Draws = Callable[[Run], Figure | None]
"""From facts to a figure; None where the run has nothing to show in it."""

FIGURES: tuple[Draws, ...] = (
    tradeoff.against_weights,
    tradeoff.against_bytes,
    tradeoff.against_macs,
    graph.graph,
    layers.kept,
    layers.stored,
    epochs.convergence,
    epochs.settling,
    epochs.learning,
    alike.alike,
    surface.surface,
    gains.sizes,
    gains.speed,
    lasted.lasted,
)
"""In the order of the page."""


def figures(run: Run) -> list[Figure]:
    """Those that the run has something to show in."""
    return [found for draws in FIGURES if (found := draws(run)) is not None]
