"""A loop of a user's own and a stage of the pipeline end alike: the same start, batches, optimizer and updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dualprune
from dualprune.stages.artefacts import artefact
from dualprune.stages.data.order import global_batch, steps_per_epoch
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.library.pruner import Pruner
from dualprune.stages.settings.sets import Pattern
from tests.stages.conftest import MakeTask, pairs
from tests.stages.training.test_stage import DENSE, made

pytestmark = pytest.mark.usefixtures("one_rank")

CASES: dict[str, tuple[dict[str, Any], list[Pattern], dict[str, Any]]] = {
    "each tensor": ({"name": "adam", "weight_decay": 0.001}, [dualprune.cardinality("*", rate=4)], {}),
    "one budget": (
        {"name": "sgd"},
        [dualprune.cardinality("*", rate=10, scope="global", scale="rms")],
        {"rho_growth": 2.0},
    ),
    "several sets": (
        {"name": "adamw", "weight_decay": 0.01},
        [dualprune.filter("2.weight", keep=0.5), dualprune.nm("[268].weight", n=2, m=4)],
        {"rho_balance": True},
    ),
    "shared values": (
        {"name": "adam"},
        [
            dualprune.cardinality("6.weight", rate=2),
            dualprune.levels("6.weight", levels="power", bits=3),
            dualprune.levels("[08].weight", levels="equidistant", bits=3),
        ],
        {"rho_growth": 2.0},
    ),
}
OPTIMIZERS = {
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.004),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.004),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.004, momentum=0.9),
}


def batches(task: StageJob, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures and labels that the stage sees in an epoch."""
    spec = task.spec
    split = open_split(task.shards, "train", task.data_digest, spec.data, spec.seed, torch.device("cpu"), 10)
    order = split.order(epoch)
    steps = range(steps_per_epoch(320, spec.batch))
    return pairs(split.epoch((global_batch(order, spec.batch, n) for n in steps), epoch))


def in_a_loop(network: nn.Module, pruner: Pruner, optimizer: Any, data: list[Any]) -> None:
    """Ten lines: two updates with two epochs before each, the projection, and two epochs of retraining."""
    optimizer = pruner.wrap(optimizer)
    for epoch in range(6):
        for pictures, labels in data[epoch]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(pictures), labels).backward()
            optimizer.step()
        if epoch in (1, 3):
            pruner.update()
        if epoch == 3:
            pruner.project()


@pytest.mark.parametrize("case", CASES)
def test_a_loop_ends_as_a_stage_does(make_task: MakeTask, case: str) -> None:
    """The same masks, the same weights but for rounding, and the same duals."""
    settings, constraints, growth = CASES[case]
    rate = {"lr": 0.004, "schedule": "constant"}
    spec = {
        "kind": "quantize" if case == "shared values" else "prune",
        "constraints": [one.model_dump(exclude_defaults=True) for one in constraints],
        "admm": {"updates": 2, "epochs": 2, "lr": 0.004, "rho": 0.05, **growth},
        "retrain": {"epochs": 2, **rate},
        "optimizer": settings,
    }
    dense = made(make_task(DENSE, "dense", model="digits_cnn"))
    task = make_task(spec, "pruned", "dense", model="digits_cnn")
    expected = made(task)
    network = artefact.network(dense).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim == 1]
    decay = settings.get("weight_decay", 0.0)
    groups = [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    pruner = Pruner(network, constraints, rho=0.05, **growth)
    in_a_loop(network, pruner, OPTIMIZERS[settings["name"]](groups), [list(batches(task, epoch)) for epoch in range(6)])
    assert set(pruner.masks) >= set(expected.holds)
    for name, mask in pruner.masks.items():
        assert torch.equal(mask.float(), expected.holds.get(name, torch.ones_like(mask).float())), name
        torch.testing.assert_close(pruner._tensors.get(name, "dual"), expected.duals[name])
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected.network[name], rtol=1e-4, atol=1e-5)
    assert pruner.rate == pytest.approx(expected.manifest["metrics"]["rate"])
    assert pruner.rho == expected.manifest["rho"] > 0
