"""Two real ranks over gloo, under DDP and FSDP2: what one does, and state that another number of ranks goes on from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import dualprune
from dualprune.stages.library.pruner import Pruner
from tests.ranks import on_ranks
from tests.stages.library.loops import network, prune

CONSTRAINTS = {
    "budget": [dualprune.cardinality("*", rate=5, scope="global")],
    "several": [
        dualprune.filter("0.weight", keep=0.5),
        dualprune.column("2.weight", keep=0.5),
        dualprune.levels("4.weight", levels="equidistant", bits=2),
    ],
    "energy": [dualprune.lowrank("[02].weight", energy=0.4)],
}
CUT = 12
"""Steps after which state is taken, in the middle of ADMM."""


def made(case: str, way: str) -> tuple[nn.Module, Pruner, Any]:
    """The network, alone or in one of torch's ways on all ranks; its pruner and its wrapped optimizer."""
    model = network()
    if way == "ddp":
        model = DistributedDataParallel(model)
    elif way == "fsdp2":
        for part in (model[0], model[2]):  # type: ignore[index]
            fully_shard(part)
        fully_shard(model)
    pruner = Pruner(model, CONSTRAINTS[case], rho=0.1, rho_growth=1.3)
    return model, pruner, pruner.wrap(torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.01))


def whole(model: nn.Module) -> dict[str, Tensor]:
    """Weights by the plain network's names."""
    return {
        name.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


def outcome(case: str, way: str, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """A loop from beginning to end; state in its middle, in its end, and what it made."""
    model, pruner, optimizer = made(case, way)
    prune(model, pruner, optimizer, range(CUT), rank, world)
    middle = pruner.state_dict()
    prune(model, pruner, optimizer, range(CUT, 25), rank, world)
    return {
        "middle": middle,
        "end": pruner.state_dict(),
        "weights": whole(model),
        "masks": pruner.masks,
        "rate": pruner.rate,
    }


def rank_main(given: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """One of two ranks. Other numbers of ranks' state comes back as it was given."""
    rank = dist.get_rank()
    found = {}
    for case in CONSTRAINTS:
        for way in ("ddp", "fsdp2"):
            found[case, way] = outcome(case, way, rank, 2)
            _, pruner, _ = made(case, way)
            pruner.load_state_dict(given[case])
            same(pruner.state_dict(), given[case])
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two states are equal to the bit."""
    assert {key: value for key, value in one.items() if key != "tensors"} == {
        key: value for key, value in other.items() if key != "tensors"
    }
    assert set(one["tensors"]) == set(other["tensors"])
    for name, values in one["tensors"].items():
        assert all(torch.equal(value, other["tensors"][name][key]) for key, value in values.items())


@pytest.mark.slow
def test_two_ranks_do_what_one_does() -> None:
    """The same masks, weights but for rounding, and the same bits on both ranks; state in whole tensors."""
    expected = {case: outcome(case, "plain") for case in CONSTRAINTS}
    ranks = on_ranks(2, rank_main, {case: one["middle"] for case, one in expected.items()})
    for (case, way), found in ranks[0].items():
        one, other = expected[case], ranks[1][case, way]
        assert set(found["masks"]) == set(one["masks"])
        for name, mask in found["masks"].items():
            assert torch.equal(mask, one["masks"][name]), (case, way, name)
            assert torch.equal(mask, other["masks"][name])
        for name, value in found["weights"].items():
            torch.testing.assert_close(value, one["weights"][name], rtol=1e-3, atol=1e-4)
            assert torch.equal(value, other["weights"][name])
        for name, values in found["end"]["tensors"].items():
            alone = one["end"]["tensors"][name]
            key = "dual" if "dual" in alone else "target"
            torch.testing.assert_close(values[key], alone[key], rtol=1e-2, atol=1e-3)
        assert found["rate"] == one["rate"]
        same(found["middle"], other["middle"])


def test_flattened_parameters_are_refused(one_rank: None) -> None:
    """FSDP's first version and ZeRO 3 hide the tensors that constraints are about."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    with pytest.raises(ValueError, match="use `fully_shard`"):
        Pruner(FullyShardedDataParallel(network(), device_id=torch.device("cpu")), CONSTRAINTS["budget"], rho=1.0)
    model = network()
    model.get_parameter("0.weight").ds_id = 0  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="ZeRO 3"):
        Pruner(model, CONSTRAINTS["budget"], rho=1.0)
