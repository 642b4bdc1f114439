"""Steps by gradients of other points, under every ZeRO stage, on one rank and on two: as computed by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.engine.zero import deepspeed
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Optimizer, Sam
from dualprune.stages.solver import admm
from dualprune.stages.solver.budget import Budget
from dualprune.stages.solver.targets import Targets
from tests.ranks import on_ranks
from tests.stages.conftest import PLACES, MakeEngine
from tests.stages.engine.test_zero import NAMES, net, steps, wide

SAMPLES, LR = 24, 0.3
WAYS: dict[str, dict[str, Any]] = {
    "sam": {"sam": Sam(radius=0.4)},
    "adaptive": {"sam": Sam(radius=0.4, adaptive=True)},
    "sg": {"halved": True},
    "both": {"sam": Sam(radius=0.4), "halved": True},
    "masked": {"sam": Sam(radius=0.4), "masks": True},
}
CASES = [
    (way, (0.0, 0.05)[n % 2], zero, offload, (1, 2)[n // 2 % 2])
    for n, (way, (zero, offload)) in enumerate(itertools.product(WAYS, PLACES))
]
"""Way, clip, ZeRO stage, whether offloaded, micro-batches."""
PLAIN = {"name": "sgd", "momentum": 0.0}
Batch = tuple[Tensor, Tensor]


def batch(number: int) -> Batch:
    """That only its number decides."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(SAMPLES, 9, generator=generator), torch.randint(0, 3, (SAMPLES,), generator=generator)


def passed(engine: Engine, given: Batch, close: Any) -> None:
    """One pass over a rank's micro-batches, as training has it."""
    rank, world, device = dist.get_rank(), dist.get_world_size(), engine.engine.device
    own = slice(rank * SAMPLES // world, (rank + 1) * SAMPLES // world)
    for x, y in zip(*(one[own].to(device).chunk(engine.accumulate) for one in given), strict=True):
        loss = nn.functional.cross_entropy(engine.forward(x).float(), y, reduction="sum")
        engine.backward(loss * (world * engine.accumulate / SAMPLES))
        assert close(), (engine.settings, engine.clip, engine.not_finite())


def mask_of(shape: torch.Size) -> Tensor:
    """Every third entry is frozen."""
    return (torch.arange(shape.numel()) % 3 != 0).float().view(shape)


def trained(engine: Engine, way: str, count: int = 3) -> dict[str, Tensor]:
    """Weights after some steps; what is projected is half of each weight."""
    sam, halved, masks = (WAYS[way].get(name) for name in ("sam", "halved", "masks"))
    for name in sorted(engine.masked):
        engine.set(name, mask_of(engine.shape(name)) if masks else torch.ones(engine.shape(name)), "mask")
        engine.set(name, engine.get(name) * engine.get(name, "mask"))
    engine.optimizer.masking = bool(masks)
    for number in range(count):
        if halved:
            engine.leave()
            for name in NAMES:
                engine.set(name, engine.get(name) / 2)
            in_step(engine)
            passed(engine, batch(number), engine.keep)
        if sam:
            passed(engine, batch(number), lambda: engine.ascend(sam))
        passed(engine, batch(number), lambda: engine.step(LR))
        in_step(engine)
    return {name: engine.get(name) for name in engine.parameters}


def in_step(engine: Engine) -> None:
    """What is read is what is stepped, of all ranks: to the bit."""
    for name, parameter in engine.parameters.items() if engine.zero else ():
        shared = deepspeed().utils.safe_get_full_fp32_param(parameter)
        assert torch.equal(engine.get(name), shared.view(engine.shape(name))), name


def gradient(network: nn.Module, at: dict[str, Tensor], given: Batch) -> dict[str, Tensor]:
    """Of the mean loss, at these weights."""
    leaves = {name: value.clone().requires_grad_() for name, value in at.items()}
    loss = nn.functional.cross_entropy(torch.func.functional_call(network, leaves, (given[0],)), given[1])
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def norm_of(tensors: dict[str, Tensor]) -> Tensor:
    """Of all together."""
    return torch.cat([one.flatten() for one in tensors.values()]).norm()


def by_hand(way: str, clip: float, count: int = 3) -> dict[str, Tensor]:
    """What `trained` is to find, written down as the papers have it."""
    sam, halved, masks = (WAYS[way].get(name) for name in ("sam", "halved", "masks"))
    network = net()
    w = {name: value.detach().clone() for name, value in network.named_parameters()}
    mask = {name: mask_of(w[name].shape) if masks and name in NAMES else torch.tensor(1.0) for name in w}
    w = {name: value * mask[name] for name, value in w.items()}
    for number in range(count):
        at, given = w, batch(number)
        if sam:
            g = {name: one * mask[name] for name, one in gradient(network, w, given).items()}
            t = {name: one.abs() if sam.adaptive else torch.ones_like(one) for name, one in w.items()}
            norm = norm_of({name: t[name] * g[name] for name in g})
            at = {name: w[name] + sam.radius * t[name] ** 2 * g[name] / norm for name in w}
        found = gradient(network, at, given)
        if halved:
            there = {name: one / 2 if name in NAMES else one for name, one in w.items()}
            found = {name: one + gradient(network, there, given)[name] for name, one in found.items()}
        factor = min(1.0, clip / float(norm_of(found) + 1e-6)) if clip else 1.0
        w = {name: w[name] - LR * factor * found[name] * mask[name] for name in w}
    return w


@pytest.mark.parametrize(("way", "clip", "zero", "offload", "accumulate"), CASES)
def test_steps_are_those_computed_by_hand(
    make_engine: MakeEngine, way: str, clip: float, zero: int, offload: bool, accumulate: int
) -> None:
    placed = {"zero": zero, "offload": offload, "accumulate": accumulate}
    engine = make_engine(net(), set(NAMES), optimizer=Optimizer.model_validate(PLAIN | {"clip": clip}), **placed)
    torch.testing.assert_close(trained(engine, way), by_hand(way, clip), rtol=1e-4, atol=1e-6)


def test_ways_differ() -> None:
    """So that the comparison above says something: from each other, from plain steps, and clipped from unclipped."""
    network = net()
    w = {name: value.detach().clone() for name, value in network.named_parameters()}
    for number in range(3):
        w = {name: w[name] - LR * g for name, g in gradient(network, w, batch(number)).items()}
    found = [w, *(by_hand(way, clip) for way in WAYS for clip in (0.0, 0.05))]
    for one, other in itertools.combinations(found, 2):
        assert float(norm_of({name: one[name] - other[name] for name in one})) > 1e-3


@pytest.mark.parametrize(("zero", "offload", "adaptive"), [(*place, sum(place) % 2 == 0) for place in PLACES])
def test_a_radius_of_zero_changes_no_bit(make_engine: MakeEngine, zero: int, offload: bool, adaptive: bool) -> None:
    """Of Adam's steps with weight decay and a penalty; nor does it leave anything behind for plain steps after it."""
    found = []
    for sam in (None, Sam(radius=0.0, adaptive=adaptive)):
        inner = Optimizer(name="adamw", weight_decay=0.1, clip=0.5)
        engine = make_engine(net(), set(NAMES), optimizer=inner, zero=zero, offload=offload)
        engine.optimizer.rho = 0.1
        for number in range(3):
            if sam is not None:
                passed(engine, batch(number), lambda: engine.ascend(sam))  # noqa: B023 - called at once
            passed(engine, batch(number), lambda: engine.step(0.01))  # noqa: B023
        steps(engine, 3, 2)
        found.append({name: engine.get(name) for name in engine.parameters})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("way", ["sam", "both"])
def test_bf16_steps_are_near(make_engine: MakeEngine, way: str) -> None:
    """Passes compute in bf16; weights and where they are put stay fp32."""
    for zero in (0, 2):
        engine = make_engine(net(), set(NAMES), optimizer=Optimizer.model_validate(PLAIN), precision="bf16", zero=zero)
        found, exact = trained(engine, way), by_hand(way, 0.0)
        far = norm_of({name: found[name] - exact[name] for name in exact}) / norm_of(exact)
        assert 1e-6 < float(far) < 0.01


@pytest.mark.parametrize(("zero", "offload"), [place for place in PLACES if place[0] in (1, 2)])
def test_a_projection_gathers_nothing_that_ranks_have_whole(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, zero: int, offload: bool
) -> None:
    """Neither to share out a budget, nor to project."""
    engine = make_engine(net(), set(NAMES), zero=zero, offload=offload)
    targets = Targets({}, (Budget(NAMES, 80, 5, "none"),), dict.fromkeys(NAMES, ("cardinality",)))
    admm.start(engine, targets, {})
    monkeypatch.setattr(deepspeed().utils, "safe_get_full_fp32_param", None)
    admm.put(engine, targets)
    assert sum(int(engine.get(name).count_nonzero()) for name in NAMES) == 80


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_gradient_that_is_not_finite_moves_nothing(make_engine: MakeEngine, zero: int) -> None:
    """What is told of it afterwards is told of the weights as they are."""
    engine = make_engine(net(), set(NAMES), optimizer=Optimizer.model_validate(PLAIN), zero=zero)
    before = {name: engine.get(name) for name in engine.parameters}
    x, _ = batch(0)
    engine.backward((engine.forward(x) * torch.nan).sum())
    assert not engine.ascend(Sam(radius=0.4))
    assert all(torch.equal(engine.get(name), value) for name, value in before.items())


def rank_main() -> dict[tuple[Any, ...], dict[str, Tensor]]:
    """One of two ranks: every other case, and one where a tensor is shared out between steps."""
    join(threads=1)
    found = {}
    for way, clip, zero, offload, accumulate in CASES[::2]:
        settings = EngineSettings.model_validate({"zero": zero, "offload": offload, "accumulate": accumulate})
        inner = Optimizer.model_validate(PLAIN | {"clip": clip})
        engine = Engine(net(), set(NAMES), set(), inner, "fp32", settings)
        found[way, clip, zero, offload, accumulate] = trained(engine, way)
        engine.close()
    for zero in (0, 3):
        engine = Engine(wide(), set(NAMES), set(), Optimizer.model_validate(PLAIN), "fp32", EngineSettings(zero=zero))
        found["wide", zero] = trained(engine, "both")
        engine.close()
    return found


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one() -> None:
    """The gradients of all passes are those of the whole batch; both ranks hold the same bits."""
    one, other = on_ranks(2, rank_main)
    for key, found in one.items():
        assert all(torch.equal(value, other[key][name]) for name, value in found.items()), key
        expected = one["wide", 0] if key[0] == "wide" else by_hand(*key[:2])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6, msg=lambda text, k=key: f"{k}: {text}")
