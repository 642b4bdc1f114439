"""Gates under pressure, on a network of three neurons, against numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualprune.stages.solver import gating
from dualprune.stages.solver.closing import closing
from dualprune.stages.solver.pressing import Pressing
from tests.stages.solver.test_gating import Plain, found, mlp


class Moved(Plain):
    """Tensors of a network, with what an optimizer remembers of them."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(network)
        generator = torch.Generator().manual_seed(1)
        self.means = {name: torch.randn(one.shape, generator=generator) for name, one in self.values.items()}
        self.masked = {"0.weight", "2.weight"}

    def inner_states(self) -> list[str]:
        """Their names."""
        return ["mean"]

    def get(self, name: str, state: str | None = None) -> Tensor:
        """A copy."""
        return self.means[name].clone() if state == "mean" else super().get(name, state)

    def set(self, name: str, value: Tensor, state: str | None = None) -> None:
        """In its place."""
        if state == "mean":
            self.means[name] = value.clone()
        else:
            super().set(name, value, state)


def begun() -> tuple[Pressing, Any]:
    """Gates of mean strength one, of which nothing is known yet."""
    network, x = mlp(), torch.zeros(2, 4)
    spaces, there, _ = found(network, x)
    of = [gating.gates(share, there) for share in spaces]
    whole = closing(network, (x,), {}, spaces, there)
    (number,) = whole.gone
    return Pressing(whole, of, {str(number): 1.0}, {str(number): np.zeros(3)}), Moved(network)


def test_worth_is_the_mean_square_of_the_slope_of_a_factor() -> None:
    """The sum of each row and bias times their mean gradients."""
    pressing, tensors = begun()
    weight, bias = (tensors.values[name] * tensors.means[name] for name in ("0.weight", "0.bias"))
    slopes = (weight.sum(1) + bias).numpy()
    pressing.look(tensors, "mean", 0.75)
    (worth,) = pressing.worth.values()
    assert np.allclose(worth, 0.25 * slopes**2)
    pressing.look(tensors, "mean", 0.75)
    assert np.allclose(next(iter(pressing.worth.values())), (0.25 + 0.75 * 0.25) * slopes**2)


def test_only_what_has_no_room_is_pressed_and_closed_at_zero() -> None:
    """Of three neurons two fit: the least worth loses a step of its norm, the others nothing; then all of it."""
    pressing, tensors = begun()
    (key,) = pressing.worth
    pressing.worth[key][:] = [3.0, 1.0, 2.0]
    before = {name: value.clone() for name, value in tensors.values.items()}
    norm = float(torch.cat([before["0.weight"][1], before["0.bias"][1:2]]).norm())
    pressing.press(tensors, 0.7, 0.25 * norm)
    for name in ("0.weight", "0.bias"):
        assert torch.allclose(tensors.values[name][1], 0.75 * before[name][1])
        assert torch.equal(tensors.values[name][[0, 2]], before[name][[0, 2]])
    assert torch.equal(tensors.values["2.weight"], before["2.weight"])
    assert pressing.closing.rest() == 1.0
    pressing.press(tensors, 0.7, math.inf)
    assert pressing.closing.gone[int(key)].tolist() == [False, True, False]
    assert math.isclose(pressing.closing.rest(), 2 / 3)
    for values in (tensors.values, tensors.means):
        assert not values["0.weight"][1].any()
        assert not values["0.bias"][1]
        assert not values["2.weight"][:, 1].any()
    assert torch.equal(tensors.masks["2.weight"], torch.tensor([[1.0, 0.0, 1.0]] * 2))
    pressing.press(tensors, 0.7, math.inf)
    assert int(pressing.closing.gone[int(key)].sum()) == 1
