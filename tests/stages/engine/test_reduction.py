"""Gradients summed over ranks within the backward pass: the same bits as when they are summed after it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dualprune.stages.engine import reduction
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Optimizer
from tests.ranks import on_ranks


class Net(nn.Module):
    """Layers of which ranks use different ones, or none; one is frozen, and two share their weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.even, self.odd = nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 9)
        self.tied, self.unused, self.frozen, self.last = (
            nn.Linear(9, 9),
            nn.Linear(5, 5),
            nn.Linear(9, 9),
            nn.Linear(9, 3),
        )
        self.tied.weight = self.even.weight
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor, branch: int) -> dict[str, list[Tensor]]:
        """Outputs in a form of its own."""
        x = (self.odd if branch % 2 else self.even)(self.first(x).tanh()).tanh()
        return {"out": [self.last(self.frozen(self.tied(x)))]}


def loss_of(network: Any, number: int, rank: int) -> Tensor:
    """Of a rank's own batch, through its own branch."""
    generator = torch.Generator().manual_seed(10 * number + rank)
    outputs = network(torch.randn(4, 6, generator=generator), number + rank)
    loss: Tensor = outputs["out"][0].square().mean()
    return loss


def expected(rank: int, world: int, micro: int) -> dict[str, Tensor]:
    """Gradients of a step, averaged after it."""
    net = Net()
    for number in range(micro):
        (loss_of(net, number, rank) / micro).backward()
    found = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            whole = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(whole)
            found[name] = whole / world
    return found


def engine_of(**settings: Any) -> Engine:
    """Of that network, under plain SGD."""
    placed = EngineSettings.model_validate({"zero": 0, **settings})
    return Engine(Net(), set(), set(), Optimizer(name="sgd", momentum=0.0), "fp32", placed)


def averaged(micro: int, room: int) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """One of two ranks: what is expected of a step's gradients, what they are, and into how many buckets they went."""
    join(threads=1)
    reduction.FIRST = reduction.OTHERS = room
    rank, world = dist.get_rank(), dist.get_world_size()
    engine = engine_of(accumulate=micro)
    assert engine.reduction is not None
    for number in range(micro):
        engine.backward(loss_of(engine.forward, number, rank))
        if number < micro - 1:
            engine.step(0.1)
    found = {name: one.grad.clone() for name, one in engine.parameters.items() if one.grad is not None}
    assert engine.step(0.1)
    assert all(one.grad is None for one in engine.parameters.values())
    buckets = len(engine.reduction.buckets)
    engine.close()
    return expected(rank, world, micro), found, buckets


def again() -> tuple[list[Tensor], list[Tensor]]:
    """One of two ranks: gradients of two passes of one step, the first taken away between them, and their averages."""
    join(threads=1)
    rank = dist.get_rank()
    engine, own = engine_of(), Net()
    found, wanted = [], []
    for number in range(2):
        engine.backward(loss_of(engine.forward, number, rank))
        loss_of(own, number, rank).backward()
        grads = [engine.parameters["first.weight"].grad, own.first.weight.grad]
        assert grads[0] is not None
        assert grads[1] is not None
        found.append(grads[0].clone())
        dist.all_reduce(grads[1])
        wanted.append(grads[1] / 2)
        engine.engine.zero_grad()
        own.zero_grad()
    engine.close()
    return wanted, found


def twice() -> str:
    """One of two ranks: what is said of a layer whose gradient comes in two parts."""
    join(threads=1)
    engine = Engine(Net(), set(), set(), Optimizer(name="sgd"), "fp32", EngineSettings(zero=0))
    x = torch.randn(4, 6, requires_grad=True)

    def layer(x: Tensor) -> Tensor:
        return engine.module.first(x)[:, :6]  # type: ignore[no-any-return, operator]

    reduction.FIRST = 1
    engine.reduction = reduction.Reduction([engine.module.first.weight])  # type: ignore[list-item, union-attr]
    for _ in range(2):
        x = checkpoint(layer, x, use_reentrant=True)
    with pytest.raises(reduction.Twice) as error:
        engine.backward(x.sum())
    engine.close()
    return str(error.value)


CASES = [(1, 1 << 20, 1), (1, 1, 11), (2, 300, 4)]
"""Micro-batches, bytes of a bucket, how many buckets there are."""


def work() -> tuple[list[tuple[dict[str, Tensor], dict[str, Tensor], int]], tuple[list[Tensor], list[Tensor]], str]:
    """All of the above on one of two ranks."""
    return [averaged(micro, room) for micro, room, _ in CASES], again(), twice()


@pytest.mark.slow
def test_gradients_are_averaged_to_the_bit() -> None:
    """Also of layers that other ranks, or none, had a use for, of tied ones, in how many buckets ever, and of two
    passes in one step. A layer that is differentiated twice in one pass is refused in words."""
    for cases, (wanted, found), said in on_ranks(2, work):
        for (gradients, own, count), (*_, buckets) in zip(cases, CASES, strict=True):
            assert count == buckets
            assert own.keys() == gradients.keys()
            assert all(torch.equal(own[name], value) for name, value in gradients.items())
            assert not own["unused.weight"].any()
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
        assert "came twice in one backward pass" in said
        assert "use_reentrant=False" in said
