"""The solver under every ZeRO stage, on one rank and on two: the same W, Z, U and masks, and one penalty a step."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.clusters import Clusters
from dualprune.stages.constraints.groups import Groups, columns
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.engine.state import STATE
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Optimizer
from dualprune.stages.solver import admm
from dualprune.stages.solver import snapping as quantize
from dualprune.stages.solver.budget import Budget
from dualprune.stages.solver.targets import Targets
from tests.ranks import on_ranks
from tests.stages.conftest import PLACES, MakeEngine, held_to

NAMES = ("0.weight", "2.weight")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01},
    "adamw": {"name": "adamw", "weight_decay": 0.01},
}
TARGETS = {
    "tensor": held_to({"0.weight": Cardinality(40), "2.weight": Groups(7, columns)}),
    "global": Targets({}, (Budget(NAMES, 80, 5, "rms"),), dict.fromkeys(NAMES, ("cardinality",))),
}
WAYS = [
    (name, clip, scope)
    for name, clip, scope in itertools.product(OPTIMIZERS, (0.0, 0.5), TARGETS)
    if scope == "tensor" or clip == 0.5
]
"""Optimizer, clip, targets."""
ALONE, SHARED = (
    [
        (*way, *place, accumulate)
        for w, way in enumerate(WAYS)
        for p, place in enumerate(PLACES)
        for a, accumulate in enumerate((1, 2))
        if (w + p + a) % 2 == ranks - 1
    ]
    for ranks in (1, 2)
)
"""Optimizer, clip, targets, ZeRO stage, whether offloaded, micro-batches: every other one is for one rank, the rest for
two. Each way is carried out at each place by either, and so is each number of micro-batches."""
AGREEING = {"fp32": 0.999, "bf16": 0.99}
"""Of the entries of a large tensor, more than this share is that of fp32 on one rank."""
OFFLOADS = {0: "", 1: "cpu_offload", 2: "cpu_offload", 3: "offload_optimizer"}
"""What DeepSpeed's optimizer calls it that its state is on the host."""


def net() -> nn.Module:
    """Linear layers without batch statistics, which do see micro-batches; of odd sizes, so that shards are uneven."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 13), nn.Tanh(), nn.Linear(13, 7), nn.Tanh(), nn.Linear(7, 3))


def steps(engine: Engine, first: int, count: int, lr: float = 0.01, samples: int = 24) -> None:
    """Optimizer steps on batches that only their number decides, shared out as training does."""
    rank, world, device = dist.get_rank(), dist.get_world_size(), engine.engine.device
    for number in range(first, first + count):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(samples, 9, generator=generator).to(device)
        y = torch.randint(0, 3, (samples,), generator=generator).to(device)
        own = slice(rank * samples // world, (rank + 1) * samples // world)
        for part, labels in zip(x[own].chunk(engine.accumulate), y[own].chunk(engine.accumulate), strict=True):
            loss = nn.functional.cross_entropy(engine.forward(part).float(), labels, reduction="sum")
            # Four times the loss, so that gradients are large enough to be clipped.
            engine.backward(loss * (4 * world * engine.accumulate / samples))
            engine.step(lr)


def solve(engine: Engine, targets: Targets) -> dict[str, Tensor]:
    """W, Z - U, U after two updates with a growing rho, then the masks and W after some retraining."""
    admm.start(engine, targets, {})
    engine.optimizer.rho = 0.3
    found: dict[str, Tensor] = {}
    for number in range(2):
        steps(engine, 4 * number, 4)
        update = admm.update(engine, targets)
        admm.rescale(engine, targets, 1.5)
        engine.optimizer.rho *= 1.5
        found |= {f"kept{number}/{name}": torch.tensor(float(k)) for name, k in update.kept.items()}
        found[f"residual{number}"] = torch.tensor(update.residual.total)
    found |= {f"W/{name}": engine.get(name) for name in engine.parameters}
    for name in NAMES:
        found |= {f"Z/{name}": engine.get(name, "target") + engine.get(name, "dual")}
        found |= {f"U/{name}": engine.get(name, "dual")}
    for name in sorted(engine.masked):
        engine.set(name, torch.ones(engine.shape(name)), "mask")
    admm.project(engine, targets)
    found |= {f"mask/{name}": engine.get(name, "mask") for name in NAMES}
    engine.optimizer.rho, engine.optimizer.masking = 0.0, True
    engine.optimizer.reset_inner()
    steps(engine, 8, 3)
    return found | {f"retrained/{name}": engine.get(name) for name in engine.parameters}


def cluster(engine: Engine) -> dict[str, Tensor]:
    """W after values were shared and trained for some steps."""
    for name in sorted(engine.masked):
        engine.set(name, torch.ones(engine.shape(name)), "mask")
    values = quantize.fit(engine, held_to({name: Clusters(5) for name in NAMES}))
    engine.optimizer.tied = quantize.tie_values(engine, values)
    engine.optimizer.masking = True
    engine.optimizer.reset_inner()
    steps(engine, 0, 4)
    return {name: engine.get(name) for name in engine.parameters}


def optimizer(name: str, clip: float = 0.0) -> Optimizer:
    """One of OPTIMIZERS."""
    return Optimizer.model_validate(OPTIMIZERS[name] | {"clip": clip})


def same(got: dict[str, Tensor], expected: dict[str, Tensor], what: object) -> None:
    """Equal to float tolerance, masks and counts to the bit."""
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        if key.startswith(("mask", "kept")):
            assert torch.equal(got[key], value), (what, key)
        else:
            torch.testing.assert_close(got[key], value, rtol=1e-4, atol=2e-5, msg=lambda m, k=key: f"{what} {k}: {m}")


@pytest.fixture(scope="module")
def alone(one_rank: None) -> dict[tuple[str, float, str], dict[str, Tensor]]:
    """What one rank finds without ZeRO and without accumulation."""
    found = {}
    for name, clip, scope in WAYS:
        engine = Engine(net(), set(NAMES), set(), optimizer(name, clip), "fp32", EngineSettings(zero=0))
        found[name, clip, scope] = solve(engine, TARGETS[scope])
        engine.close()
    return found


@pytest.mark.parametrize(("name", "clip", "scope", "zero", "offload", "accumulate"), ALONE)
def test_one_rank(
    make_engine: MakeEngine,
    alone: dict,
    name: str,
    clip: float,
    scope: str,
    zero: int,
    offload: bool,
    accumulate: int,
) -> None:
    placed = {"zero": zero, "offload": offload, "accumulate": accumulate}
    engine = make_engine(net(), set(NAMES), optimizer=optimizer(name, clip), **placed)
    assert bool(getattr(engine.engine.optimizer, OFFLOADS[zero], False)) is offload
    found = solve(engine, TARGETS[scope])
    same(found, alone[name, clip, scope], placed)
    if scope == "global":
        assert sum(float(found[f"kept1/{n}"]) for n in NAMES) == 80
        assert sum(float(found[f"mask/{n}"].sum()) for n in NAMES) == 80
    for n in NAMES:
        assert torch.equal(found[f"retrained/{n}"] != 0, found[f"mask/{n}"] != 0)


def test_clipping_changes_what_is_found(alone: dict) -> None:
    """So that the comparison above says something."""
    assert not torch.allclose(alone["sgd", 0.0, "tensor"]["W/0.weight"], alone["sgd", 0.5, "tensor"]["W/0.weight"])


@pytest.mark.parametrize(("zero", "offload"), PLACES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_penalty_counts_once_a_step(make_engine: MakeEngine, zero: int, offload: bool, accumulate: int) -> None:
    """W moves by lr rho (W - target) at a loss without gradient, whatever the accumulation and the clipping."""
    plain = Optimizer(name="sgd", momentum=0.0, clip=0.1)
    engine = make_engine(net(), set(NAMES), optimizer=plain, zero=zero, offload=offload, accumulate=accumulate)
    before = {name: engine.get(name) for name in NAMES}
    for name in NAMES:
        engine.set(name, before[name] - 1.0, "target")
    engine.optimizer.rho = 2.0
    for _ in range(accumulate):
        engine.backward(engine.forward(torch.zeros(2, 9)).sum() * 0.0)
        engine.step(0.1)
    for name in NAMES:
        torch.testing.assert_close(engine.get(name), before[name] - 0.2, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("zero", "offload"), PLACES)
def test_bf16_finds_nearly_the_same_masks(make_engine: MakeEngine, zero: int, offload: bool) -> None:
    """More than 99 % of entries; W, Z and U stay in fp32."""
    masks = []
    for precision in ("fp32", "bf16"):
        placed = {"precision": precision, "zero": zero, "offload": offload}
        found = solve_wide(make_engine(wide(), set(NAMES), optimizer=optimizer("sgd"), **placed))
        masks.append({name: found[f"mask/{name}"] for name in NAMES})
        w, u = found["W/2.weight"], found["U/2.weight"]
        for exact in (w, u):
            assert exact.dtype == torch.float32
            assert not torch.equal(exact, exact.bfloat16().float())
    for name in NAMES:
        assert agreeing(masks[0][name], masks[1][name]) > 0.99
        assert agreeing(masks[0][name], found[f"untrained/{name}"]) < 0.95, "the masks say nothing of training"


def wide() -> nn.Module:
    """Weights enough for a hundredth to mean something, and for ZeRO 3 to share out one tensor between steps.

    It leaves tensors of up to 100,000 weights whole on each rank.
    """
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 401), nn.Tanh(), nn.Linear(401, 251), nn.Tanh(), nn.Linear(251, 3))


def solve_wide(engine: Engine) -> dict[str, Tensor]:
    """The same as `solve` of a `wide` network that was trained first, and what its masks would have been untrained."""
    if engine.zero == 3:
        assert [name for name, tensor in engine.parameters.items() if not tensor.ds_persist] == ["2.weight"]
    sets = {"0.weight": Cardinality(360), "2.weight": Cardinality(10_000)}
    untrained = {f"untrained/{name}": sets[name].mask(sets[name].project(engine.get(name))) for name in NAMES}
    steps(engine, 100, 15, lr=0.1)
    return solve(engine, held_to(sets)) | untrained


@pytest.mark.parametrize("offload", [False, True])
def test_a_tensor_that_ranks_share_between_steps(make_engine: MakeEngine, offload: bool) -> None:
    exact = solve_wide(make_engine(wide(), set(NAMES), optimizer=optimizer("sgd"), zero=0))
    found = solve_wide(make_engine(wide(), set(NAMES), optimizer=optimizer("sgd"), zero=3, offload=offload))
    nearly_same(found, exact)


def agreeing(one: Tensor, other: Tensor) -> float:
    """The share of entries that two masks agree on."""
    return float((one == other).float().mean())


def nearly_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """What `solve_wide` found, but for the few entries beside a threshold that rounding takes to its other side."""
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        near = torch.isclose(got[key], value, rtol=1e-4, atol=2e-5).float().mean()
        assert near > AGREEING["fp32"], (key, float(near))


@pytest.mark.parametrize(("zero", "offload"), PLACES)
def test_shared_values_train_alike(make_engine: MakeEngine, zero: int, offload: bool) -> None:
    """Under every ZeRO stage; each tensor keeps its number of values."""
    expected = cluster(make_engine(net(), set(NAMES), optimizer=optimizer("adamw"), zero=0))
    got = cluster(make_engine(net(), set(NAMES), optimizer=optimizer("adamw"), zero=zero, offload=offload))
    same(got, expected, zero)
    for name in NAMES:
        assert len(torch.unique(got[name])) == 5


def rank_main(folder: str) -> None:
    """One of two ranks: one combination after another; both write what they found."""
    rank = dist.get_rank()
    join(threads=1)
    for name, clip, scope, zero, offload, accumulate in SHARED:
        placed = EngineSettings.model_validate({"zero": zero, "offload": offload, "accumulate": accumulate})
        engine = Engine(net(), set(NAMES), set(), optimizer(name, clip), "fp32", placed)
        found = {key: value.contiguous() for key, value in solve(engine, TARGETS[scope]).items()}
        safetensors.torch.save_file(found, f"{folder}/{name}-{clip}-{scope}-{zero}-{offload}-{accumulate}-{rank}")
        engine.close()
    for zero, offload in PLACES:
        placed = EngineSettings.model_validate({"zero": zero, "offload": offload})
        engine = Engine(net(), set(NAMES), set(), optimizer("adamw"), "fp32", placed)
        safetensors.torch.save_file(cluster(engine), f"{folder}/clusters-{zero}-{offload}-{rank}")
        engine.close()
        for precision in AGREEING:
            engine = Engine(wide(), set(NAMES), set(), optimizer("sgd"), precision, placed)
            found = {key: value.contiguous() for key, value in solve_wide(engine).items()}
            safetensors.torch.save_file(found, f"{folder}/{precision}-{zero}-{offload}-{rank}")
            states = engine.optimizer.state.values()
            held = sum(state[name].nbytes for state in states for name in STATE if name in state)
            Path(folder, f"held-{zero}-{offload}-{rank}").write_text(str(held))
            engine.close()


@pytest.mark.slow
def test_two_ranks(tmp_path: Path, alone: dict, make_engine: MakeEngine) -> None:
    """The rest of the above on two gloo ranks; both hold the same bits, and half of ADMM's state each under ZeRO."""
    on_ranks(2, rank_main, str(tmp_path))

    def found(stem: str) -> dict[str, Tensor]:
        one, other = (safetensors.torch.load_file(f"{tmp_path}/{stem}-{rank}") for rank in (0, 1))
        for key, value in one.items():
            assert torch.equal(value, other[key]), (stem, key)
        return one

    for name, clip, scope, zero, offload, accumulate in SHARED:
        stem = f"{name}-{clip}-{scope}-{zero}-{offload}-{accumulate}"
        same(found(stem), alone[name, clip, scope], stem)
    expected = cluster(make_engine(net(), set(NAMES), optimizer=optimizer("adamw"), zero=0))
    for zero, offload in PLACES:
        got = found(f"clusters-{zero}-{offload}")
        same(got, expected, f"clusters-{zero}-{offload}")
        assert all(len(torch.unique(got[name])) == 5 for name in NAMES)
    exact = solve_wide(make_engine(wide(), set(NAMES), optimizer=optimizer("sgd"), zero=0))
    for zero, offload in PLACES:
        for precision, share in AGREEING.items():
            got = found(f"{precision}-{zero}-{offload}")
            assert all(agreeing(got[f"mask/{name}"], exact[f"mask/{name}"]) > share for name in NAMES), (zero, offload)
        nearly_same(found(f"fp32-{zero}-{offload}"), exact)
        held = [int(Path(tmp_path, f"held-{zero}-{offload}-{rank}").read_text()) for rank in (0, 1)]
        whole = 5 * sum(exact[f"W/{name}"].numel() for name in NAMES)
        assert max(held) <= whole * (1 if zero == 0 else 0.51), (zero, offload)
        assert sum(held) >= whole


def reduced(precision: str) -> dict[int, dict[str, Tensor]]:
    """One of two ranks: each ZeRO stage's gradient after one step, as plain SGD moves the weights by it."""
    join(threads=1)
    found = {}
    for zero in (0, 1, 2, 3):
        placed = EngineSettings.model_validate({"zero": zero})
        engine = Engine(net(), set(), set(), Optimizer(name="sgd", momentum=0.0), precision, placed)
        before = {name: engine.get(name) for name in engine.parameters}
        steps(engine, 0, 1, lr=1.0)
        found[zero] = {name: before[name] - engine.get(name) for name in engine.parameters}
        engine.close()
    return found


@pytest.mark.slow
def test_gradients_are_added_up_in_fp32() -> None:
    """Over the ranks, also where each of them computes in bf16, under every ZeRO stage."""
    found = on_ranks(2, reduced, "bf16")[0]
    for zero in (1, 2, 3):
        for name, gradient in found[zero].items():
            torch.testing.assert_close(gradient, found[0][name], rtol=1e-4, atol=1e-6)
            assert not torch.equal(gradient, gradient.bfloat16().float())


def refused() -> list[tuple[bool, bool]]:
    """Under ZeRO 1 and 2, whether a step with one bad entry in its gradient is refused, and nothing has moved."""
    join(threads=1)
    found = []
    for zero, entry in itertools.product((1, 2), (0, -1)):
        engine = Engine(net(), set(NAMES), set(), optimizer("adamw"), "fp32", EngineSettings(zero=zero))
        steps(engine, 0, 1)
        before = {name: engine.get(name) for name in engine.parameters}

        def spoil(gradient: Tensor, entry: int = entry) -> Tensor:
            spoilt = gradient.clone()
            spoilt.view(-1)[entry] = torch.inf
            return spoilt

        name = "0.weight" if entry == 0 else "4.bias"
        hook = engine.parameters[name].register_hook(spoil)
        engine.backward(engine.forward(torch.ones(2, 9)).sum())
        taken = engine.step(0.1)
        hook.remove()
        still = all(torch.equal(engine.get(name), value) for name, value in before.items())
        engine.close()
        found.append((not taken, still))
    return found


@pytest.mark.slow
def test_a_gradient_that_is_bad_in_one_ranks_share_is_refused_by_all() -> None:
    """The first or the last entry of all: each is stepped by one rank alone."""
    assert on_ranks(2, refused) == [[(True, True)] * 4] * 2


@pytest.mark.parametrize(("zero", "clip"), list(itertools.product((1, 2), (0.0, 0.5))))
def test_norms_are_found_where_gradients_are_clipped(make_engine: MakeEngine, zero: int, clip: float) -> None:
    engine = make_engine(net(), set(NAMES), optimizer=optimizer("sgd", clip), zero=zero)
    engine.backward(engine.forward(torch.ones(2, 9)).sum())
    assert engine.step(0.1)
    norm = engine.engine.get_global_grad_norm()
    assert (norm is not None and norm > 0) if clip else norm is None
