"""How much a test split can tell: 95 % intervals of shares of its examples. Pure."""

from __future__ import annotations

import math

from dualprune.pipeline.reports.page.facts import Stage

Z = 1.96
"""Standard deviations on both sides that hold 95 % of a normal distribution."""
SHARES = ("accuracy", "top5")
"""Metrics that count examples, in percent of all."""


def half_width(stage: Stage, samples: int | None) -> float | None:
    """Half of the interval of a stage's test metric, in its unit; None where that is no share of so many examples.

    Wilson's, made symmetric: it says something at 0 and 100 % too.
    """
    value = stage.value()
    if not samples or value is None or stage.measures.best not in SHARES or stage.measures.unit != "%":
        return None
    share = min(1.0, max(0.0, value / 100))
    root = math.sqrt(share * (1 - share) / samples + (Z / (2 * samples)) ** 2)
    return 100 * Z * root / (1 + Z**2 / samples)


def difference(one: Stage, other: Stage, samples: int | None) -> float | None:
    """The same of the difference of two stages, as if each had had examples of its own: on the same ones it is less."""
    both = half_width(one, samples), half_width(other, samples)
    return None if both[0] is None or both[1] is None else math.hypot(*(width for width in both if width is not None))
