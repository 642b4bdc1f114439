"""One layer pruned by its inputs: the sets, the optimum on small problems, and other methods on correlated inputs."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.constraints import NM, Cardinality, Constraint, groups
from dualprune.stages.constraints.combined import Combined
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.files.folder import Folder
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.solver import calibration, layerwise
from dualprune.stages.solver.solved import Notes, Solved
from dualprune.stages.solver.unfit import by_moments
from tests.bench.oneshot import PATTERNS, Pattern, magnitude, sparsegpt, wanda


def problem(outputs: int, inputs: int, seed: int, samples: int = 2000) -> tuple[Tensor, Tensor]:
    """Weights, and second moments of correlated inputs of very different size."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator) / inputs**0.5 + 0.3 * torch.eye(inputs)
    x = torch.randn(samples, inputs, generator=generator) @ mix
    x *= torch.exp(torch.randn(inputs, generator=generator))
    return torch.randn(outputs, inputs, generator=generator), (x.T @ x)


def solved(w: Tensor, h: Tensor, constraint: Constraint, **more: Any) -> Solved:
    """Without masks before it."""
    return layerwise.solve(w, h, constraint, torch.ones_like(w), **more)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda one: one.name)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_nearer_than_other_methods(pattern: Pattern, seed: int) -> None:
    """Than the published ones by a good part, on the very inputs that all go by."""
    w, h = problem(96, 64, seed)
    found = solved(w, h, pattern.set(w))
    assert pattern.set(w).contains(found.weights)
    others = [layerwise.error(w, method(w, h, pattern), h) for method in (magnitude, wanda, sparsegpt)]
    assert others == sorted(others, reverse=True)
    assert found.error < 0.9 * others[-1]
    assert found.error == pytest.approx(layerwise.error(w, found.weights, h))


def least(w: Tensor, h: Tensor, support: Tensor) -> float:
    """The least error with that support."""
    z = torch.zeros_like(w)
    for row, kept in enumerate(support.bool()):
        z[row, kept] = torch.linalg.solve(h[kept][:, kept], h[kept] @ w[row])
    return layerwise.error(w, z, h)


def test_weights_are_the_least_squares_ones_on_their_support() -> None:
    w, h = problem(20, 24, seed=1)
    found = solved(w, h, Cardinality(200), damping=1e-9)
    assert found.error == pytest.approx(least(w.double(), h.double(), found.mask), rel=1e-3)


def test_small_problems_are_solved_nearly_as_well_as_can_be() -> None:
    """Against all supports of 4 of 8 inputs; an error of magnitude's is far off."""
    ours, best, plain = [], [], []
    for seed in range(20):
        w, h = problem(1, 8, seed)
        every = (torch.zeros(1, 8).index_fill(1, torch.tensor(kept), 1.0) for kept in combinations(range(8), 4))
        best.append(min(least(w.double(), h.double(), support) for support in every))
        ours.append(solved(w, h, Cardinality(4), damping=1e-6).error)
        plain.append(layerwise.error(w, magnitude(w, h, PATTERNS[0]), h))
    assert all(one >= 0.999 * other for one, other in zip(ours, best, strict=True))
    assert sum(one < 1.001 * other for one, other in zip(ours, best, strict=True)) >= 10
    assert sum(ours) < 1.5 * sum(best)
    assert sum(plain) > 5 * sum(best)


SETS: dict[str, Constraint] = {
    "filter": groups.Groups(10, groups.filters),
    "column": groups.Groups(16, groups.columns),
    "block": groups.Groups(12, lambda shape: groups.blocks(shape, 4, 8)),
    "head": groups.Groups(2, lambda shape: groups.heads(shape, 4)),
    "column and 2:4": Combined((groups.Groups(20, groups.columns), NM(2, 4))),
}


@pytest.mark.parametrize("name", SETS)
def test_other_sets_hold_and_are_nearer_than_their_projection(name: str) -> None:
    constraint = SETS[name]
    w, h = problem(24, 32, seed=2)
    found = solved(w, h, constraint)
    assert constraint.contains(found.weights)
    assert not found.weights[found.mask == 0].any()
    assert found.error <= layerwise.error(w, constraint.project(w), h)


def test_low_rank_has_the_least_error_of_that_rank() -> None:
    """By the singular values of W H^1/2."""
    w, h = problem(24, 32, seed=3)
    found = solved(w, h, LowRank(5), damping=1e-9)
    assert LowRank(5).contains(found.weights)
    root = torch.linalg.cholesky(h.double())
    energies = torch.linalg.svdvals(w.double() @ root).square()
    assert found.error == pytest.approx(float(energies[5:].sum() / energies.sum()), rel=1e-3)


@pytest.mark.parametrize("constraint", [Cardinality(300), LowRank(3)], ids=["cardinality", "low rank"])
def test_weights_that_lie_turned_become_the_same(constraint: Constraint) -> None:
    """As transformers' Conv1D has them: and it is one that may be pruned so."""
    w, h = problem(20, 30, seed=3)
    found, turned = (solved(w, h, constraint), layerwise.solve_turned(w.T, h, constraint, torch.ones_like(w.T)))
    assert torch.equal(turned.weights, found.weights.T)
    assert torch.equal(turned.mask, found.mask.T)
    assert turned.error == found.error
    network = nn.Sequential(pytest.importorskip("transformers.pytorch_utils").Conv1D(8, 4), nn.Conv1d(8, 8, 1))
    names = ("0.weight", "1.weight")
    (said,) = by_moments(network, names, parameters(network))
    assert said.startswith("1.weight is of type Conv1d")


def test_what_is_masked_already_stays_zero() -> None:
    w, h = problem(16, 16, seed=4)
    kept = (torch.arange(256).view(16, 16) % 3 > 0).float()
    found = layerwise.solve(w * kept, h, Cardinality(100), kept)
    assert not found.weights[kept == 0].any()
    assert not found.mask[kept == 0].any()
    assert int(found.mask.sum()) == 100


@pytest.mark.parametrize("dead", [slice(0, 5), slice(None)], ids=["some", "all"])
def test_inputs_that_are_always_zero_keep_nothing(dead: slice) -> None:
    """Where there are others; and where there are none, any weights do."""
    w, h = problem(16, 16, seed=5)
    h[dead] = 0.0
    h[:, dead] = 0.0
    found = solved(w, h, Cardinality(128))
    assert bool(found.weights.isfinite().all())
    assert found.error < 0.2
    if dead.stop is not None:
        assert not found.weights[:, dead].any()


def test_more_damping_stays_nearer_to_the_weights() -> None:
    w, h = problem(16, 16, seed=6, samples=8)
    near, far = (solved(w, h, Cardinality(64), damping=damping) for damping in (1.0, 1e-4))
    assert near.error > far.error
    assert float((near.weights - w * near.mask).norm()) < float((far.weights - w * far.mask).norm())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(3, 5, (1, 3), padding=(0, 2), dilation=(1, 2), bias=False),
        nn.Linear(7, 5, bias=False),
    ],
    ids=str,
)
def test_rows_are_what_a_layer_multiplies(layer: nn.Module) -> None:
    x = torch.randn(2, 3, 8, 7)
    (*rows,) = calibration._rows(layer, x, None)
    out = torch.cat([some @ layer.get_parameter("weight").detach().flatten(1).T for some in rows])
    wanted = layer(x) if isinstance(layer, nn.Linear) else layer(x).permute(0, 2, 3, 1)
    assert torch.allclose(out, wanted.reshape(out.shape), atol=1e-5)


def test_padding_is_left_out() -> None:
    x, where = torch.randn(2, 3, 7), torch.tensor([[True, True, False], [True, False, False]])
    (rows,) = calibration._rows(nn.Linear(7, 5), x, where)
    assert torch.equal(rows, torch.stack([x[0, 0], x[0, 1], x[1, 0]]))


def test_notes_count_for_their_parent_and_while_they_are_whole(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path)).establish()
    one = Solved(torch.randn(3, 2), torch.ones(3, 2), 0.25, 7)
    Notes(folder, "parent", 0).write(4, {"a.weight": one})
    Notes(folder, "parent", 1).write(5, {"a.weight": one})
    found = Notes(folder, "parent", 0).read(4)
    assert found is not None
    assert torch.equal(found["a.weight"].weights, one.weights)
    assert (found["a.weight"].error, found["a.weight"].iterations) == (0.25, 7)
    assert Notes(folder, "parent", 0).read(5) is None
    assert Notes(folder, "another", 0).read(4) is None
    folder.write("4.safetensors", b"cut short")
    assert Notes(folder, "parent", 0).read(4) is None
