"""ADMM's updates through a real engine, against a loop in NumPy and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.weighing import DECAY, WAYS
from dualprune.stages.library.tensors import ModuleTensors
from dualprune.stages.settings.training import Optimizer
from dualprune.stages.solver import admm
from dualprune.stages.solver.budget import Budget
from dualprune.stages.solver.seen import BINS, Seen
from dualprune.stages.solver.targets import Targets
from tests.stages.conftest import PLACES, MakeEngine, held_to

Array = NDArray[np.float64]
SGD = Optimizer(name="sgd", momentum=0.0)
W0 = np.array([[0.9, -0.2, 0.4], [-1.1, 0.05, 0.7]])
A = np.array([[1.0, 2.0, 0.5], [1.5, 1.0, 3.0]])
B = np.array([[0.3, -0.8, 0.6], [-0.9, 1.2, -0.1]])


class Quadratic(nn.Module):
    """1/2 sum a (w - b)^2, whatever comes in."""

    def __init__(self, a: Array = A, b: Array = B) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(W0, dtype=torch.float32))
        self.a, self.b = (torch.tensor(each, dtype=torch.float32) for each in (a, b))

    def forward(self, x: Tensor) -> Tensor:
        """The loss itself."""
        return (self.a * (self.w - self.b) ** 2).sum() / 2 + 0 * x.sum()


def train(engine: Engine, steps: int, lr: float) -> None:
    """Plain gradient steps on the quadratic."""
    for _ in range(steps):
        engine.backward(engine.forward(torch.zeros(1)))
        engine.step(lr)


def numpy_admm(
    k: int, rho: float, growth: float, updates: int, steps: int, lr: float
) -> list[tuple[Array, Array, Array]]:
    """W, Z and U (already rescaled) after each update, by the formulas as they are printed."""

    def proj(v: Array) -> Array:
        return np.where(np.abs(v) >= np.sort(np.abs(v).ravel())[-k], v, 0.0)

    w, u, z = W0.copy(), np.zeros_like(W0), proj(W0)
    iterates = []
    for _ in range(updates):
        for _ in range(steps):
            w = w - lr * (A * (w - B) + rho * (w - z + u))
        z = proj(w + u)
        u = (u + w - z) / growth
        rho *= growth
        iterates.append((w, z, u))
    return iterates


@pytest.mark.parametrize("zero", [0, 3])
def test_what_an_update_says_of_a_tensor(make_engine: MakeEngine, zero: int) -> None:
    """Against numpy: both residuals, what is left, the share of the mask that changed, and how the weights spread."""
    engine = make_engine(Quadratic(), {"w"}, optimizer=SGD, zero=zero)
    targets = held_to({"w": Cardinality(2)})
    admm.start(engine, targets, {})
    start = engine.get("w").numpy()
    z = np.where(np.abs(start) >= np.sort(np.abs(start).ravel())[-2], start, 0)
    w = np.array([[3.0, 0.1, -0.2], [0.3, -0.4, 2.0]], dtype=np.float32)
    engine.set("w", torch.from_numpy(w))
    found = Seen()
    admm.update(engine, targets, found.look)
    after = np.where(np.abs(w) >= 2, w, 0)
    norm = np.linalg.norm(w)
    assert found.tensors["w"].primal == pytest.approx(np.linalg.norm(w - after) / norm, rel=1e-5)
    assert found.tensors["w"].dual == pytest.approx(np.linalg.norm(after - z) / norm, rel=1e-5)
    assert found.tensors["w"].churn == np.count_nonzero((after != 0) != (z != 0)) / 6 > 0
    assert (found.tensors["w"].left, found.tensors["w"].size) == (2, 6)
    spread = found.histograms["w"]
    assert spread.counts == np.histogram(w, BINS, (spread.low, spread.high))[0].tolist()
    assert (spread.low, spread.high) == (pytest.approx(-0.4), 3.0)
    admm.update(engine, targets, found.look)
    assert found.row()["churn"] == found.tensors["w"].churn == 0


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("growth", [1.0, 1.6])
def test_iterates_are_those_of_numpy(make_engine: MakeEngine, zero: int, growth: float) -> None:
    engine = make_engine(Quadratic(), {"w"}, optimizer=SGD, zero=zero)
    targets = held_to({"w": Cardinality(2)})
    admm.start(engine, targets, {})
    rho = 0.5
    for w, z, u in numpy_admm(2, rho, growth, updates=6, steps=7, lr=0.05):
        engine.optimizer.rho = rho
        train(engine, 7, 0.05)
        residual = admm.update(engine, targets).residual
        admm.rescale(engine, targets, growth)
        rho *= growth
        np.testing.assert_allclose(engine.get("w").numpy(), w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(engine.get("w", "dual").numpy(), u, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(engine.get("w", "target").numpy(), z - u, rtol=1e-4, atol=1e-5)
        assert residual.total == pytest.approx(np.linalg.norm(w - z) / np.linalg.norm(w), rel=1e-3, abs=1e-5)
        assert residual.tensors == {"w": residual.total}


def test_admm_finds_the_optimum_of_a_diagonal_quadratic(make_engine: MakeEngine) -> None:
    """Losing entry i costs a b^2 / 2, so the best two to keep are known; W0 would keep two others."""
    b = np.array([[0.1, -2.5, 0.3], [0.2, 3.0, -0.1]])
    engine = make_engine(Quadratic(np.ones((2, 3)), b), {"w"}, optimizer=SGD)
    targets = held_to({"w": Cardinality(2)})
    admm.start(engine, targets, {})
    engine.optimizer.rho = 0.5
    for _ in range(25):
        train(engine, 10, 0.2)
        admm.update(engine, targets)
        admm.rescale(engine, targets, 1.1)
        engine.optimizer.rho *= 1.1
    assert admm.project(engine, targets).residual.total < 0.05
    w = engine.get("w").numpy()
    assert np.argwhere(w).tolist() == [[0, 1], [1, 1]]
    np.testing.assert_allclose(w[w != 0], [-2.5, 3.0], atol=0.02)


def test_start_takes_duals_over_and_zero_where_there_are_none(make_engine: MakeEngine) -> None:
    engine = make_engine(Quadratic(), {"w"})
    targets = held_to({"w": Cardinality(1)})
    admm.start(engine, targets, {})
    expected = torch.tensor([[0.0, 0.0, 0.0], [-1.1, 0.0, 0.0]])
    assert torch.equal(engine.get("w", "target"), expected)
    assert torch.equal(engine.get("w", "dual"), torch.zeros(2, 3))
    u = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    admm.start(engine, targets, {"w": u})
    # Z is Proj(W), though W + U = [[1.9, ...], [-0.6, ...]] has another largest entry.
    z = expected
    torch.testing.assert_close(engine.get("w", "target"), z - u)
    assert torch.equal(engine.get("w", "dual"), u)
    torch.testing.assert_close(engine.get("w"), torch.tensor(W0, dtype=torch.float32), rtol=0, atol=0)


def test_growth_of_rho_divides_the_dual_and_nothing_else(make_engine: MakeEngine) -> None:
    """Z is unchanged by it, and rho U is what it would have been."""
    results = []
    for growth in (1.0, 4.0):
        engine = make_engine(Quadratic(), {"w"})
        engine.set("w", torch.full((2, 3), 0.25), "dual")
        targets = held_to({"w": Cardinality(3)})
        admm.update(engine, targets)
        admm.rescale(engine, targets, growth)
        dual = engine.get("w", "dual")
        results.append((engine.get("w", "target") + dual, dual * growth))
    torch.testing.assert_close(results[0], results[1])
    # Of W + U = [1.15 .05 .65; -.85 .3 .95] three stay, so U = U + W - Z is 0 there.
    torch.testing.assert_close(results[1][0], torch.tensor([[1.15, 0.0, 0.0], [-0.85, 0.0, 0.95]]))
    torch.testing.assert_close(results[1][1], torch.tensor([[0.0, 0.05, 0.65], [0.0, 0.3, 0.0]]))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_the_final_projection_is_of_w_and_exact(make_engine: MakeEngine, zero: int) -> None:
    engine = make_engine(Quadratic(), {"w"}, zero=zero)
    engine.set("w", torch.ones(2, 3), "mask")
    engine.set("w", torch.full((2, 3), 50.0), "dual")
    residual = admm.project(engine, held_to({"w": Cardinality(3)})).residual
    expected = torch.tensor([[0.9, 0.0, 0.0], [-1.1, 0.0, 0.7]])
    assert torch.equal(engine.get("w"), expected)
    assert torch.equal(engine.get("w", "mask"), (expected != 0).float())
    assert torch.equal(engine.get("w", "dual"), torch.full((2, 3), 50.0))
    lost, size = 0.2**2 + 0.4**2 + 0.05**2, float((W0**2).sum())
    assert residual.total == pytest.approx((lost / size) ** 0.5, rel=1e-5)
    engine.optimizer.masking = True
    train(engine, 3, 0.1)
    moved = engine.get("w")
    assert torch.equal(moved != 0, expected != 0)
    assert not torch.equal(moved, expected)


def test_the_mask_lies_within_the_earlier_one(make_engine: MakeEngine) -> None:
    """Though fewer weights than k are left, and zeros would be held by position."""
    engine = make_engine(Quadratic(), {"w"})
    earlier = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    engine.set("w", torch.tensor(W0, dtype=torch.float32) * earlier)
    engine.set("w", earlier, "mask")
    admm.project(engine, held_to({"w": Cardinality(2)}))
    assert torch.equal(engine.get("w", "mask"), torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))
    engine.set("w", torch.zeros(2, 3))
    engine.set("w", earlier, "mask")
    admm.project(engine, held_to({"w": Cardinality(5)}))
    assert bool((engine.get("w", "mask") <= earlier).all())


def test_residuals_are_per_tensor_and_over_all(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.set("0.weight", torch.cat([torch.full((1, 6), 2.0), torch.full((4, 6), 1.0)]))
    engine.set("3.weight", torch.zeros(3, 5))
    residual = admm.project(engine, held_to({"0.weight": Cardinality(6), "3.weight": Cardinality(1)})).residual
    assert residual.tensors == {"0.weight": pytest.approx((24 / 48) ** 0.5), "3.weight": 0.0}
    assert residual.total == pytest.approx((24 / 48) ** 0.5)


def test_tensors_longer_than_what_is_multiplied_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is less than a GPU's `dot` takes; also of one number, and of none."""
    monkeypatch.setattr(admm, "LONGEST", 4)
    for shape in ((3, 5), (), (0, 3)):
        x, y = torch.randn(shape), torch.randn(shape)
        assert admm._apart(x, y) == pytest.approx(float((x - y).double().square().sum()))
    assert admm.LONGEST < 2**31


def test_duals_are_carried_to_tensors_that_lie_otherwise() -> None:
    """In channels_last order: U comes out as it was given, where neither it nor Z is 0, too."""
    network = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    tensors = ModuleTensors(network, ["weight"], ["weight"], [])
    u = torch.randn(4, 3, 2, 2)
    admm.start(tensors, held_to({"weight": Cardinality(20)}), {"weight": u})
    assert torch.equal(tensors.get("weight", "dual"), u)


@pytest.mark.parametrize("way", ["fisher", "snip"])
@pytest.mark.parametrize(("zero", "offload"), PLACES)
def test_entries_weighed_by_gradients(make_engine: MakeEngine, zero: int, offload: bool, way: str) -> None:
    """Against numpy: the running diagonal has the loss's gradients alone, and Z the entries that it is to have."""
    engine = make_engine(Quadratic(), {"w"}, optimizer=SGD, zero=zero, offload=offload, weighed=way)
    targets = held_to({"w": Cardinality(2)})
    admm.start(engine, targets, {})
    rho, lr = 0.5, 0.05
    engine.optimizer.rho = rho
    engine.weigh(True)
    w, u, f = W0.copy(), np.zeros_like(W0), np.zeros_like(W0)
    z = np.where(np.abs(w) >= 0.9, w, 0.0)
    differ = False
    for _ in range(3):
        for _ in range(4):
            gradient = A * (w - B)
            f = DECAY * f + (1 - DECAY) * (gradient**2 if way == "fisher" else np.abs(gradient))
            w = w - lr * (gradient + rho * (w - z + u))
        train(engine, 4, lr)
        v = w + u
        score = np.abs(v) * (np.sqrt(f) if way == "fisher" else f)
        z = np.where(score >= np.sort(score.ravel())[-2], v, 0.0)
        differ = differ or not np.array_equal(z != 0, np.abs(v) >= np.sort(np.abs(v).ravel())[-2])
        u = v - z
        admm.update(engine, replace(targets, weigh=way))
        for state, expected in ((None, w), (way, f), ("dual", u), ("target", z - u)):
            np.testing.assert_allclose(engine.get("w", state).cpu(), expected, atol=1e-5)
    assert differ
    engine.weigh(False)
    train(engine, 1, lr)
    np.testing.assert_allclose(engine.get("w", way).cpu(), f, atol=1e-5)


@pytest.mark.parametrize("way", ["fisher", "snip"])
def test_a_weighed_budget_and_the_final_projection(make_engine: MakeEngine, way: str) -> None:
    """The largest products of all tensors stay, with the weights' own values."""
    engine = make_engine(weighed=way)
    names = ("0.weight", "3.weight")
    for number, name in enumerate(names):
        generator = torch.Generator().manual_seed(number)
        engine.set(name, torch.rand(engine.shape(name), generator=generator) * (1 + number), way)
        engine.set(name, torch.ones(engine.shape(name)), "mask")
    w = {name: engine.get(name) for name in names}
    scores = {name: value.abs() * WAYS[way].weights(engine.get(name, way)) for name, value in w.items()}
    limit = torch.cat([score.flatten() for score in scores.values()]).sort(descending=True).values[9]
    targets = Targets({}, (Budget(names, 10, 0, "none"),), dict.fromkeys(names, ("cardinality",)), weigh=way)
    found = admm.project(engine, targets)
    for name in names:
        kept = scores[name] >= limit
        assert torch.equal(engine.get(name), w[name] * kept)
        assert torch.equal(engine.get(name, "mask"), kept.float())
        assert found.kept[name] == int(kept.sum())
    assert engine.kept("0.weight") == ["target", "marks", way]
    assert way not in engine.inner_states()
