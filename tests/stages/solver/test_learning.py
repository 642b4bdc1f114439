"""Scores and thresholds: gradients against a network that is masked by hand, the penalty against its formula."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dualprune.stages.coupling.cut import cut
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.veil import veil
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.settings.sets import Block, Head, Structured
from dualprune.stages.solver.coupled import shares
from dualprune.stages.solver.learning import Learned, penalty
from dualprune.stages.solver.scoring import Scored, groups
from tests.stages.conftest import MakeEngine
from tests.stages.kinds.test_scores import HEADS, WIDTH, Transformer

X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
SETTINGS = [
    Head(set="head", tensors=["q.weight", "k.weight", "v.weight"], coupled=True, keep=1.0),
    Structured(set="filter", tensors="first.weight", coupled=True, keep=1.0),
    Structured(set="row", tensors=["out.weight", "second.weight"], keep=1.0),
]
COUNTS = [2, 20, 9, 30]


def learned(lr: float = 0.01) -> tuple[Transformer, Learned]:
    """A network, and scores and thresholds of its heads, filters and rows that say `COUNTS`."""
    torch.manual_seed(0)
    network = Transformer(3)
    there, whole = parameters(network), cut(network, (X,), {})
    of = groups(SETTINGS, [share for one in SETTINGS[:2] for share in shares(one, whole, there)], there)
    layers = {
        name: float(one.shape.numel())
        for name, one in there.items()
        if name.partition(".")[0] in ("q", "k", "v", "out", "first", "second") and one.constrainable
    }
    found = Learned(
        Scored(of, sum(layers.values()), layers, [0.0] * len(of), [np.zeros(0, np.int64)] * len(of)),
        lr,
        torch.device("cpu"),
    )
    numbers = torch.randn(len(found.numbers), generator=torch.Generator().manual_seed(1))
    for place, (group, count) in enumerate(zip(of, COUNTS, strict=True), len(numbers) - len(of)):
        share = (count - 0.5) / group.size
        numbers[place] = math.log(share / (1 - share))
    found.numbers.copy_(numbers)
    found.restore(found.said())
    return network, found


def masked(network: Transformer, masks: list[Tensor]) -> dict[str, Tensor]:
    """Its parameters times masks of heads, filters and rows, as MLPruning has them."""
    heads, first, out, second = masks
    over = {"first": first, "out": out, "second": second}
    over |= dict.fromkeys("qkv", heads.repeat_interleave(WIDTH))
    found = dict(network.named_parameters())
    for name, mask in over.items():
        found[f"{name}.weight"] = found[f"{name}.weight"] * mask[:, None]
        found[f"{name}.bias"] = found[f"{name}.bias"] * mask
    return found


def test_straight_through_gradients_are_those_of_a_network_masked_by_hand(make_engine: MakeEngine) -> None:
    """Of two micro-batches together, for units that stay and those that don't; weights get theirs through the mask."""
    network, found = learned()
    assert [int(mask.sum()) for mask in found.masks] == COUNTS
    by_hand = [mask.detach().clone().requires_grad_() for mask in found.masks]
    loss = F.cross_entropy(functional_call(network, masked(network, by_hand), (X,)), Y, reduction="sum")
    wanted = torch.autograd.grad(loss, [*by_hand, network.first.weight, network.q.bias])
    engine: Engine = make_engine(network, set(), set())
    found.show(engine)
    for x, y in zip(X.chunk(2), Y.chunk(2), strict=True):
        engine.backward(F.cross_entropy(engine.forward(x), y, reduction="sum"))
    for mask, one in zip(found.masks, wanted, strict=False):
        assert mask.grad is not None
        assert torch.allclose(mask.grad, one, atol=1e-5)
    slopes, kept = [one.clone() for one in wanted[:4]], [mask.detach().clone() for mask in found.masks]
    before = found.numbers.clone()
    found.step(1, 0.999, 1.0)
    assert found.numbers.grad is not None
    *scores, thresholds = found.numbers.grad.split([HEADS, 64, 32, 32, 4])
    for mine, slope, mask, threshold in zip(scores, slopes, kept, thresholds, strict=True):
        assert torch.allclose(mine, slope, atol=1e-5)
        assert float(threshold) == pytest.approx(float((slope * mask).sum()), abs=1e-4)
    moved = (found.numbers - before)[found.numbers.grad.abs() > 1e-4]
    assert torch.allclose(moved.abs(), torch.tensor(0.01), atol=1e-4)
    assert all(mask.grad is None for mask in found.masks)


def test_heads_of_fused_projections_go_with_their_queries_keys_and_values() -> None:
    """Of torch's own attention: rows of one tensor and its bias."""
    torch.manual_seed(0)
    network, x = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True).eval(), torch.randn(2, 5, 16)
    there, whole = parameters(network), cut(network, (x,), {})
    settings = Head(set="head", tensors="*in_proj*", coupled=True, keep=1.0)
    (group,) = groups([settings], shares(settings, whole, there), there)
    assert {one.name for one in group.laid} == {"self_attn.in_proj_weight", "self_attn.in_proj_bias"}
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    veil(network, {one.name: partial(one.factor, mask) for one in group.laid})
    found = network(x)
    veil(network, {})
    with torch.no_grad():
        for tensor in (network.self_attn.in_proj_weight, network.self_attn.in_proj_bias):
            tensor.view(3, 4, 4, -1)[:, 1] = 0
    assert torch.allclose(found, network(x), atol=1e-6)


def test_what_is_left_is_the_published_product() -> None:
    """3 a + a o + f1 + f1 f2 of each block's layers, of as many weights each; and its slope is that of differences."""
    _, found = learned()
    a, f1, o, f2 = torch.sigmoid(found.thresholds.double())
    d, wide = 32 * 32, 32 * 64
    published = (d * (3 * a + a * o) + wide * (f1 + f1 * f2)) / (4 * d + 2 * wide)
    at = found.thresholds.double().requires_grad_()
    rest = found.of.rest(found.of.shares(at))
    assert float(rest.detach()) == pytest.approx(float(published))
    penalty(rest, 0.2, 0.0).backward()
    assert at.grad is not None
    for number in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[number] = 1e-6
        up, down = (float(found.of.rest(found.of.shares(at.detach() + sign * step))) for sign in (1, -1))
        slope = 50 * 2 * (float(rest.detach()) - 0.2) * (up - down) / 2e-6
        assert float(at.grad[number]) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(
    ("rest", "weight", "factor"),
    [(1.0, 20000.0, 20000.0), (0.75, 20000.0, 5000.0), (0.75, 100.0, 50.0), (0.51, 20000.0, 10.0), (0.4, 1.0, 10.0)],
)
def test_the_penalty_has_its_adaptive_weight(rest: float, weight: float, factor: float) -> None:
    """Full where nothing is pruned, less near the budget; below it the penalty is zero."""
    found = penalty(torch.tensor(rest, dtype=torch.float64), 0.5, weight)
    assert float(found) == pytest.approx(factor * max(0.0, rest - 0.5) ** 2)


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.9])
def test_a_budget_is_used_up(budget: float) -> None:
    """From thresholds that leave less or more: what stays fits, and is close to it."""
    _, found = learned()
    counts = found.of.within(found.thresholds, budget)
    assert budget - 0.01 < found.of.cost(counts) <= budget
    assert [int(mask.sum()) for mask in found.kept(counts)] == counts


def test_tiles_have_the_gradients_of_their_entries() -> None:
    """Of a convolution's too, in its matrix form."""
    network = nn.Conv2d(4, 6, 2)
    there = parameters(network)
    (group,) = groups([Block(set="block", tensors="weight", p=3, q=8, keep=1.0)], (), there)
    mask = torch.ones(group.size, requires_grad=True)
    (over,) = group.laid
    values = torch.randn(network.weight.shape)
    (over.factor(mask) * values).sum().backward()
    assert mask.grad is not None
    assert torch.allclose(mask.grad.view(2, 2), values.view(2, 3, 2, 8).sum((1, 3)))
