"""Whole stages of networks that are more than layers in a row: tied, recurrent, with parameters of integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.parameters import tied
from dualprune.stages.training.measure import measure
from dualprune.stages.training.stage import run_stage
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask
from tests.stages.training.test_stage import DENSE, nonzeros, prune, quiet, resumed, same_bytes, stopped

pytestmark = pytest.mark.usefixtures("one_rank")

LEVELS = 10


class Reader(nn.Module):
    """Reads 8 x 8 pictures row by row, as tokens, with an LSTM; its output layer is its embedding too.

    Beside them: an order of rows as a parameter of integers, a parameter that is not trained, buffers of integers, of
    truth values and of fp32 under two names, and one that is not kept.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        assert classes == LEVELS
        self.embed = nn.Embedding(classes, 8)
        self.lstm = nn.LSTM(8, 12, proj_size=8, bidirectional=False)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, classes)
        self.head.weight = self.embed.weight
        self.order_weight = nn.Parameter(torch.arange(7, -1, -1).view(8, 1) + (1 << 25) + 1, requires_grad=False)
        self.fixed = nn.Linear(8, 8, bias=False).requires_grad_(False)
        self.register_buffer("seen", torch.tensor((1 << 25) + 1))
        self.register_buffer("used", torch.tensor([True, False]))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("mean_again", self.mean)
        self.register_buffer("passing", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 8, 8] to [n, classes]."""
        tokens = (x.squeeze(1) * 3).long().clamp(0, LEVELS - 1)
        rows = self.embed(tokens).sum(2).transpose(0, 1)[(self.order_weight - (1 << 25) - 1).flatten()]
        if self.training:
            self.seen += 1
            self.mean.mul_(0.9).add_(rows.detach().mean((0, 1)), alpha=0.1)
        out, _ = self.lstm(rows)
        y: Tensor = self.head(self.norm(out[-1] + self.fixed(out.mean(0))) - self.mean_again)
        return y


@pytest.fixture
def make_reader(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> MakeTask:
    """Stages of that network."""
    monkeypatch.setitem(MODELS, "reader", Reader)

    def make(*args: Any, **settings: Any) -> StageJob:
        return make_task(*args, model="reader", **settings)

    return make


CONSTRAINTS = [
    {"set": "cardinality", "tensors": "*", "rate": 4},
    {"set": "cardinality", "tensors": "head.weight", "rate": 2},
]


def test_it_is_pruned_and_read_back(make_reader: MakeTask, tmp_path: Path) -> None:
    """Tied weights are one tensor; integers and what is not trained stay what they were, to the last bit."""
    events: list[dict[str, Any]] = []
    dense = run_stage(make_reader(DENSE, "dense"), quiet)
    assert dense is not None
    pruned = run_stage(make_reader(prune(constraints=CONSTRAINTS), "pruned", "dense"), events.append)
    assert pruned is not None
    weights = {"embed.weight": 40, "lstm.weight_ih_l0": 96, "lstm.weight_hh_l0": 96, "lstm.weight_hr_l0": 24}
    assert {name: one["nonzeros"] for name, one in pruned["tensors"].items()} == weights
    assert pruned["metrics"]["network_weights"] == 80 + 384 + 384 + 96
    found = artefact.load(Folder(str(tmp_path / "store" / "pruned")))
    before = artefact.load(Folder(str(tmp_path / "store" / "dense"))).network
    assert "head.weight" not in found.network
    assert set(nonzeros(found.duals)) == set(weights)
    for name in ("order_weight", "used", "fixed.weight"):
        assert found.network[name].dtype == before[name].dtype
        assert torch.equal(found.network[name], before[name])
    assert found.network["order_weight"].flatten().tolist() == [(1 << 25) + 1 + n for n in range(7, -1, -1)]
    steps = dense["metrics"]["steps"] + pruned["metrics"]["steps"]
    assert found.network["seen"].item() == (1 << 25) + 1 + steps
    network = artefact.network(found)
    assert tied(network) == {"head.weight": "embed.weight", "mean_again": "mean"}
    assert torch.equal(network.get_parameter("head.weight"), found.network["embed.weight"])
    scores = measure(str(tmp_path / "store" / "pruned"), make_reader(DENSE).shards)
    assert scores["test_accuracy"] == pruned["metrics"]["test_accuracy"]


ZEROS = [0, 1, 3]


def settings(zero: int, store: str) -> dict[str, Any]:
    """Of an engine that saves often."""
    return {"zero": zero, "store": store, "checkpoint_steps": 3}


@pytest.mark.parametrize("zero", ZEROS)
def test_a_stopped_stage_ends_with_the_same_bytes(zero: int, make_reader: MakeTask) -> None:
    """Dense, and pruned, where what its network counts goes on from where it was."""
    for store in ("whole", "stopped"):
        run_stage(make_reader(DENSE, "dense", **settings(zero, store)), quiet)
    spec = prune(constraints=CONSTRAINTS)
    whole = make_reader(spec, "pruned", "dense", **settings(zero, "whole"))
    run_stage(whole, quiet)
    task = make_reader(spec, "pruned", "dense", **settings(zero, "stopped"))
    stopped(task, 2)
    assert resumed(task) == 18
    same_bytes(task, whole)


def reader_main(tasks: list[str]) -> None:
    """One of two ranks: run the tasks one after another."""
    MODELS["reader"] = Reader
    for task in tasks:
        run_stage(StageJob.model_validate_json(task), quiet)


@pytest.mark.slow
def test_two_ranks_do_what_one_does(make_reader: MakeTask) -> None:
    """Under ZeRO 0, 1 and 3; they also go on from a checkpoint of one rank."""
    sgd = {"optimizer": {"name": "sgd"}}
    constrained = prune(constraints=CONSTRAINTS) | sgd
    run_stage(make_reader(DENSE | sgd, "dense"), quiet)
    one = make_reader(constrained, "pruned", "dense")
    run_stage(one, quiet)
    interrupted = make_reader(constrained, "interrupted", "dense", checkpoint_steps=3)
    stopped(interrupted, 2)
    tasks = [interrupted]
    for zero in ZEROS:
        tasks.append(make_reader(DENSE | sgd, "dense", store=f"zero{zero}", zero=zero))
        tasks.append(make_reader(constrained, "pruned", "dense", store=f"zero{zero}", zero=zero))
    on_ranks(2, reader_main, [task.model_dump_json() for task in tasks])
    want = artefact.load(Folder(one.store) / one.key)
    for task in tasks:
        if task.key == "dense":
            continue
        got = artefact.load(Folder(task.store) / task.key)
        assert nonzeros(got.network) == nonzeros(want.network), task.store
        for name, value in want.network.items():
            if not value.is_floating_point():
                assert torch.equal(got.network[name], value), (task.store, name)


@pytest.mark.parametrize("kind", ["levels", "clusters"])
def test_it_is_quantised_where_it_was_pruned(kind: str, make_reader: MakeTask) -> None:
    """A recurrent layer and the tied tensor, by their types."""
    own = {"levels": {"bits": 3}, "clusters": {"count": 6}}[kind]
    spec = {
        "kind": "quantize",
        "constraints": [{"set": kind, "layers": ["LSTM", "Embedding"], **own}],
        "admm": {"updates": 1, "lr": 0.01, "rho": 0.05},
    }
    run_stage(make_reader(DENSE, "dense"), quiet)
    manifest = run_stage(make_reader(spec, "shared", "dense"), quiet)
    assert manifest is not None
    assert set(manifest["tensors"]) == {"embed.weight", *(f"lstm.weight_{of}_l0" for of in ("ih", "hh", "hr"))}
    network = artefact.load(Folder(make_reader(DENSE).store) / "shared").network
    assert len(network["embed.weight"].unique()) <= 9
