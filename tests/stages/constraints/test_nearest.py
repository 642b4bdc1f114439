"""How near each projection is, against brute force on small tensors: nearest points, and what heuristics promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import combinations, pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.clusters import Clusters
from dualprune.stages.constraints.combined import Combined
from dualprune.stages.constraints.groups import Groups, blocks, channels, columns, filters, heads
from dualprune.stages.constraints.levels import Levels
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.constraints.nm import NM
from dualprune.stages.constraints.select import CHUNK
from tests.stages.constraints.test_constraints import Shape, as_groups, few, made


def distance(a: Tensor, b: Tensor) -> float:
    """Squared."""
    return float((a - b).double().square().sum())


def small(shape: Shape) -> st.SearchStrategy[Tensor]:
    """Tensors of few values, so that there are ties."""
    size = math.prod(shape)
    return st.lists(st.integers(-4, 4), min_size=size, max_size=size).map(
        lambda whole: torch.tensor(whole, dtype=torch.float64).view(shape)
    )


LAYOUTS: dict[str, Callable[[Shape], Any]] = {
    "filter": filters,
    "channel": channels,
    "column": columns,
    "tile": lambda shape: blocks(shape, 1, 2),
}


def by_index(name: str, w: Tensor) -> list[Tensor]:
    """The groups of a tensor [6, 4, 2, 3], each as what is 1 in it, written down from what users read of the sets."""
    outputs, inputs = w.shape[:2]
    places = {
        "filter": [[o] for o in range(outputs)],
        "row": [[o] for o in range(outputs)],
        "channel": [[slice(None), c] for c in range(inputs)],
        # One place (input, down, across) in all filters.
        "column": [[slice(None), c, y, x] for c in range(inputs) for y in range(2) for x in range(3)],
        # Query, key and value of one output each for three heads, one after the other.
        "head": [[[head, 3 + head]] for head in range(3)],
    }
    groups = []
    for place in places.get(name, []):
        groups.append(torch.zeros_like(w))
        groups[-1][tuple(place)] = 1
    for down in range(0, outputs if name == "block" else 0, 2):
        for across in range(0, w[0].numel(), 3):
            groups.append(torch.zeros_like(w))
            groups[-1].view(outputs, -1)[down : down + 2, across : across + 3] = 1
    return groups


@pytest.mark.parametrize("name", ["filter", "row", "channel", "column", "head", "block"])
def test_groups_are_what_their_names_say(name: str) -> None:
    """The k of largest norm stay, of groups that are told by index here, and by a view there."""
    more = {"head": {"heads": 3, "parts": 2}, "block": {"p": 2, "q": 3}}.get(name, {})
    w = torch.randn(6, 4, 2, 3, generator=torch.Generator().manual_seed(1))
    groups = by_index(name, w)
    assert torch.equal(sum(groups), torch.ones_like(w))  # each entry is in one of them
    groups.sort(key=lambda group: float((group * w).norm()), reverse=True)
    for k in range(1, len(groups) + 1):
        seen = w.flatten(1) if name == "row" else w
        constraint, _ = made(name, tuple(seen.shape), count=k, **more)
        assert torch.equal(constraint.project(seen).view(w.shape), w * sum(groups[:k]))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", [*LAYOUTS, "head"])
def test_groups_of_large_tensors_are_those_of_largest_norm(name: str, kind: torch.dtype) -> None:
    """Which norms are added up for in parts."""
    layout = LAYOUTS.get(name, lambda shape: heads(shape, 16, 3))
    w = torch.randn(384, 64, 3, 5, generator=torch.Generator().manual_seed(0)).to(kind)
    shape, axes = layout(tuple(w.shape))
    within = tuple(axis for axis in range(len(shape)) if axis not in axes)
    norms = torch.linalg.vector_norm(w.double().view(shape), dim=within, keepdim=True)
    k = norms.numel() // 3
    # Those of nearly the same norm may be taken for each other.
    least = norms.flatten().sort(descending=True).values[k - 1 : k + 1]
    kept = Groups(k, layout).mask(w).view(shape).bool()
    assert bool(kept[(norms > 1.00001 * least[0]).expand(shape)].all())
    assert not bool(kept[(norms < 0.99999 * least[1]).expand(shape)].any())
    assert int(kept.sum()) == k * w.numel() // norms.numel()


@pytest.mark.parametrize("view", LAYOUTS)
def test_the_best_groups_are_kept(view: str) -> None:
    """No other choice of k groups is nearer."""

    @few
    @given(small((3, 2, 2, 1)), st.integers(1, 3))
    def holds(w: Tensor, k: int) -> None:
        constraint = Groups(k, LAYOUTS[view])
        norms = as_groups(constraint, w).square().sum(1)
        best = min(
            float(norms.sum() - norms[list(kept)].sum()) for kept in combinations(range(len(norms)), min(k, len(norms)))
        )
        assert distance(w, constraint.project(w)) == best

    holds()


@pytest.mark.parametrize("view", LAYOUTS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_groups_are_told_apart_at_any_scale(view: str, scale: float) -> None:
    """Also where fp32 has no squares of their entries."""
    w = torch.randn(6, 4, 2, 1, generator=torch.Generator().manual_seed(0))
    w[0] = w[:, 0] = 0
    constraint = Groups(2, LAYOUTS[view])
    kept = constraint.project(w) != 0
    assert torch.equal(constraint.project(w * scale) != 0, kept)
    assert not constraint.contains(w * scale)
    assert constraint.contains(constraint.project(w * scale))


def test_groups_that_go_are_zero_whatever_was_in_them() -> None:
    w = torch.tensor([[float("inf"), -1.0], [-float("inf"), -0.0]])
    z = Groups(1, filters).project(w)
    assert torch.equal(z, torch.tensor([[float("inf"), -1.0], [0.0, 0.0]]))
    assert not bool(z[1].signbit().any())


def test_n_of_m_keeps_the_best_of_each_run_of_inputs() -> None:
    @few
    @given(small((2, 6, 2, 1)), st.integers(1, 2))
    def holds(w: Tensor, n: int) -> None:
        z = NM(n, 3).project(w)
        for o, run, y in product(range(2), range(2), range(2)):
            before, after = (each[o, 3 * run : 3 * run + 3, y, 0] for each in (w, z))
            best = min(
                sum(float(v) ** 2 for i, v in enumerate(before) if i not in kept) for kept in combinations(range(3), n)
            )
            assert distance(before, after) == best

    holds()


def test_inputs_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="6 inputs don't divide into runs of 4"):
        NM(2, 4).project(torch.ones(4, 6))


def contiguous_splits(n: int, k: int) -> Iterator[list[range]]:
    """Every way to cut 0..n-1 into at most k runs that are not empty."""
    for cuts in (c for parts in range(1, min(k, n) + 1) for c in combinations(range(1, n), parts - 1)):
        edges = [0, *cuts, n]
        yield [range(a, b) for a, b in pairwise(edges)]


def test_clusters_are_the_optimum_of_k_means() -> None:
    """Optimal clusters of numbers are runs of the sorted numbers: against every such cut."""

    @few
    @given(small((2, 4)), st.integers(1, 5))
    def holds(w: Tensor, k: int) -> None:
        z = Clusters(k).project(w)
        assert torch.equal(z[w == 0], torch.zeros_like(z[w == 0]))
        x = w[w != 0].sort().values
        if len(x):
            best = min(
                sum(distance(x[list(run)], x[list(run)].mean()) for run in cut) for cut in contiguous_splits(len(x), k)
            )
            assert distance(w, z) == pytest.approx(best, abs=1e-9)

    holds()


def test_many_values_are_clustered_on_quantiles_nearly_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond `EXACT` values the squared error is within a percent of the optimum."""
    w = torch.randn(20, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = distance(w, Clusters(8).project(w))
    monkeypatch.setattr(import_module("dualprune.stages.constraints.clusters"), "EXACT", 256)
    z = Clusters(8).project(w)
    assert Clusters(8).contains(z)
    assert exact <= distance(w, z) <= 1.01 * exact


def test_binary_is_nearest() -> None:
    """For every choice of signs the best alpha is known; zeros stay."""

    @few
    @given(small((2, 3)))
    def holds(w: Tensor) -> None:
        z = Levels("binary").project(w)
        x = w[w != 0]
        assert torch.equal(z == 0, w == 0)
        if len(x):
            best = min(
                float(x.square().sum() - max(0.0, float((x * torch.tensor(signs)).sum())) ** 2 / len(x))
                for signs in product((-1.0, 1.0), repeat=len(x))
            )
            assert distance(w, z) == pytest.approx(best, abs=1e-9)

    holds()


def test_ternary_is_nearest() -> None:
    """For every choice of codes the best q is known."""

    @few
    @given(small((2, 3)))
    def holds(w: Tensor) -> None:
        x = w.flatten()
        best = float(x.square().sum())
        for codes in product((-1.0, 0.0, 1.0), repeat=6):
            code = torch.tensor(codes, dtype=x.dtype)
            if bool(code.any()):
                q = max(0.0, float((x * code).sum() / code.square().sum()))
                best = min(best, distance(x, q * code))
        assert distance(w, Levels("ternary").project(w)) == pytest.approx(best, abs=1e-9)

    holds()


MANY: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "far apart": lambda x: (6 * x).exp(),
    "few large ones": lambda x: torch.where(x.abs() > 2, 4 * x, x / 1000),
    "all but the same": lambda x: 1 + x / 1e6,
    "two sizes": lambda x: torch.where(x > 1, 1.0, 0.45) + x / 1e6,
    "all the same": lambda x: torch.full_like(x, -0.3),
    "few values": lambda x: (4 * x).round().clamp(min=1) / 4,
    "one": lambda x: torch.where(x == x.max(), 1, x / 1e30),
}


@pytest.mark.parametrize("shape", MANY.values(), ids=MANY)
def test_ternary_of_many_is_as_in_one_go(shape: Callable[[Tensor], Tensor]) -> None:
    """As from one running sum over all magnitudes, sorted, though only few of them are."""
    x = shape(torch.randn(2 * CHUNK + 7, generator=torch.Generator().manual_seed(0)))
    sums = x.abs().sort(descending=True).values.cumsum(0, dtype=torch.float64)
    count = int((sums.square() / torch.arange(1, len(x) + 1)).argmax()) + 1
    q = sums[count - 1] / count
    torch.testing.assert_close(Levels("ternary").fit(x), torch.stack([-q, torch.zeros_like(q), q]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_equidistant_is_no_worse_than_any_interval_of_its_grid(bits: int) -> None:
    """The documented bound; and what lies on levels already stays."""
    half = 2 ** (bits - 1)

    @few
    @given(st.lists(st.floats(-4, 4).filter(lambda v: abs(v) > 1e-3), min_size=1, max_size=40))
    def holds(values: list[float]) -> None:
        x = torch.tensor(values, dtype=torch.float64)
        z = Levels("equidistant", bits).project(x)
        top = x.abs().max()
        shares = torch.linspace(0.2, 1.5, 66, dtype=torch.float64) / half
        for share in [*shares.tolist(), *(1 / code for code in range(1, half + 1))]:
            q = top * share
            levels = (x.abs() / q).round().clamp(1, half) * q * x.sign()
            assert distance(x, z) <= distance(x, levels) + 1e-9

    holds()

    @few
    @given(st.lists(st.integers(-half, half).filter(bool), min_size=1, max_size=20), st.floats(1e-3, 10))
    def stays(codes: list[int], q: float) -> None:
        x = torch.tensor(codes, dtype=torch.float64) * q
        torch.testing.assert_close(Levels("equidistant", bits).project(x), x)

    stays()


@pytest.mark.parametrize("bits", [5, 6, 7, 8])
@pytest.mark.parametrize("outlier", [0.1, 0.3])
def test_an_outlier_of_a_large_layer_weighs_no_more_than_any_weight(bits: int, outlier: float) -> None:
    """The interval is as good as the best of the grid, though a sample finds it."""
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.01
    x[0] = outlier
    half = 2 ** (bits - 1)
    error = distance(x, Levels("equidistant", bits).project(x))
    for share in torch.linspace(0.2, 1.5, 66, dtype=torch.float64) / half:
        q = outlier * share
        assert error <= 1.01 * distance(x, (x.abs() / q).round().clamp(1, half) * q * x.sign())


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_equidistant_weights_of_a_layer_use_at_most_2_to_the_bits_levels(bits: int) -> None:
    w = torch.randn(100, 50, generator=torch.Generator().manual_seed(bits))
    constraint = Levels("equidistant", bits)
    z = constraint.project(w)
    assert len(torch.unique(z)) <= 2**bits
    assert 0 not in torch.unique(z)
    assert constraint.contains(z)
    steps = z.abs() / z.abs().min()
    torch.testing.assert_close(steps, steps.round(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_powers_are_nearest_given_their_top(bits: int) -> None:
    """The top level is the nearest to the largest magnitude (of two, the larger); each weight takes the nearest."""

    @few
    @example([3.0])
    @example([math.nextafter(3.0, 0.0)])
    @given(st.lists(st.floats(-4, 4).filter(lambda v: abs(v) > 1e-6), min_size=1, max_size=20))
    def holds(values: list[float]) -> None:
        x = torch.tensor(values, dtype=torch.float64)
        z = Levels("power", bits).project(x)
        largest = float(x.abs().max())
        top = min((2.0**e for e in range(-24, 4)), key=lambda level: (abs(level - largest), -level))
        near = [sign * top / 2**e for e in range(2 ** (bits - 1)) for sign in (-1, 1)]
        for before, after in zip(x.tolist(), z.tolist(), strict=True):
            assert after in near
            assert abs(before - after) == pytest.approx(min(abs(before - level) for level in near), abs=1e-12)

    holds()


@pytest.mark.parametrize("view", ["channel", "spatial"])
def test_low_rank_leaves_out_the_smallest_singular_values(view: str) -> None:
    """The error is that of Eckart and Young, and random points of that rank are no nearer."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((6, 5), (4, 3, 3, 2)):
        w = torch.randn(shape, generator=generator, dtype=torch.float64)
        matrix = w.flatten(1)
        if view == "spatial" and w.ndim == 4:
            matrix = w.permute(1, 2, 0, 3).reshape(shape[1] * shape[2], shape[0] * shape[3])
        assert LowRank(1, None, view).sides(shape) == tuple(matrix.shape)
        sigma = torch.linalg.svdvals(matrix)
        for rank in range(1, min(matrix.shape) + 1):
            z = LowRank(rank, None, view).project(w)
            best = distance(w, z)
            assert best == pytest.approx(float(sigma[rank:].square().sum()), abs=1e-9)
            assert not LowRank(rank, None, view).contains(w) or rank == len(sigma)
            for _ in range(20):
                a, b = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in matrix.shape)
                nearest = a @ torch.linalg.lstsq(a, matrix).solution
                assert distance(matrix, nearest) >= best - 1e-9
                assert distance(matrix, a @ b.t()) >= best - 1e-9


def test_energy_says_the_same_of_a_matrix_with_an_output_that_is_dead() -> None:
    """Or of one whose columns depend on each other: zeros among the singular values take nothing."""
    w = torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    w[3] = 0
    twice = torch.cat([w, w], dim=1)
    ranks = [LowRank(None, 0.2).of(tensor).rank for tensor in (w, twice, torch.zeros(4, 4))]
    assert 1 < ranks[0] == ranks[1] < 15
    assert ranks[2] == 1


@pytest.mark.parametrize("energy", [0.01, 0.1, 0.3])
def test_energy_gives_the_least_rank_that_leaves_out_no_more(energy: float) -> None:
    w = torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    squares = torch.linalg.svdvals(w).square()
    rank = LowRank(None, energy).of(w).rank
    assert rank is not None
    assert float(squares[rank:].sum()) <= energy * float(squares.sum()) < float(squares[rank - 1 :].sum())


def test_combined_sets_are_nearest_in_what_the_first_kept() -> None:
    """The documented bound: filters first, and of their entries the best; not better filters for few entries."""

    @few
    @given(small((3, 4)), st.integers(1, 2), st.integers(1, 8))
    def holds(w: Tensor, filters_kept: int, k: int) -> None:
        structure = Groups(filters_kept, filters)
        inside = structure.project(w)
        z = Combined((structure, Cardinality(k))).project(w)
        kept = inside.abs().flatten().sort(descending=True).values[:k]
        assert distance(inside, z) == float(inside.square().sum() - kept.square().sum())

    holds()
    w = torch.tensor([[3.0, 3.0, 3.0], [5.0, 0.0, 0.0]])
    z = Combined((Groups(1, filters), Cardinality(1))).project(w)
    assert torch.equal(z, torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
