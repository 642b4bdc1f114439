"""Two networks beside each other: correlations, and the samples whose answers changed."""

from __future__ import annotations

import numpy as np
import pytest

from dualprune.stages.saliency.compare import compared, correlation, ranked


def test_correlations() -> None:
    random = np.random.default_rng(0)
    some, others = random.normal(size=50), random.normal(size=50)
    assert correlation(some, others) == pytest.approx(np.corrcoef(some, others)[0, 1])
    assert correlation(some, 3 * some + 1) == pytest.approx(1)
    assert correlation(some, -some) == pytest.approx(-1)
    assert correlation(some, np.zeros(50)) == 0
    assert ranked(np.array([5.0, 1.0, 5.0, 2.0])).tolist() == [2.5, 0, 2.5, 1]


def test_ranks_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).integers(0, 9, size=40).astype(float)
    assert np.allclose(ranked(values) + 1, stats.rankdata(values))


def test_changed_samples() -> None:
    same = np.array([True, False, False, True, False])
    before, after = np.array([True, True, False, False, False]), np.array([True, False, True, False, False])
    maps = [np.array([1.0, 2.0, 3.0])] * 5
    other = [np.array([1.0, 2.0, 3.0])] * 4 + [np.array([3.0, 2.0, 1.0])]
    found = compared(same, (before, after), (maps, other), (maps, maps))
    assert found.changed == (1, 2, 4)
    assert found.agreement == pytest.approx(0.4)
    assert (found.better, found.worse) == (1, 1)
    assert found.product is not None
    assert found.product.mean == pytest.approx(0.6)
    assert found.each is not None
    assert found.each.tolist() == pytest.approx([1, 1, 1, 1, -1])
    assert found.strength is not None
    assert found.strength.mean == pytest.approx(1)


def test_maps_of_other_shapes() -> None:
    """A network of a smaller resolution: answers are compared, maps are not."""
    maps = [np.array([1.0, 2.0, 3.0])] * 2
    found = compared(np.array([True, True]), None, (maps, [one[:2] for one in maps]), (maps, maps))
    assert (found.changed, found.better, found.product, found.strength) == ((), None, None, None)
