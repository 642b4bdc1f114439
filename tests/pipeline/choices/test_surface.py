"""The model of a metric over depth, width and resolution: what it was made of is found again, and its error is true."""

from __future__ import annotations

import numpy as np
import pytest

from dualprune.pipeline.choices.surface import Array, _left_out, fitted


def axes(count: int) -> Array:
    """The whole network, and so many points along each axis."""
    far = np.linspace(0, 1, count + 1)[1:]
    points = [(0.0, 1.0, 32.0)]
    points += [(6 * one, 1.0, 32.0) for one in far]
    points += [(0.0, 1 - 0.5 * one, 32.0) for one in far]
    points += [(0.0, 1.0, 32 - 16 * one) for one in far]
    return np.array(points)


def truth(points: Array) -> Array:
    """A product of a line, a parabola and a cubic."""
    d, w, r = points.T
    return np.asarray(93 * (1 - 0.01 * d) * (1 - 0.3 * (1 - w) ** 2) * (1 - 2e-5 * (32 - r) ** 3))


def test_a_product_of_polynomials_is_found_from_points_along_the_axes() -> None:
    """Also far from these; and the error on samples that are left out is none."""
    points = axes(6)
    fit = fitted(points, truth(points))
    assert (fit.surface.rank, fit.surface.degree) == (1, 3)
    assert fit.error < 1e-6
    off = np.array([(3.0, 0.7, 24.0), (6.0, 0.5, 16.0)])
    np.testing.assert_allclose(fit.surface.at(off), truth(off), rtol=1e-7)


def test_noise_is_not_followed() -> None:
    """Of a line with noise a line is made, and the error is of the noise's size."""
    points = axes(6)
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(points))
    fit = fitted(points, 93 - 0.5 * points[:, 0] + noise)
    assert fit.surface.degree == 1
    assert 0.05 < fit.error < 0.3
    assert fit.error <= fit.worst < 0.6


def test_the_error_is_of_samples_between_others() -> None:
    """A bend at the ends of the axes, which the others don't show, is no error of shapes between them."""
    points = axes(5)
    ends = np.array([5, 10, 15])
    values = 93 - points[:, 0]
    assert fitted(points, values).error < 1e-6
    bent = values.copy()
    bent[ends] -= 1.0
    fit = fitted(points, bent)
    surface = fit.surface
    errors = [abs(_left_out(points, bent, number, surface.degree, surface.rank)) for number in range(1, len(points))]
    between = [error for number, error in enumerate(errors, 1) if number not in ends]
    assert fit.worst == pytest.approx(max(between))
    assert fit.worst < max(errors)


def test_a_sum_of_two_products_needs_samples_off_the_axes() -> None:
    points = axes(4)
    grid = np.array([(d, w, r) for d in (2.0, 4.0) for w in (0.6, 0.8) for r in (20.0, 28.0)])

    def both(at: Array) -> Array:
        d, w, r = at.T
        return np.asarray(90 - 0.2 * d * (1 - w) * (32 - r))

    held_out = np.array([(3.0, 0.7, 24.0), (5.0, 0.9, 18.0)])
    alone = fitted(points, both(points))
    whole = np.concatenate([points, grid])
    more = fitted(whole, both(whole))
    assert alone.surface.rank == 1
    errors = [np.abs(fit.surface.at(held_out) - both(held_out)).max() for fit in (alone, more)]
    assert errors[1] < 0.3 < 1.0 < errors[0]
    assert more.surface.rank == 2


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="three samples or more, and there are 2"):
        fitted(axes(1)[:2], np.ones(2))
