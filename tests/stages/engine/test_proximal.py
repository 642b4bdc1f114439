"""The proximal wrapper: its penalty is that of the loss, its zeros stay zero, and priming it does nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dualprune.stages.engine.proximal as optimizer_module
from dualprune.stages.engine.proximal import ProximalOptimizer
from dualprune.stages.engine.state import MASK, STATE

Make = Callable[[list], torch.optim.Optimizer]
INNER: dict[str, Make] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, foreach=True),
    "plain sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, foreach=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, foreach=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, foreach=True),
}


@pytest.fixture(params=[4, optimizer_module.PORTION], autouse=True)
def _portion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are worked on in several portions, and in one."""
    monkeypatch.setattr(optimizer_module, "PORTION", request.param)


def groups(penalised: list[Tensor], masked: list[Tensor], others: list[Tensor], decay: float = 0.01) -> list[dict]:
    """Parameter groups with the flags that the wrapper reads."""

    def group(params: list[Tensor], is_penalised: bool, is_masked: bool) -> dict[str, Any]:
        flags = {"penalised": is_penalised, "masked": is_masked, "valued": False}
        return {"params": params, "weight_decay": decay} | flags

    return [group(penalised, True, True), group(masked, False, True), group(others, False, False)]


def parameters(seed: int = 0) -> list[Tensor]:
    """Three parameters of different shapes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator).requires_grad_() for s in ((4, 3), (5,), (2, 2, 2))]


def loss(params: list[Tensor], number: int) -> Tensor:
    """A function of all parameters that changes from step to step and is no quadratic."""
    generator = torch.Generator().manual_seed(100 + number)
    return sum((p * torch.randn(p.shape, generator=generator)).sin().sum() + p.pow(4).mean() for p in params)


def step_alike(*pairs: tuple[list[Tensor], torch.optim.Optimizer]) -> None:
    """Five steps of each optimizer on its own copy of the parameters: the same bits after each."""
    for number in range(5):
        for params, optimizer in pairs:
            optimizer.zero_grad()
            loss(params, number).backward()
            optimizer.step()
        first, *others = (params for params, _ in pairs)
        assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def wrapped(params: list[Tensor], make: Make, decay: float = 0.01) -> ProximalOptimizer:
    """A primed wrapper: the first parameter penalised, the second only masked, the third free."""
    optimizer = ProximalOptimizer(groups(params[:1], params[1:2], params[2:], decay), make)
    optimizer.prime()
    return optimizer


@pytest.mark.parametrize("name", INNER)
def test_the_penalty_is_that_of_an_explicit_term_in_the_loss(name: str) -> None:
    mine, theirs = parameters(), parameters()
    optimizer = wrapped(mine, INNER[name])
    reference = INNER[name]([{"params": theirs, "weight_decay": 0.01}])
    target = torch.randn(4, 3, generator=torch.Generator().manual_seed(9))
    optimizer.state[mine[0]]["target"].copy_(target)
    for number in range(12):
        rho = 0.3 * 1.3 ** (number // 4)
        optimizer.rho = rho
        optimizer.zero_grad()
        loss(mine, number).backward()
        optimizer.step()
        reference.zero_grad()
        (loss(theirs, number) + rho / 2 * (theirs[0] - target).square().sum()).backward()
        reference.step()
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(optimizer.state[mine[0]]["target"], target, rtol=0, atol=0)


def test_only_penalised_groups_are_pulled() -> None:
    params = parameters()
    optimizer = wrapped(params, lambda g: torch.optim.SGD(g, lr=0.1, foreach=True))
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    before = [p.detach().clone() for p in params]
    assert "target" not in optimizer.state[params[1]]
    optimizer.rho = 0.5
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(params[1].detach(), before[1])
    assert torch.equal(params[2].detach(), before[2])


@pytest.mark.parametrize("name", INNER)
def test_what_is_free_under_masks_decays_as_without(name: str) -> None:
    """To the bit, whichever way the inner optimizer decays weights."""
    mine, theirs = parameters(), parameters()
    optimizer, reference = wrapped(mine, INNER[name]), INNER[name]([{"params": theirs, "weight_decay": 0.01}])
    mask = torch.rand(mine[0].shape, generator=torch.Generator().manual_seed(1)).lt(0.5).float()
    for p, own in zip(mine[:2], (mask, torch.ones_like(mine[1])), strict=True):
        optimizer.state[p]["marks"].copy_(own * MASK)
    optimizer.masking = True
    for number in range(6):
        for params, each in ((mine, optimizer), (theirs, reference)):
            for seed, p in enumerate(params):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * number + seed))
            each.step()
        assert torch.equal(mine[0][mask == 1], theirs[0][mask == 1])
        assert torch.equal(mine[1], theirs[1])
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01] * 3


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_what_is_frozen_stays_to_the_bit(name: str, decay: float) -> None:
    """At zero or elsewhere, though weights decay and the penalty pulls elsewhere; the rest moves."""
    params = parameters()
    optimizer = wrapped(params, INNER[name], decay)
    for number in range(3):
        optimizer.zero_grad()
        loss(params, number).backward()
        optimizer.step()
    masks = [
        torch.rand(p.shape, generator=torch.Generator().manual_seed(i)).lt(0.5).float() for i, p in enumerate(params)
    ]
    params[0].data.mul_(masks[0])
    for p, mask in zip(params[:2], masks, strict=False):
        optimizer.state[p]["marks"].copy_(mask * MASK)
    optimizer.state[params[0]]["target"].fill_(3.0)
    optimizer.rho, optimizer.masking = 0.5, True
    optimizer.reset_inner()
    for number in range(3, 10):
        optimizer.zero_grad()
        loss(params, number).backward()
        before = [p.detach().clone() for p in params]
        optimizer.step()
        for p, was, mask in zip(params[:2], before, masks, strict=False):
            assert torch.equal(p == was, mask == 0)
        assert all(not torch.equal(p, b) for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize("name", INNER)
def test_priming_moves_nothing_and_leaves_no_trace(name: str) -> None:
    """After it, a run of steps equals that of the bare inner optimizer, to the bit."""
    mine, theirs = parameters(), parameters()
    start = [p.detach().clone() for p in mine]
    grads = [torch.full_like(p, 7.0) for p in mine]
    for p, grad in zip(mine, grads, strict=True):
        p.grad = grad
    optimizer = wrapped(mine, INNER[name])
    for p, was, grad in zip(mine, start, grads, strict=True):
        assert torch.equal(p, was)
        assert p.grad is grad
    assert [group["lr"] for group in optimizer.param_groups] == [optimizer.defaults["lr"]] * 3
    for p, keys in ((mine[0], ("target", "marks")), (mine[1], ("marks",))):
        found = {key: value for key, value in optimizer.state[p].items() if key in STATE}
        assert tuple(found) == keys[::-1] if len(keys) > 1 else tuple(found) == keys
        assert all(value.shape == p.shape and not value.any() for value in found.values())
    assert not set(STATE) & set(optimizer.state[mine[2]])
    reference = INNER[name]([{"params": theirs, "weight_decay": 0.01}])
    step_alike((mine, optimizer), (theirs, reference))


@pytest.mark.parametrize("name", INNER)
def test_reset_forgets_momentum_and_step_counts_but_not_admm(name: str) -> None:
    """After a reset, steps are those of a new optimizer from the same place."""
    mine = parameters()
    optimizer = wrapped(mine, INNER[name])
    for number in range(3):
        optimizer.zero_grad()
        loss(mine, number).backward()
        optimizer.step()
    for key in ("target", "marks"):
        optimizer.state[mine[0]][key].fill_(2.0)
    optimizer.reset_inner()
    assert all(bool((optimizer.state[mine[0]][key] == 2.0).all()) for key in ("target", "marks"))
    theirs = [p.detach().clone().requires_grad_() for p in mine]
    reference = INNER[name]([{"params": theirs, "weight_decay": 0.01}])
    step_alike((mine, optimizer), (theirs, reference))


@pytest.mark.parametrize("name", INNER)
def test_members_of_a_cluster_move_as_one(name: str) -> None:
    """By their mean gradient, the projection onto what may move: as a model whose parameters are the values."""
    mine = parameters()
    optimizer = wrapped(mine, INNER[name], decay=0.0)
    codes = torch.tensor([[0, 1, 2], [2, 2, 1], [3, 0, 3], [1, 3, 3]])
    values = torch.tensor([0.0, -0.5, 0.25, 1.5])
    mine[0].data.copy_(values[codes])
    optimizer.state[mine[0]]["target"].copy_(codes)
    optimizer.state[mine[1]]["marks"].fill_(MASK)
    optimizer.masking, optimizer.tied = True, 3
    shared = values[1:].clone().requires_grad_()
    free = mine[2].detach().clone().requires_grad_()
    reference = INNER[name]([{"params": [shared, free], "weight_decay": 0.0}])
    counts = torch.bincount(codes.flatten(), minlength=4)[1:]
    for number in range(6):
        for params in ([*mine], [torch.cat([torch.zeros(1), shared])[codes], mine[1].detach(), free]):
            each = optimizer if params[0] is mine[0] else reference
            each.zero_grad()
            loss(params, number).backward()
            if each is reference:
                shared.grad /= counts
            each.step()
        assert torch.equal(mine[0][codes == 0], torch.zeros(2))
        for code in (1, 2, 3):
            members = mine[0][codes == code]
            assert bool((members == members[0]).all())
            torch.testing.assert_close(members[0], shared[code - 1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mine[2], free, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", INNER)
def test_what_is_only_masked_is_in_no_cluster(name: str) -> None:
    """While values are shared, tensors under a parent's mask alone train entry by entry."""
    shared, alone = parameters(), parameters()
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    for params, tied in ((shared, 2), (alone, 0)):
        optimizer = wrapped(params, INNER[name])
        optimizer.state[params[0]]["target"].copy_((torch.arange(12) % 2 + 1).view(4, 3) if tied else torch.zeros(4, 3))
        optimizer.state[params[1]]["marks"].copy_(mask * MASK)
        params[1].data.mul_(mask)
        optimizer.masking, optimizer.tied = True, tied
        for number in range(3):
            optimizer.zero_grad()
            (loss(params[1:], number) + 0 * params[0].sum()).backward()
            optimizer.step()
    assert torch.equal(shared[1], alone[1])


@pytest.mark.parametrize("name", INNER)
def test_a_loaded_state_goes_on_with_the_same_bits(name: str) -> None:
    """Momentum, ADMM's state and what the wrapper does with it, in another wrapper of the same parameters."""
    mine, theirs = parameters(), parameters(seed=1)
    optimizer, other = wrapped(mine, INNER[name]), wrapped(theirs, INNER[name])
    optimizer.rho, optimizer.masking = 0.5, True
    for number, (p, key) in enumerate([(mine[0], "target"), (mine[0], "marks"), (mine[1], "marks")]):
        optimizer.state[p][key].copy_(torch.arange(p.numel()).view(p.shape) % (2 + number))
    for params, each, start in ((mine, optimizer, 0), (theirs, other, 3)):
        each.zero_grad()
        loss(params, start).backward()
        each.step()
    for p, value in zip(theirs, mine, strict=True):
        p.data.copy_(value.data)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step_alike((mine, optimizer), (theirs, other))
    for p, q in zip(mine, theirs, strict=True):
        for key, value in optimizer.state[p].items():
            torch.testing.assert_close(other.state[q][key], value, rtol=0, atol=0)
    assert (other.rho, other.masking, other.tied) == (0.5, True, 0)
    with pytest.raises(KeyError, match="rho"):
        other.load_state_dict(optimizer.inner.state_dict())


def test_a_large_cluster_loses_no_gradient() -> None:
    """A sum in fp32 stops taking ones at 2^24, as the count of its members would."""
    params = parameters()
    optimizer = wrapped(params, lambda g: torch.optim.SGD(g, lr=1.0, foreach=True), decay=0.0)
    params[0].data.zero_()
    optimizer.state[params[0]]["target"].fill_(1.0)
    optimizer.masking, optimizer.tied = True, 1
    params[0].grad = torch.ones(4, 3)
    params[0].grad[0, 0], params[0].grad[-1, -1] = 2.0**24, -(2.0**24)
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), torch.full((4, 3), -10 / 12))


def test_parameters_without_gradient_stay() -> None:
    params = parameters()
    optimizer = wrapped(params, INNER["sgd"])
    before = params[0].detach().clone()
    optimizer.rho, optimizer.masking = 1.0, False
    for p in params:
        p.grad = None
    optimizer.step()
    assert torch.equal(params[0], before)
