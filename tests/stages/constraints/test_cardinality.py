"""The set of tensors with at most k non-zeros: its projection by hand, under ties, and against brute force."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import combinations

import pytest
import torch

from dualprune.stages.constraints import SETS
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.select import CHUNK, SMALL, _bracketed
from dualprune.stages.settings.sets import Cardinality as Settings


def test_the_largest_magnitudes_stay() -> None:
    w = torch.tensor([[3.0, -1.0, 0.5], [-4.0, 2.0, 0.0]])
    assert torch.equal(Cardinality(1).project(w), torch.tensor([[0.0, 0.0, 0.0], [-4.0, 0.0, 0.0]]))
    assert torch.equal(Cardinality(3).project(w), torch.tensor([[3.0, 0.0, 0.0], [-4.0, 2.0, 0.0]]))


@pytest.mark.parametrize(
    ("k", "kept"), [(1, [2]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 3, 5]), (5, [0, 1, 2, 3, 5])]
)
def test_of_equal_ones_the_first_stay(k: int, kept: list[int]) -> None:
    w = torch.tensor([1.0, -2.0, 3.0, 2.0, 1.0, -2.0])
    expected = torch.zeros(6)
    expected[kept] = w[kept]
    assert torch.equal(Cardinality(k).project(w), expected)
    mask = torch.zeros(6)
    mask[kept] = 1
    assert torch.equal(Cardinality(k).mask(w), mask)


def test_a_constant_tensor_keeps_exactly_the_first_k() -> None:
    w = torch.full((100, 50), -0.25)
    z = Cardinality(1234).project(w)
    assert torch.equal(z.flatten() != 0, torch.arange(5000) < 1234)


def test_zeros_project_to_zeros_and_hold_exactly_k() -> None:
    w = torch.zeros(3, 4)
    assert torch.equal(Cardinality(5).project(w), w)
    assert torch.equal(Cardinality(5).mask(w).flatten(), (torch.arange(12) < 5).float())
    few = torch.tensor([0.0, 0.0, 7.0, 0.0])
    assert torch.equal(Cardinality(2).mask(few), torch.tensor([1.0, 0.0, 1.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_none_may_stay(dtype: torch.dtype) -> None:
    """A budget over many tensors, with a floor of 0, may leave one of them nothing."""
    w = torch.tensor([[1.0, 0.0, -float("inf")], [4.0, 5.0, 6.0]], dtype=dtype)
    assert torch.equal(Cardinality(0).project(w), torch.zeros(2, 3, dtype=dtype))
    assert torch.equal(Cardinality(0).mask(w), torch.zeros(2, 3, dtype=dtype))
    with pytest.raises(ValueError, match="NaN"):
        Cardinality(0).project(w * 0)


@pytest.mark.parametrize("k", [6, 7, 1000])
def test_all_stays_when_there_are_at_most_k(k: int) -> None:
    w = torch.tensor([[1.0, 0.0, -3.0], [4.0, 5.0, 6.0]])
    z = Cardinality(k).project(w)
    assert torch.equal(z, w)
    assert z.data_ptr() != w.data_ptr()
    assert torch.equal(Cardinality(k).mask(w), torch.ones(2, 3))


def test_a_transposed_tensor_is_read_in_its_own_row_major_order() -> None:
    w = torch.tensor([[1.0, 1.0], [1.0, 5.0], [1.0, 1.0]]).t()
    assert not w.is_contiguous()
    assert torch.equal(Cardinality(3).project(w), torch.tensor([[1.0, 1.0, 0.0], [0.0, 5.0, 0.0]]))
    strided = torch.arange(12.0)[::2]
    assert torch.equal(Cardinality(2).project(strided), torch.tensor([0.0, 0.0, 0.0, 0.0, 8.0, 10.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_shape_are_kept_and_the_input_is_untouched(dtype: torch.dtype) -> None:
    w = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = w.clone()
    for result in (Cardinality(7).project(w), Cardinality(7).mask(w)):
        assert result.dtype == dtype
        assert result.shape == w.shape
        assert int(result.count_nonzero()) == 7
    assert torch.equal(w, before)


@pytest.mark.parametrize("place", [0, 2])
def test_nan_is_refused(place: int) -> None:
    w = torch.ones(3)
    w[place] = float("nan")
    for k in (1, 3):
        with pytest.raises(ValueError, match="NaN"):
            Cardinality(k).project(w)


def test_infinities_are_the_largest() -> None:
    w = torch.tensor([1.0, -float("inf"), 2.0, float("inf")])
    assert torch.equal(Cardinality(2).project(w), torch.tensor([0.0, -float("inf"), 0.0, float("inf")]))


@pytest.mark.parametrize("seed", range(20))
def test_the_projection_is_a_nearest_point_and_projects_to_itself(seed: int) -> None:
    """Against every support there is; small whole numbers, so that ties occur."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randint(-3, 4, (2, 3), generator=generator).double()
    k = 1 + seed % 5
    z = Cardinality(k).project(w)
    assert Cardinality(k).contains(z)
    assert torch.equal(Cardinality(k).project(z), z)
    best = min(
        sum(float(v) ** 2 for i, v in enumerate(w.flatten()) if i not in support)
        for support in combinations(range(6), k)
    )
    assert float((w - z).square().sum()) == best


def test_membership_counts_non_zeros() -> None:
    z = torch.tensor([0.0, 1.0, -0.0, 2.0])
    assert Cardinality(2).contains(z)
    assert not Cardinality(1).contains(z)


def test_the_hold_contains_the_support() -> None:
    w = torch.randn(50, generator=torch.Generator().manual_seed(3))
    constraint = Cardinality(9)
    z = constraint.project(w)
    assert torch.equal(constraint.mask(z), (z != 0).float())


SPREADS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "normal": lambda x: x,
    # Where a sample is taken from lies what is unlike the rest.
    "misleading": lambda x: x + 100 * (torch.arange(len(x)) % (round(len(x) ** (1 / 3)) | 1) == 0),
    "sorted": lambda x: x.sort().values,
    "whole": lambda x: (3 * x).round(),
    "constant": lambda x: torch.full_like(x, -0.25),
    "pruned": lambda x: x * (x > 1.5),
    "zeros": torch.zeros_like,
    "heavy": lambda x: (1 / x).double(),
    "half": lambda x: x.bfloat16(),
}
"""Numbers that are easy or hard to bracket by a sample, from normal ones."""


def spread(kind: str, size: int) -> torch.Tensor:
    """So many numbers of a kind."""
    return SPREADS[kind](torch.randn(size, generator=torch.Generator().manual_seed(size)))


@pytest.mark.parametrize("kind", SPREADS)
@pytest.mark.parametrize("size", [SMALL, SMALL + 1, CHUNK + 7])
def test_of_many_the_same_stay_as_by_a_stable_sort(kind: str, size: int) -> None:
    """At budgets of all sizes, the number of non-zeros and those beside it among them."""
    w = spread(kind, size)
    order = torch.sort(w.abs(), descending=True, stable=True).indices
    filled = int(w.count_nonzero())
    for k in {1, size // 100, size // 2, size - 1, filled - 1, filled, filled + 1} & set(range(1, size)):
        mask = torch.zeros(size, dtype=torch.bool)
        mask[order[:k]] = True
        z = Cardinality(k).project(w)
        assert torch.equal(z, torch.where(mask, w, torch.zeros_like(w))), k
        assert torch.equal(Cardinality(k).mask(w), mask.to(w.dtype)), k


def test_a_sample_that_misleads_is_found_out() -> None:
    """So that the comparison above is one of both ways to the threshold."""
    assert _bracketed(spread("normal", CHUNK).numpy(), CHUNK // 2) is not None
    assert _bracketed(spread("misleading", CHUNK).numpy(), CHUNK // 2) is None


def test_build_refuses_what_cannot_be() -> None:
    def settings(**amount: float) -> Settings:
        return Settings.model_validate({"set": "cardinality", "tensors": "*"} | amount)

    build = SETS["cardinality"].make
    assert build(settings(rate=4.0), (3, 4)) == Cardinality(3)
    assert build(settings(count=12), (12,)) == Cardinality(12)
    with pytest.raises(ValueError, match="leaves 0 of 12"):
        build(settings(rate=13.0), (3, 4))
    with pytest.raises(ValueError, match="13 weights, but the tensor has 12"):
        build(settings(count=13), (12, 1))


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cardinality(3).k = 4  # type: ignore[misc]
