"""Sets projected on by another order: what is kept, and that it lies in the set."""

from __future__ import annotations

import pytest
import torch

from dualprune.stages.constraints import Constraint, groups
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.combined import Combined
from dualprune.stages.constraints.groups import Groups
from dualprune.stages.constraints.nm import NM
from dualprune.stages.constraints.weighted import Weighted

SHAPE = (6, 8)
SETS: dict[str, Constraint] = {
    "cardinality": Cardinality(7),
    "nothing": Cardinality(0),
    "nm": NM(2, 4),
    "filters": Groups(2, groups.filters),
    "combined": Combined((Groups(3, groups.filters), Cardinality(7))),
}


@pytest.mark.parametrize("name", SETS)
def test_what_stays_is_what_the_set_keeps_of_the_products(name: str) -> None:
    one = SETS[name]
    w = torch.arange(1.0, 49.0).view(SHAPE)
    w[:, ::2] *= -1
    weights = 1 / w**2  # the smallest are to stay
    weighted = Weighted(one, lambda: weights)
    z = weighted.project(w)
    assert torch.equal(z != 0, one.project(w * weights) != 0)
    assert torch.equal(z, torch.where(z != 0, w, torch.zeros(())))
    assert weighted.contains(z)
    assert weighted.most(SHAPE) == one.most(SHAPE)
    assert bool((weighted.mask(z)[z != 0] == 1).all())
    if name != "nothing":
        assert not torch.equal(z, one.project(w))
    alike = Weighted(one, lambda: torch.ones(SHAPE)).project(w)
    assert torch.equal(alike, one.project(w))


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Weighted(Cardinality(2), lambda: torch.full(SHAPE, torch.nan)).project(torch.ones(SHAPE))
