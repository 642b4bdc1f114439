"""Calls side by side: in turn, warmed up, with the intervals that order statistics give."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest

from dualprune.stages.export import timing
from dualprune.stages.export.timing import LEAST, Effort, Spread, interleaved, quartiles, times_as_fast


class Clock:
    """A clock that only calls move on, on a machine that gets slower all the time."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, 0

    def perf_counter(self) -> float:
        """Seconds."""
        return self.now

    def call(self, seconds: float) -> Callable[[], None]:
        """One that lasts about so long."""

        def call() -> None:
            self.calls += 1
            self.now += seconds * (1 + self.calls / 1000)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In the place of the real one."""
    found = Clock()
    monkeypatch.setattr(timing, "time", found)
    return found


def test_a_call_that_lasts_twice_as_long_is_half_as_fast(clock: Clock) -> None:
    times = interleaved({"slow": clock.call(0.004), "fast": clock.call(0.002)}, Effort(repeats=20))
    assert [len(one) for one in times.values()] == [20, 20]
    ratio = times_as_fast(times["slow"], times["fast"])
    assert 1.9 < ratio.low <= ratio.middle <= ratio.high < 2.1
    assert times["slow"][-1] > 1.2 * times["slow"][0], "though it was another machine in the end"


def test_calls_take_turns_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BURST", 0.0)
    order: list[str] = []
    calls: dict[str, Callable[[], object]] = {name: lambda name=name: order.append(name) for name in "abc"}
    interleaved(calls, Effort(repeats=30))
    bursts = [name for name, _ in itertools.groupby(order[-180:])]
    assert order[:5] == ["a"] * 5, "two to warm up, three to see how long a burst is"
    assert len(order) == 15 + 30 * 3 * 2
    rounds = [order[15 + 6 * n : 21 + 6 * n] for n in range(30)]
    assert all(sorted(one) == list("aabbcc") for one in rounds)
    assert len({tuple(one[::2]) for one in rounds}) > 2, "in several orders"
    assert len(bursts) > 60


def test_seconds_bound_the_rounds_and_few_are_made_in_any_case(clock: Clock) -> None:
    assert len(interleaved({"a": clock.call(0.001)}, Effort(seconds=1e-3))["a"]) == LEAST
    began = clock.now
    assert len(interleaved({"a": clock.call(0.001)}, Effort(seconds=0.5))["a"]) > LEAST
    assert 0.5 < clock.now - began < 0.6


def test_quartiles() -> None:
    assert quartiles([3.0]) == Spread(3, 3, 3)
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(2, 3, 4)


@pytest.mark.parametrize(("rounds", "out"), [(1, 0), (7, 0), (8, 0), (11, 0), (12, 1), (20, 3), (100, 36)])
def test_the_interval_leaves_out_as_many_as_the_table_of_the_sign_test_says(rounds: int, out: int) -> None:
    """Conover, Practical Nonparametric Statistics, table A3, p = 1/2."""
    figures = [float(n) for n in range(1, rounds + 1)]
    found = times_as_fast(figures, [1.0] * rounds)
    assert (found.low, found.high) == (out + 1, rounds - out)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    drawn = random.Random(0)
    held = 0
    for _ in range(1000):
        found = times_as_fast([math.exp(drawn.gauss(0, 0.2)) for _ in range(15)], [1.0] * 15)
        held += found.low <= 1 <= found.high
    assert held >= 990 - 10


def test_ratios_are_taken_within_rounds() -> None:
    """A machine that is ten times slower in some rounds changes nothing."""
    slow = [1.0, 10.0, 1.0, 10.0, 1.0, 10.0, 1.0]
    assert times_as_fast(slow, [one / 2 for one in slow]) == Spread(2, 2, 2)
