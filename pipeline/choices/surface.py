"""A model of a metric over depth, width and resolution: polynomials with a coefficient tensor of low rank. Pure.

    F(d, w, r) = sum over i, j, k of lambda_ijk d^i w^j r^k,    lambda of CP rank R

Wang et al. 2021 ("Accelerate CNNs from Three Dimensions"): the form, and that a low rank makes few samples enough. How
degree and rank are found, and the fit by alternating least squares, is ours. With rank 1, F is a product of one
polynomial an axis, which samples along the axes alone tell; higher ranks need samples off them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

DEGREES = (1, 2, 3, 4)
RANKS = (1, 2)
ROUNDS = 500
"""Of alternating least squares at most."""
CLOSE = 1e-10
"""A fit ends when a round takes less than this share off the squared error."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """A fitted model. Coordinates are scaled: 0 is the first sample's, 1 the one that is furthest from it."""

    factors: Array
    """Coefficients [rank, axis, power]."""
    origin: Array
    """The first sample's coordinates."""
    span: Array
    """How far the furthest sample is from these; 1 for an axis that does not vary."""

    @property
    def rank(self) -> int:
        """Of the coefficient tensor."""
        return len(self.factors)

    @property
    def degree(self) -> int:
        """Of the polynomials."""
        return int(self.factors.shape[2]) - 1

    def at(self, points: Array) -> Array:
        """What is predicted for points [n, 3]."""
        return _values(self.factors, (points - self.origin) / self.span)


@dataclass(frozen=True)
class Fit:
    """A model, and how far it is from samples that it was not fitted to."""

    surface: Surface
    error: float
    """Root mean square over the samples between others, each left out in turn."""
    worst: float
    """The largest of these errors."""


def fitted(points: Array, values: Array) -> Fit:
    """The degree and rank whose error on samples that are left out is least, fitted to all samples.

    `points` are [n, 3]; the first is where nothing is taken out. The error that is told is of samples between others:
    without one at the end of an axis the model is asked beyond its samples, where no shape is chosen. Raises ValueError
    for fewer than three samples.
    """
    if len(points) < 3:
        raise ValueError(f"a surface needs three samples or more, and there are {len(points)}")
    found: list[tuple[float, float, int, int, Array]] = []
    for rank, degree in product(_ranks(points), DEGREES):
        if degree > 1 and degree > _distinct(points) - 2:
            continue  # one that is left out would not be told by the others
        errors = np.array([_left_out(points, values, number, degree, rank) for number in range(1, len(points))])
        found.append((_mean(errors), float(np.abs(errors).max()), rank, degree, errors))
    *_, rank, degree, errors = min(found, key=lambda one: (round(one[0], 9), one[1], one[2], one[3]))
    within = errors[_between(points)]
    told = within if len(within) else errors
    return Fit(_fit(points, values, degree, rank), _mean(told), float(np.abs(told).max()))


def _mean(errors: Array) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def _between(points: Array) -> NDArray[np.bool_]:
    """Without which of the samples, the first aside, every axis is sampled as far out as with them."""
    away = np.abs(points - points[0])
    return np.array([(np.delete(away, n, 0).max(axis=0) == away.max(axis=0)).all() for n in range(1, len(points))])


def _ranks(points: Array) -> Sequence[int]:
    """Ranks that these samples can tell: above 1 only with as many samples off the axes as there are axes."""
    off = int((np.sum(points != points[0], axis=1) > 1).sum())
    return RANKS if off >= points.shape[1] else RANKS[:1]


def _distinct(points: Array) -> int:
    """The number of different coordinates on the axis that has the fewest, of those that vary."""
    counts = [len(np.unique(axis)) for axis in points.T]
    return min((count for count in counts if count > 1), default=1)


def _left_out(points: Array, values: Array, number: int, degree: int, rank: int) -> float:
    rest = np.arange(len(points)) != number
    surface = _fit(points[rest], values[rest], degree, rank)
    return float(surface.at(points[number : number + 1])[0] - values[number])


def _fit(points: Array, values: Array, degree: int, rank: int) -> Surface:
    """By alternating least squares: of one axis's polynomials at a time, the others' being given."""
    origin = points[0]
    span = np.abs(points - origin).max(axis=0)
    span = np.where(span > 0, span, 1.0)
    powers = _powers((points - origin) / span, degree)
    factors = _begun(float(values.mean()), degree, rank, powers.shape[1])
    before = np.inf
    for _ in range(ROUNDS):
        for axis in range(factors.shape[1]):
            others = np.ones((len(points), rank))
            for other in range(factors.shape[1]):
                if other != axis:
                    others *= powers[:, other] @ factors[:, other].T
            matrix = (others[:, :, None] * powers[:, axis][:, None, :]).reshape(len(points), -1)
            factors[:, axis] = np.linalg.lstsq(matrix, values, rcond=1e-10)[0].reshape(rank, degree + 1)
        error = float(np.square(_products(factors, powers) - values).sum())
        if before - error <= CLOSE * max(before if np.isfinite(before) else 0.0, 1e-12):
            break
        before = error
    return Surface(factors, origin, span)


def _begun(level: float, degree: int, rank: int, axes: int) -> Array:
    """Constants, the first rank's at the samples' level, the others' near zero and all different."""
    factors = np.zeros((rank, axes, degree + 1))
    factors[:, :, 0] = 1.0
    factors[0, 0, 0] = level
    for number in range(1, rank):
        factors[number] += 0.1 * np.random.default_rng(number).standard_normal(factors[number].shape)
        factors[number, 0] *= 0.01 * max(abs(level), 1.0)
    return factors


def _powers(scaled: Array, degree: int) -> Array:
    """[n, axis, power] of points [n, axis]."""
    return np.asarray(scaled[:, :, None] ** np.arange(degree + 1))


def _products(factors: Array, powers: Array) -> Array:
    """[n]: sums over ranks of products over axes."""
    return np.asarray(np.einsum("rak,nak->nra", factors, powers).prod(axis=2).sum(axis=1))


def _values(factors: Array, scaled: Array) -> Array:
    return _products(factors, _powers(scaled, factors.shape[2] - 1))
