"""ADMM's state in five bytes a weight: the bits that W, Z and U have in three tensors of their own."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import dualprune.stages.engine.state as state_module
from dualprune.stages.constraints import Constraint
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.groups import Groups, channels, columns, filters
from dualprune.stages.constraints.levels import Levels
from dualprune.stages.constraints.nm import NM
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.state import STATE
from dualprune.stages.solver import admm
from tests.stages.conftest import PLACES, MakeEngine, held_to

SHAPE = (8, 12)
SETS: dict[str, Constraint] = {
    "0": Cardinality(30),
    "1": NM(2, 4),
    "2": Groups(3, filters),
    "3": Groups(5, columns),
    "4": Groups(5, channels),
    "5": Levels("equidistant", 3),
}
NAMES = {f"{key}.weight": one for key, one in SETS.items()}
VALUED = {"5.weight"}


@pytest.fixture(autouse=True)
def _portion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are divided in several portions."""
    monkeypatch.setattr(state_module, "PORTION", 40)


def net() -> nn.Module:
    """A layer for each set."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(SHAPE[1], SHAPE[0]) for _ in NAMES))


def random(seed: int) -> Tensor:
    """Of a layer's shape."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Plain:
    """The same by the formulas, Z and U kept as they are."""

    def __init__(self, w: Tensor, u: Tensor, constraint: Constraint) -> None:
        self.constraint, self.u = constraint, u
        self.target = constraint.project(w) - u

    def update(self, w: Tensor) -> None:
        """Of Z and U."""
        z = self.constraint.project(w + self.u)
        self.u = self.u + w - z
        self.target = z - self.u

    def rescale(self, factor: float) -> None:
        """U / factor."""
        z = self.target + self.u
        self.u = self.u / factor
        self.target = z - self.u


def equal(engine: Engine, plain: Mapping[str, Plain]) -> None:
    """Targets and U, to the bit."""
    for name, one in plain.items():
        assert torch.equal(engine.get(name, "target"), one.target), name
        assert torch.equal(engine.get(name, "dual"), one.u), name


@pytest.mark.parametrize(("zero", "offload"), PLACES)
@pytest.mark.parametrize("carry", [False, True])
def test_the_same_bits_as_three_tensors(make_engine: MakeEngine, zero: int, offload: bool, carry: bool) -> None:
    """Over updates and rescalings, and rescaled before the first update; masks in between change nothing."""
    engine = make_engine(net(), set(NAMES), zero=zero, offload=offload, valued=VALUED)
    duals = {name: random(number) / 4 for number, name in enumerate(NAMES)} if carry else {}
    none = torch.zeros(SHAPE)
    plain = {name: Plain(engine.get(name), duals.get(name, none), one) for name, one in NAMES.items()}
    admm.start(engine, held_to(NAMES), duals)
    equal(engine, plain)
    for number in range(12):
        for factor in (1.6, 1 / 1.5)[number % 2 :]:
            admm.rescale(engine, held_to(NAMES), factor)
            for one in plain.values():
                one.rescale(factor)
            equal(engine, plain)
        for seed, name in enumerate(NAMES):
            w = engine.get(name) + random(100 * number + seed) / 8
            engine.set(name, w)
            engine.set(name, random(number) > 0, "mask")
            plain[name].update(w)
        admm.update(engine, held_to(NAMES))
        equal(engine, plain)
        assert torch.equal(engine.get("0.weight", "mask"), (random(number) > 0).float())


def test_what_is_kept(make_engine: MakeEngine) -> None:
    """A number and a byte; of a set that changes values two; of what is only masked the byte."""
    engine = make_engine(net(), set(NAMES) - {"4.weight"}, {"4.weight"}, valued=VALUED)
    for name, parameter in engine.parameters.items():
        state = engine.optimizer.state[parameter]
        held = sum(state[key].nbytes for key in STATE if key in state) / parameter.numel()
        assert held == {"5.weight": 9, "4.weight": 1}.get(name, 5 if name in NAMES else 0)
    assert engine.kept("4.weight") == ["marks"]
    assert engine.kept("0.weight") == ["target", "marks"]
    assert engine.kept("5.weight") == ["target", "marks", "dual"]


def test_what_is_kept_puts_all_of_it_back(make_engine: MakeEngine) -> None:
    """Also where a start from a parent's duals left U beside Z, and where the names are those that the solver uses."""
    first, second, third = (make_engine(net(), set(NAMES), valued=VALUED) for _ in range(3))
    admm.start(first, held_to(NAMES), {name: random(number) for number, name in enumerate(NAMES)})
    for number, name in enumerate(NAMES):
        first.set(name, random(number) > 0, "mask")
        second.restore(name, {key: first.get(name, key) for key in first.kept(name)})
        third.restore(name, {key: first.get(name, key) for key in ("mask", "dual", "target")})
        for key in ("target", "dual", "mask"):
            assert torch.equal(first.get(name, key), second.get(name, key))
            assert torch.equal(first.get(name, key), third.get(name, key))
    admm.update(first, held_to(NAMES))
    assert first.kept("0.weight") == ["target", "marks"]
