"""The contract that every constraint set keeps by being in the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dualprune.stages.constraints import SETS, Constraint
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.clusters import Clusters
from dualprune.stages.constraints.combined import Combined
from dualprune.stages.constraints.groups import Groups, channels, columns, filters
from dualprune.stages.constraints.levels import Levels
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.constraints.nm import NM
from dualprune.stages.settings import sets

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
    return SETS[name].make(kind.model_validate({"set": name, "tensors": "*"} | values), shape), shape


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
        mask = constraint.mask(z)
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
        z, mask = constraint.project(w), constraint.mask(w)
        for other in layouts(w):
            assert torch.equal(other, w)
            assert torch.equal(constraint.project(other), z)
            assert torch.equal(constraint.mask(other), mask)
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
        assert torch.equal(constraint.mask(w), constraint.mask(w.clone()))

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
        assert constraint.mask(w).shape == w.shape

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
        mask = constraint.mask(z)
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
        assert torch.equal(kept, constraint.mask(w) == 1)
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
