"""A weight's matrix by its singular values, against torch's SVD."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from dualprune.stages.constraints.spectrum import Spectrum, View
from dualprune.stages.networks.matrices import matrix, unmatrix


@pytest.mark.parametrize("view", get_args(View))
@pytest.mark.parametrize("shape", [(4, 6, 3, 3), (40, 3, 1, 5), (7, 5), (5, 7), (6, 2, 3)])
def test_one_decomposition_is_torchs(shape: tuple[int, ...], view: View) -> None:
    """Singular values, truncations, and U V^T, tall or wide."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    whole = matrix(w.double(), view)
    assert torch.equal(unmatrix(matrix(w, view), shape, view), w)
    u, s, v = torch.linalg.svd(whole, full_matrices=False)
    of = Spectrum.of(w, view)
    assert torch.allclose(of.squares.flip(0), s.square())
    for rank in range(1, len(s) + 1):
        cut, slope = of.truncated(rank), of.slope(rank)
        assert cut.shape == slope.shape == w.shape
        assert cut.dtype == w.dtype
        assert torch.allclose(matrix(cut.double(), view), (u[:, :rank] * s[:rank]) @ v[:rank], atol=1e-6)
        assert torch.allclose(matrix(slope.double(), view), u[:, :rank] @ v[:rank], atol=1e-6)
        assert of.dropped(rank) == pytest.approx((float(s[rank:].square().sum()), float(s.square().sum())))


def test_what_is_zero_has_no_direction() -> None:
    """Of a weight of rank 1, and of one that is zero."""
    one = torch.outer(torch.arange(1.0, 5.0), torch.tensor([3.0, 0.0, 4.0]))
    slope = Spectrum.of(one, "channel").slope(3)
    assert torch.allclose(slope, one / one.norm(), atol=1e-6)
    none = Spectrum.of(torch.zeros(3, 2, 2, 2), "spatial")
    assert none.least(0.5) == 1
    assert not none.truncated(1).any()
    assert not none.slope(1).any()


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="holds NaN"):
        Spectrum.of(torch.full((2, 2), torch.nan), "channel")
