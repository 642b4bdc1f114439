"""Gates: what they are the norm of, the proximal step against one by hand, and units that are closed."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from dualprune.stages.coupling.cut import Cut, cut
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.parameters import Parameters, parameters
from dualprune.stages.settings.sets import Pattern, every
from dualprune.stages.solver import gating
from dualprune.stages.solver.coupled import Share, shares
from dualprune.stages.solver.gating import Gates


class Plain:
    """Tensors of a network in this process."""

    def __init__(self, network: nn.Module) -> None:
        self.values = {name: one.detach().clone() for name, one in network.named_parameters()}
        self.masks = {name: torch.ones_like(one) for name, one in self.values.items()}

    def get(self, name: str, state: str | None = None) -> Tensor:
        """A copy."""
        return (self.values if state is None else self.masks)[name].clone()

    def set(self, name: str, value: Tensor, state: str | None = None) -> None:
        """In its place."""
        (self.values if state is None else self.masks)[name] = value.clone()


def mlp() -> nn.Module:
    """Three neurons between four inputs and two outputs."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def found(network: nn.Module, *inputs: Tensor) -> tuple[list[Share], Parameters, Cut]:
    """The spaces of a network, and what its parameters are."""
    whole, there = cut(network, inputs, {}), parameters(network)
    return shares(every(Pattern(tensors="*")), whole, there), there, whole


@cache
def resnet() -> tuple[list[Share], Parameters, Cut]:
    """The same of ResNet-20."""
    return found(MODELS["resnet20"](10).eval(), torch.zeros(2, 3, 32, 32))


def test_a_gate_is_the_norm_of_what_makes_a_unit() -> None:
    """Its row and its bias, and nothing of what reads it."""
    network = mlp()
    (share,), there, _ = found(network, torch.zeros(2, 4))
    of = gating.gates(share, there)
    assert (of.count, of.size, set(of.names)) == (3, 5, {"0.weight", "0.bias"})
    tensors = Plain(network)
    wanted = torch.cat([tensors.values["0.weight"], tensors.values["0.bias"][:, None]], 1).norm(dim=1)
    assert torch.allclose(gating.norms(of, tensors.get), wanted)
    assert torch.allclose(gating.norms(gating.gates(share, there, 2), tensors.get), wanted[:2])


def test_behind_batch_normalisation_it_is_of_scales_and_biases() -> None:
    """Of a stream, those of all that add to it."""
    spaces, there, _ = resnet()
    by_name = {share.space.name: gating.gates(share, there) for share in spaces}
    assert by_name["layer1.0.conv1.weight"].names == ["layer1.0.bn1.weight", "layer1.0.bn1.bias"]
    assert by_name["layer1.0.conv1.weight"].size == 2
    stream = by_name["layer3.0.conv2.weight"]
    assert stream.names == [f"layer3.{n}.bn2.{own}" for n in range(3) for own in ("weight", "bias")]
    assert (stream.count, stream.size) == (32, 6)


class Half(nn.Module):
    """Two convolutions that are added, one of them behind a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(2, 4, 1) for _ in range(2))
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 2, h, w] to the same."""
        y: Tensor = self.head(torch.relu(self.norm(self.one(x)) + self.two(x)))
        return y


def test_where_not_all_is_normalised_it_is_of_all_that_makes_a_unit() -> None:
    """Scales alone would leave what the other convolution makes."""
    (share,), there, _ = found(Half(), torch.zeros(2, 2, 3, 3))
    names = {"one.weight", "two.weight", "one.bias", "two.bias", "norm.weight", "norm.bias"}
    assert set(gating.gates(share, there).names) == names


def test_the_proximal_step_is_that_of_the_group_lasso() -> None:
    """By hand: each row with its bias shrinks by the threshold, to exactly zero; the rest stays as it is."""
    network = mlp()
    (share,), there, _ = found(network, torch.zeros(2, 4))
    tensors = Plain(network)
    whole = torch.cat([tensors.values["0.weight"], tensors.values["0.bias"][:, None]], 1)
    readers = tensors.values["2.weight"].clone()
    norms = whole.norm(dim=1)
    by = float(norms[:2].mean())  # of the first two, one is smaller
    of: Gates = gating.gates(share, there, 2)
    left = gating.shrink(tensors, of, by)
    wanted = whole.clone()
    for row in range(2):
        wanted[row] *= max(0.0, 1 - by / float(norms[row]))
    after = torch.cat([tensors.values["0.weight"], tensors.values["0.bias"][:, None]], 1)
    assert torch.allclose(after, wanted, atol=1e-7)
    assert (left == 0).sum() == 1 == (after.count_nonzero(1) == 0).sum()
    assert torch.equal(after[2], whole[2])
    assert torch.equal(tensors.values["2.weight"], readers)
    # It minimises |x - w|^2 / 2 + by |x|: no point near it is better.
    row = int(left.argmax())

    def objective(x: Tensor) -> float:
        return float((x - whole[row]).square().sum() / 2 + by * x.norm())

    for seed in range(20):
        torch.manual_seed(seed)
        assert objective(after[row]) <= objective(after[row] + 0.01 * torch.randn(5)) + 1e-7


def test_what_is_closed_makes_nothing_and_is_read_by_nothing() -> None:
    """In all tensors of a stream; and masks keep it so."""
    spaces, there, _ = resnet()
    network = MODELS["resnet20"](10)
    tensors = Plain(network)
    share = spaces[0]
    gone = np.zeros(share.space.size, np.bool_)
    gone[[1, 5]] = True
    gating.close(tensors, [gating.gates(one, there) for one in spaces], {share.number: gone}, there)
    for name, dim in share.space.weights:
        positions = share.space.places[name, dim][gone].ravel()
        for values in (tensors.values[name], tensors.masks[name]):
            assert not values.movedim(dim, 0)[positions].any()
        kept = share.space.places[name, dim][~gone].ravel()
        assert tensors.values[name].movedim(dim, 0)[kept].flatten(1).any(1).all()
    assert int(tensors.values["bn1.weight"].count_nonzero()) == 14
    assert int(tensors.values["layer1.1.bn1.weight"].count_nonzero()) == 16
