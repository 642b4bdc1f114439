"""Calls timed side by side on a machine whose speed drifts: one burst of each in turn, in random order."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

BURST = 0.02
"""Seconds that a burst lasts at least."""
LEAST = 8
"""Rounds: of fewer no interval of 99 % is known."""
UNCERTAIN = 0.01
"""Share of intervals that may not hold the median: several networks are compared in several places at once."""
MOST = 1000


@dataclass(frozen=True)
class Effort:
    """How long is measured."""

    seconds: float = 2.0
    """For each call that is compared, without what warms it up; `LEAST` rounds in any case."""
    repeats: int | None = None
    """Rounds, in place of it."""


@dataclass(frozen=True)
class Spread:
    """A figure: its median, and what is below and above it."""

    low: float
    middle: float
    high: float


Call = Callable[[], object]


def interleaved(calls: Mapping[str, Call], effort: Effort) -> dict[str, list[float]]:
    """Seconds a call: of each one, a figure a round, the median over a burst.

    In a round every call has one burst, in random order. A burst's first call is not counted: it finds the caches full
    of the previous one's tensors. So figures of one round compare, though the machine is slower in another one.
    """
    lengths = {name: _length(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    end = time.perf_counter() + effort.seconds * len(names)
    for number in range(effort.repeats or MOST):
        if effort.repeats is None and number >= LEAST and time.perf_counter() > end:
            break
        order.shuffle(names)
        for name in names:
            calls[name]()
            times[name].append(statistics.median(_seconds(calls[name]) for _ in range(lengths[name])))
    return times


def quartiles(figures: Sequence[float]) -> Spread:
    """The median and the quartiles."""
    if len(figures) == 1:
        return Spread(*(figures[0],) * 3)
    return Spread(*statistics.quantiles(figures, n=4, method="inclusive"))


def times_as_fast(base: Sequence[float], other: Sequence[float]) -> Spread:
    """How many times as fast the second is as the first, by figures of the same rounds.

    The median, and between what bounds it lies with at least 99 % certainty (order statistics; of fewer than eight
    rounds, all that was seen).
    """
    found = sorted(a / b for a, b in zip(base, other, strict=True))
    out = _outside(len(found))
    return Spread(found[out], statistics.median(found), found[-1 - out])


def _outside(rounds: int) -> int:
    """How many of so many figures may be left out at each end: the most with 2 P(that few below the median) <= 1 %."""
    chance, out = 0.0, 0
    for below in range(rounds // 2):
        chance += math.comb(rounds, below) / 2**rounds
        if 2 * chance > UNCERTAIN:
            break
        out = below
    return out


def _length(call: Call) -> int:
    """Calls in a burst. Warms up."""
    call()
    call()
    return max(1, math.ceil(BURST / max(min(_seconds(call) for _ in range(3)), 1e-7)))


def _seconds(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
