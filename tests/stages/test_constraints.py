"""The contract that every constraint set keeps by being in the table, and what each set says of its nearness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import combinations, pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages import sets
from stages.constraints import SETS, Constraint
from stages.constraints.cardinality import Cardinality
from stages.constraints.clusters import Clusters
from stages.constraints.combined import Combined
from stages.constraints.groups import Groups, blocks, channels, columns, filters
from stages.constraints.levels import Levels
from stages.constraints.lowrank import LowRank
from stages.constraints.nm import NM

Shape = tuple[int, ...]
Case = tuple[Constraint, Shape]

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
few = settings(derandomize=True, deadline=None, max_examples=25, database=None)


def shapes(multiple: Shape = (1, 1)) -> st.SearchStrategy[Shape]:
    """Of linear layers and convolutions, whose outputs and inputs are multiples of these; single entries too."""
    outputs, inputs = (st.integers(1, 4).map(lambda n, m=m: n * m) for m in multiple)
    return st.builds(lambda n, c, k: (n, c, *k), outputs, inputs, st.sampled_from([(), (), (1, 1), (2, 2), (3, 1)]))


def amount(limit: int) -> st.SearchStrategy[dict[str, Any]]:
    """How much of `limit` stays, in each of the three ways to say it."""
    counts = st.integers(1, limit)
    return st.one_of(
        counts.map(lambda k: {"count": k}), counts.map(lambda k: {"keep": k / limit}), st.just({"rate": 1.0})
    )


def made(name: str, shape: Shape, **values: Any) -> Case:
    """The set of that name from its settings."""
    kind = sets.SETS[name]
    return SETS[name](kind.model_validate({"set": name, "tensors": "*"} | values), shape), shape


@st.composite
def cardinalities(draw: st.DrawFn, name: str) -> Case:
    """Of any size from one entry to all."""
    shape = draw(shapes())
    return made(name, shape, **draw(amount(math.prod(shape))))


@st.composite
def structures(draw: st.DrawFn, name: str) -> Case:
    """Of any number of groups."""
    shape = draw(shapes())
    shape = shape[:2] if name == "row" else shape
    groups = {"filter": shape[0], "row": shape[0], "channel": shape[1], "column": math.prod(shape[1:])}[name]
    return made(name, shape, **draw(amount(groups)))


@st.composite
def heads(draw: st.DrawFn, name: str) -> Case:
    """Up to three heads of up to two rows, in one or three parts."""
    count, parts = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3]))
    shape = (count * parts * draw(st.integers(1, 2)), draw(st.integers(1, 4)))
    return made(name, shape, heads=count, parts=parts, **draw(amount(count)))


@st.composite
def tiles(draw: st.DrawFn, name: str) -> Case:
    """Of up to three by three."""
    p, q = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = draw(shapes((p, q)))
    return made(name, shape, p=p, q=q, **draw(amount(math.prod(shape) // (p * q))))


@st.composite
def nms(draw: st.DrawFn, name: str) -> Case:
    """1 of 2 to 4 of 5."""
    m = draw(st.integers(2, 5))
    return made(name, draw(shapes((1, m))), n=draw(st.integers(1, m - 1)), m=m)


@st.composite
def lowranks(draw: st.DrawFn, name: str) -> Case:
    """In both views."""
    shape, view = draw(shapes()), draw(st.sampled_from(["channel", "spatial"]))
    full = min(LowRank(1, None, view).sides(shape))
    return made(name, shape, view=view, rank=draw(st.integers(1, full)))


@st.composite
def levels(draw: st.DrawFn, name: str) -> Case:
    """Of each kind, with up to 32 levels or with 256; some of a layer of which a sample is looked at."""
    kind = draw(st.sampled_from(["equidistant", "power", "ternary", "binary"]))
    bits = {"bits": draw(st.sampled_from([1, 2, 3, 4, 5, 8]))} if kind in ("equidistant", "power") else {}
    return made(name, draw(st.one_of(shapes(), shapes(), st.just((70, 60)))), levels=kind, **bits)


@st.composite
def shared(draw: st.DrawFn, name: str) -> Case:
    """From one cluster to as many as there are weights."""
    shape = draw(shapes())
    return made(name, shape, count=draw(st.integers(1, math.prod(shape))))


CASES: dict[type[sets.Pattern], Callable[[str], st.SearchStrategy[Case]]] = {
    sets.Cardinality: cardinalities,
    sets.Structured: structures,
    sets.Head: heads,
    sets.Block: tiles,
    sets.NM: nms,
    sets.LowRank: lowranks,
    sets.Levels: levels,
    sets.Clusters: shared,
}
"""How settings of each class, and a shape that fits them, are made up."""


@st.composite
def combined(draw: st.DrawFn, name: str) -> Case:
    """Two or three sets that can be put on one tensor."""
    shape: Shape = (4, 4, *draw(st.sampled_from([(), (2, 1)])))
    structure = st.sampled_from(
        [Groups(2, filters), Groups(3, channels), Groups(5, columns) if shape[2:] else Groups(2, columns)]
    )
    entries = st.one_of(st.integers(1, 16).map(Cardinality), st.just(NM(2, 4)))
    values = st.sampled_from([Levels("equidistant", 2), Levels("binary"), Levels("ternary"), Clusters(3)])
    parts = [draw(each) for each in (structure, entries, values) if draw(st.booleans())]
    return Combined(tuple(parts) or (draw(entries), draw(values))), shape


def cases(name: str) -> st.SearchStrategy[Case]:
    """Sets of that name with shapes."""
    return combined(name) if name == "combined" else CASES[sets.SETS[name]](name)


@st.composite
def weights(draw: st.DrawFn, shape: Shape) -> Tensor:
    """Sixteenths, which every dtype holds exactly: with zeros and with equal magnitudes."""
    size = math.prod(shape)
    top = draw(st.sampled_from([0, 1, 3, 48]))
    if size > 1000:
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        return torch.randint(-top, top + 1, shape, generator=generator).double() / 16
    whole = draw(st.lists(st.integers(-top, top), min_size=size, max_size=size))
    return torch.tensor(whole, dtype=torch.float64).view(shape) / 16


@st.composite
def cases_with_weights(draw: st.DrawFn, name: str) -> tuple[Constraint, Tensor]:
    """A set and a tensor that it is for."""
    constraint, shape = draw(cases(name))
    return constraint, draw(weights(shape))


def parts_of(constraint: Constraint) -> tuple[Constraint, ...]:
    """The sets that a set is made of."""
    return constraint.sets if isinstance(constraint, Combined) else (constraint,)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors differ by no more than rounding to their dtype does."""
    eps = max(1e-6, torch.finfo(a.dtype).eps)
    return float((a - b).double().norm()) <= 4 * eps * float(a.double().norm())


def exactly_idempotent(constraint: Constraint) -> bool:
    """Whether projecting twice gives the same bits: where a point's values are its own, and not fitted."""
    return not any(isinstance(part, LowRank | Levels | Clusters) for part in parts_of(constraint))


EVERY = pytest.mark.parametrize("name", [*SETS, "combined"])


def test_every_set_in_the_table_is_tested() -> None:
    assert set(SETS) == set(sets.SETS)
    assert set(sets.SETS.values()) == set(CASES), "make up settings of a new class in CASES"


@EVERY
def test_the_projection_lies_in_the_set_and_projects_to_itself(name: str) -> None:
    @few
    @given(cases_with_weights(name), st.sampled_from(DTYPES))
    def holds(case: tuple[Constraint, Tensor], dtype: torch.dtype) -> None:
        constraint, w = case
        w = w.to(dtype)
        z = constraint.project(w)
        assert constraint.contains(z)
        again = constraint.project(z)
        assert torch.equal(again, z) if exactly_idempotent(constraint) else close(again, z)

    holds()


@EVERY
def test_shape_and_dtype_and_device_are_kept_and_the_input_is_untouched(name: str) -> None:
    @few
    @given(cases_with_weights(name), st.sampled_from(DTYPES))
    def holds(case: tuple[Constraint, Tensor], dtype: torch.dtype) -> None:
        constraint, w = case
        w = w.to(dtype).requires_grad_()
        before = w.detach().clone()
        z = constraint.project(w.detach())
        mask = constraint.hold(z)
        constraint.contains(z)
        for made in (z, mask, constraint.project(w)):
            assert (made.shape, made.dtype, made.device) == (w.shape, w.dtype, w.device)
            assert made.data_ptr() != w.data_ptr()
        assert torch.equal(w, before)
        assert torch.equal(constraint.project(w).detach(), z)

    holds()


@EVERY
def test_memory_layout_does_not_matter(name: str) -> None:
    @few
    @given(cases_with_weights(name))
    def holds(case: tuple[Constraint, Tensor]) -> None:
        constraint, w = case
        z, mask = constraint.project(w), constraint.hold(w)
        for other in layouts(w):
            assert torch.equal(other, w)
            assert torch.equal(constraint.project(other), z)
            assert torch.equal(constraint.hold(other), mask)
            assert constraint.contains(other) == constraint.contains(w)

    holds()


def layouts(w: Tensor) -> Iterator[Tensor]:
    """The same numbers in other places: transposed, with gaps, expanded from a repeated read, channels last."""
    yield w.transpose(0, 1).contiguous().transpose(0, 1)
    yield torch.stack([w, w + 1], dim=-1)[..., 0]
    if w.ndim == 4:
        yield w.contiguous(memory_format=torch.channels_last)


@EVERY
def test_repeated_calls_give_the_same_bits(name: str) -> None:
    @few
    @given(cases_with_weights(name), st.sampled_from(DTYPES))
    def holds(case: tuple[Constraint, Tensor], dtype: torch.dtype) -> None:
        constraint, w = case
        w = w.to(dtype)
        assert torch.equal(constraint.project(w), constraint.project(w.clone()))
        assert torch.equal(constraint.hold(w), constraint.hold(w.clone()))

    holds()


@EVERY
def test_zeros_stay_zeros(name: str) -> None:
    @few
    @given(cases(name), st.sampled_from(DTYPES))
    def holds(case: Case, dtype: torch.dtype) -> None:
        constraint, shape = case
        w = torch.zeros(shape, dtype=dtype)
        assert torch.equal(constraint.project(w), w)
        assert constraint.contains(w)
        assert constraint.hold(w).shape == w.shape

    holds()


@EVERY
def test_nan_is_refused(name: str) -> None:
    @few
    @given(cases_with_weights(name), st.integers(0, 10**6), st.sampled_from(DTYPES))
    def holds(case: tuple[Constraint, Tensor], place: int, dtype: torch.dtype) -> None:
        constraint, w = case
        w = w.to(dtype)
        w.view(-1)[place % w.numel()] = math.nan
        with pytest.raises(ValueError, match="NaN"):
            constraint.project(w)

    holds()


@EVERY
def test_a_point_has_at_most_the_non_zeros_that_are_promised(name: str) -> None:
    @few
    @given(cases_with_weights(name))
    def holds(case: tuple[Constraint, Tensor]) -> None:
        constraint, w = case
        for full in (w, w.abs() + 1):
            assert int(constraint.project(full).count_nonzero()) <= constraint.most(tuple(w.shape)) <= w.numel()

    holds()


@EVERY
def test_what_may_move_can_move_without_leaving_the_set(name: str) -> None:
    @few
    @given(cases_with_weights(name))
    def holds(case: tuple[Constraint, Tensor]) -> None:
        constraint, w = case
        z = constraint.project(w)
        mask = constraint.hold(z)
        assert bool(((mask == 0) | (mask == 1)).all())
        assert constraint.contains(z + mask * torch.linspace(0.1, 1.0, z.numel(), dtype=z.dtype).view(z.shape))
        if exactly_idempotent(constraint):
            assert bool((mask[z != 0] == 1).all())

    holds()


@pytest.mark.parametrize("name", sorted(set(SETS) - {"levels", "clusters", "lowrank"}))
def test_of_equal_magnitudes_the_first_stay(name: str) -> None:
    """What is kept of a tensor of equal magnitudes is what comes first in each run, or as group.

    The other sets choose nothing by its size.
    """

    @few
    @given(cases(name), st.booleans())
    def holds(case: Case, minus: bool) -> None:
        constraint, shape = case
        w = torch.full(shape, -0.5 if minus else 0.5)
        kept = constraint.project(w) != 0
        assert torch.equal(kept, constraint.hold(w) == 1)
        assert int(kept.sum()) == constraint.most(shape)
        view = as_groups(constraint, kept)
        assert bool((view.all(1) == view.any(1)).all())
        chosen = view.any(1)
        if isinstance(constraint, NM):
            chosen = kept.reshape(shape[0], shape[1] // constraint.m, constraint.m, -1).transpose(2, 3)
            assert torch.equal(chosen, (torch.arange(constraint.m) < constraint.n).expand_as(chosen))
        else:
            assert torch.equal(chosen, torch.arange(len(chosen)) < int(chosen.sum()))

    holds()


def as_groups(constraint: Constraint, w: Tensor) -> Tensor:
    """[groups, entries of each]; each entry is a group of its own in a set without groups."""
    if not isinstance(constraint, Groups):
        return w.reshape(-1, 1)
    shape, axes = constraint.layout(tuple(w.shape))
    others = [axis for axis in range(len(shape)) if axis not in axes]
    return w.reshape(shape).permute(*axes, *others).reshape(math.prod(shape[axis] for axis in axes), -1)


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
    monkeypatch.setattr(import_module("stages.constraints.clusters"), "EXACT", 256)
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
