"""Two networks on the same samples: whose answers changed, and how alike their maps are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Spread(NamedTuple):
    """Of something that each sample has."""

    mean: float
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""


@dataclass(frozen=True)
class Compared:
    """A network beside the one that it is compared with."""

    agreement: float
    """Share of the samples for which both say the same."""
    changed: tuple[int, ...]
    """Places, among the samples, of the others."""
    better: int | None
    """Of the changed: right now, and not before. None where right answers are not known."""
    worse: int | None
    """The other way round; the rest are wrong in another way."""
    product: Spread | None
    """Pearson's correlation of gradient x input, over a sample's places; None where the maps are not of one shape."""
    strength: Spread | None
    """Spearman's, of the gradients' strength."""
    each: Numbers | None
    """Of `product`, each sample's [n]."""


def correlation(some: Numbers, others: Numbers) -> float:
    """Pearson's of two maps; 0 where one is the same everywhere, so that nothing is alike."""
    some, others = some - some.mean(), others - others.mean()
    size = float(np.sqrt((some**2).sum() * (others**2).sum()))
    return float((some * others).sum()) / size if size > 0 else 0.0


def ranked(values: Numbers) -> Numbers:
    """The rank of each value, from 0; equal ones have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found: Numbers = ((2 * ends - counts - 1) / 2)[inverse.reshape(-1)]
    return found


def spread(values: Numbers) -> Spread:
    """Mean and quartiles of one number a sample."""
    return Spread(float(values.mean()), *(float(np.quantile(values, q)) for q in (0.25, 0.75)))


def compared(
    same: NDArray[np.bool_],
    right: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None,
    products: tuple[list[Numbers], list[Numbers]],
    strengths: tuple[list[Numbers], list[Numbers]],
) -> Compared:
    """Of n samples: where answers are the same [n], where each network's are right, and maps, each flat; before and
    after."""
    changed = np.flatnonzero(~same)
    better = worse = None
    if right is not None:
        before, after = right
        better, worse = int((after & ~before & ~same).sum()), int((before & ~after & ~same).sum())
    alike = all(len(some) == len(others) for some, others in zip(*products, strict=True))
    each = ranks = None
    if alike:
        each = np.array([correlation(some, others) for some, others in zip(*products, strict=True)])
        ranks = np.array([correlation(ranked(a), ranked(b)) for a, b in zip(*strengths, strict=True)])
    return Compared(
        float(same.mean()),
        tuple(changed.tolist()),
        better,
        worse,
        None if each is None else spread(each),
        None if ranks is None else spread(ranks),
        each,
    )
