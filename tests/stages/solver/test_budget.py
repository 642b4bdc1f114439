"""A budget over several tensors: the counts that sorting all magnitudes at once would give, without doing it."""

from __future__ import annotations

import ctypes
import os
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dualprune.stages.engine.engine import Engine
from dualprune.stages.solver import admm
from dualprune.stages.solver.budget import Budget, allocate
from dualprune.stages.solver.targets import Targets
from tests.stages.conftest import MakeEngine

Tensors = dict[str, Tensor]

few = settings(derandomize=True, deadline=None, max_examples=60, database=None)


def by_sorting(tensors: Tensors, total: int, floor: int, scale: str) -> dict[str, int]:
    """Floors first; then all other magnitudes, sorted at once; of equal ones those of earlier tensors first."""
    kept, rest = {}, []
    for order, (name, w) in enumerate(tensors.items()):
        magnitudes = w.flatten().float().abs().sort(descending=True).values
        kept[name] = min(floor, len(magnitudes))
        if scale == "rms":
            magnitudes = magnitudes / w.double().square().mean().sqrt().clamp(min=1e-30).float()
        rest += [(-float(value), order, name) for value in magnitudes[floor:]]
    for _, _, name in sorted(rest)[: total - sum(kept.values())]:
        kept[name] += 1
    return kept


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensors, Budget]:
    """One to four tensors, with ties within and across them and with magnitudes of all sizes; any budget that fits."""
    kinds = [st.integers(-3, 3).map(float), st.floats(-(2.0**100), 2.0**100, width=32), st.sampled_from([0.5, -0.5])]
    value: st.SearchStrategy[float] = draw(st.sampled_from(kinds))
    lists = draw(st.lists(st.lists(value, min_size=1, max_size=12), min_size=1, max_size=4))
    tensors = {f"w{n}": torch.tensor(values, dtype=torch.float32) for n, values in enumerate(lists)}
    floor = draw(st.integers(0, 4))
    floors = sum(min(floor, len(values)) for values in lists)
    total = draw(st.integers(max(1, floors), max(1, sum(map(len, lists)))))
    return tensors, Budget(tuple(tensors), total, floor, draw(st.sampled_from(["none", "rms"])))


@few
@given(problems())
def test_the_counts_are_those_of_sorting_everything(problem: tuple[Tensors, Budget]) -> None:
    tensors, budget = problem
    found = allocate(budget, tensors.__getitem__)
    assert found.kept == by_sorting(tensors, budget.total, budget.floor, budget.scale)
    assert sum(found.kept.values()) == budget.total
    assert list(found.kept) == list(budget.names)


@pytest.mark.parametrize("total", [3, 4, 100, 5_000, 11_999, 12_000])
@pytest.mark.parametrize("scale", ["none", "rms"])
def test_large_tensors_of_different_sizes(total: int, scale: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "large": 3 * torch.randn(20, 300, generator=generator),
        "flat": torch.full((1000,), 0.75),
        "small": torch.randn(10, 10, 5, 10, generator=generator) / 50,
    }
    found = allocate(Budget(tuple(tensors), total, 1, scale), tensors.__getitem__)
    assert found.kept == by_sorting(tensors, total, 1, scale)


def test_a_hand_written_budget() -> None:
    """5 4 3 2 | 4 4 | 1: the floor saves the last tensor; of the fours, the first tensor's comes first."""
    tensors = {"a": torch.tensor([[2.0, -5.0], [4.0, 3.0]]), "b": torch.tensor([-4.0, 4.0]), "c": torch.tensor([1.0])}

    def kept(total: int, floor: int) -> list[int]:
        return list(allocate(Budget(("a", "b", "c"), total, floor, "none"), tensors.__getitem__).kept.values())

    assert [kept(n, 0) for n in range(1, 8)] == [
        [1, 0, 0],
        [2, 0, 0],
        [2, 1, 0],
        [2, 2, 0],
        [3, 2, 0],
        [4, 2, 0],
        [4, 2, 1],
    ]
    assert [kept(n, 1) for n in (3, 4, 5, 6, 7)] == [[1, 1, 1], [2, 1, 1], [2, 2, 1], [3, 2, 1], [4, 2, 1]]
    assert kept(7, 9) == [4, 2, 1]


def test_scaled_by_its_rms_a_layer_of_small_weights_keeps_its_share() -> None:
    w = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    tensors = {"a": w, "b": w / 100}
    plain = allocate(Budget(("a", "b"), 500, 0, "none"), tensors.__getitem__).kept
    scaled = allocate(Budget(("a", "b"), 500, 0, "rms"), tensors.__getitem__).kept
    assert plain["b"] < 5
    assert abs(scaled["a"] - scaled["b"]) <= 2


def test_zeros_count_like_other_weights_and_nan_is_refused() -> None:
    tensors = {"a": torch.zeros(3), "b": torch.tensor([0.0, 1.0])}
    assert allocate(Budget(("a", "b"), 4, 0, "rms"), tensors.__getitem__).kept == {"a": 3, "b": 1}
    tensors["b"][0] = float("nan")
    for floor in (0, 1):
        with pytest.raises(ValueError, match="NaN"):
            allocate(Budget(("a", "b"), 4, floor, "none"), tensors.__getitem__)


def test_one_tensor_at_a_time_is_whole() -> None:
    """Their memory, not the objects, is watched: a view would keep it."""
    tensors = {f"w{n}": torch.randn(1 << 12, generator=torch.Generator().manual_seed(n)) for n in range(20)}
    alive: list[str] = []
    most: list[int] = []

    def give(name: str) -> Tensor:
        given = tensors[name].clone()
        alive.append(name)
        weakref.finalize(given.untyped_storage(), alive.remove, name)
        most.append(len(alive))
        return given

    for scale in ("none", "rms"):
        found = allocate(Budget(tuple(tensors), 5000, 1, scale), give)
        one = allocate(Budget(("w0",), 50, 1, scale), tensors.__getitem__)
        assert found.peak_bytes == one.peak_bytes
    assert len(most) >= 3 * len(tensors)
    assert set(most) == {1}
    held = give("w0")
    give("w1")
    assert most[-1] == 2, "what is held is counted"
    del held


def resident(what: str) -> int:
    """Bytes of this process that are in memory: `VmRSS` now, `VmHWM` at most since that was last forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(what))) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["none", "rms"])
def test_the_process_grows_by_no_more_than_is_said(scale: str) -> None:
    """Whatever the number of tensors, which are large enough for the system to take back their memory at once."""
    forget = Path("/proc/self/clear_refs")
    if not os.access(forget, os.W_OK):
        pytest.skip("this system does not tell how much memory a process took at most")
    w = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0))
    allocator = ctypes.CDLL(None)
    grown, said = [], []
    for count in (2, 2, 6):
        if hasattr(allocator, "malloc_trim"):
            allocator.malloc_trim(0)  # what earlier tests freed, and the process kept, would be taken first
        forget.write_text("5")
        before = resident("VmRSS")
        found = allocate(Budget(tuple(map(str, range(count))), 1 << 22, 5, scale), lambda name: w + float(name))
        grown.append(resident("VmHWM") - before)
        said.append(found.peak_bytes)
    _, few, many = grown  # the first time, code is loaded too
    assert said[0] == said[1] == said[2]
    for growth in (few, many):
        assert 0.99 * w.nbytes <= growth <= 1.1 * said[0]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_an_update_projects_on_the_budget(make_engine: MakeEngine, zero: int) -> None:
    """Z = the largest of |W + U| over all tensors; then masks come from |W|, with counts of their own."""
    engine: Engine = make_engine(zero=zero)
    names = ("0.weight", "3.weight")
    targets = Targets({}, (Budget(names, 20, 2, "none"),), dict.fromkeys(names, ("cardinality",)))
    admm.start(engine, targets, {})
    for seed, name in enumerate(names):
        engine.set(name, torch.randn(engine.shape(name), generator=torch.Generator().manual_seed(seed)), "dual")
        engine.set(name, torch.ones(engine.shape(name)), "mask")
    sums = {name: engine.get(name) + engine.get(name, "dual") for name in names}
    weights = {name: engine.get(name) for name in names}
    update = admm.update(engine, targets)
    assert update.kept == by_sorting(sums, 20, 2, "none")
    for name in names:
        z = engine.get(name, "target") + engine.get(name, "dual")
        least = sums[name].abs().flatten().sort(descending=True).values[update.kept[name] - 1]
        torch.testing.assert_close(z, torch.where(sums[name].abs() >= least, sums[name], torch.zeros(())))
    admm.project(engine, targets)
    counts = {name: int(engine.get(name).count_nonzero()) for name in names}
    assert counts == by_sorting(weights, 20, 2, "none") == {n: int(engine.get(n, "mask").sum()) for n in names}
    assert sum(counts.values()) == 20
    assert update.peak_bytes > 0
