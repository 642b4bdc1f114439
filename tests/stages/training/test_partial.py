"""Whole stages of partial regularisation: by hand, stopped and resumed, and with what follows them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.order import global_batch
from dualprune.stages.engine.engine import Engine
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.base import SpecError
from dualprune.stages.training.stage import run_stage
from dualprune.stages.training.start import assembled
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask
from tests.stages.training.test_ranks import SGD, rank_main
from tests.stages.training.test_stage import DENSE, made, nonzeros, quiet, resumed, run, same_bytes, stopped
from tests.stages.training.test_stage_solver import rows

pytestmark = pytest.mark.usefixtures("one_rank")


def partial(share: float = 1.0, strength: float = 0.02, **change: Any) -> dict[str, Any]:
    """Two epochs of regularisation of all hidden neurons, or of a share."""
    return {
        "kind": "partial",
        "constraints": [{"tensors": "*", "share": share, "strength": strength}],
        "train": {"epochs": 2, "lr": 0.01},
    } | change


PLAIN: dict[str, Any] = {
    "optimizer": {"name": "sgd", "momentum": 0.0},
    "data": {"source": "digits", "mean": [0.3], "std": [0.38]},
    "train": {"epochs": 1, "lr": 0.5, "schedule": "constant"},
    "batch": 64,
}


@pytest.fixture
def mlp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of 24 hidden neurons, `mlp`."""

    def make(classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, classes))

    monkeypatch.setitem(MODELS, "mlp", make)


STRENGTH, STEPS = 0.034, 5


def by_hand(task: StageJob, interval: int) -> nn.Sequential:
    """Plain gradient descent, and after each `interval` steps rows of the first 12 of 24 neurons thresholded."""
    torch.manual_seed(task.spec.seed)
    network = build_model(task.spec.model)
    assert isinstance(network, nn.Sequential)
    other = task.model_copy(update={"key": "other"})
    begun = assembled(other, Folder(task.store), quiet, lambda: False, (0, 1, torch.device("cpu")))
    begun.engine.close()
    data = begun.splits["train"]
    assert len(data) // 64 == STEPS
    for step in range(STEPS):
        (batch,) = data.evaluation([global_batch(data.order(0), 64, step)])
        network.zero_grad()
        nn.functional.cross_entropy(network(batch["image"]), batch["label"]).backward()
        turn = interval if (step + 1) % interval == 0 else (step + 1) % interval if step + 1 == STEPS else 0
        with torch.no_grad():
            for one in network.parameters():
                assert one.grad is not None
                one -= 0.5 * one.grad
            for row in range(12):
                neuron = [one[row] for one in network[1].parameters()]
                norm = math.sqrt(sum(float(one.square().sum()) for one in neuron))
                for one in neuron:
                    one *= max(0.0, 1 - turn * 0.5 * STRENGTH * math.sqrt(65) / norm) if norm else 0.0
    return network


@pytest.mark.parametrize("interval", [1, 2])
def test_it_is_proximal_gradient_descent(make_task: MakeTask, mlp: None, interval: int) -> None:
    """Against a loop by hand; and what died is zero in the layer that reads it, too."""
    task = make_task(partial(0.5, STRENGTH, **PLAIN, interval=interval), model="mlp")
    loaded, network = run(task), by_hand(task, interval)
    first, last = network[1].weight.detach(), network[3].weight.detach()
    dead = first.count_nonzero(1) == 0
    assert 0 < int(dead.sum()) < 12
    last[:, dead] = 0.0
    for name, value in network.named_parameters():
        assert torch.allclose(loaded.network[name], value.detach(), atol=1e-5), name
    assert loaded.manifest["neurons"] == {"1.weight": [24, 12, int(dead.sum())]}
    assert rows(task)[-1]["dead"] == int(dead.sum())
    assert torch.equal(loaded.holds["1.weight"].bool().any(1), ~dead)
    assert torch.equal(loaded.holds["3.weight"].bool().any(0), ~dead)


BOTH = pytest.mark.parametrize(("model", "strength"), [("digits_cnn", 2.0), ("noisy", 10.0)])
"""Without and with batch normalisation, and how strong the penalty has to be for so few steps."""


@BOTH
def test_a_stopped_one_ends_with_the_same_bytes(make_task: MakeTask, model: str, strength: float) -> None:
    """Within an epoch, and between two, with thresholds every third step."""
    spec = partial(0.75, strength, interval=3)
    whole, cut = (make_task(spec, store=store, model=model, checkpoint_steps=7) for store in ("whole", "cut"))
    first = run(whole)
    stopped(cut, 1)
    assert resumed(cut) == 7
    same_bytes(whole, cut)
    asked = iter([False] * 13)
    within = make_task(spec, store="within", model=model, checkpoint_steps=7)
    assert run_stage(within, quiet, lambda: next(asked, True)) is None
    assert resumed(within) == 14
    same_bytes(whole, within)
    assert artefact.load(Folder(within.store) / within.key).manifest["neurons"] == first.manifest["neurons"]


@BOTH
def test_what_died_stays_dead_and_is_taken_out(make_task: MakeTask, model: str, strength: float) -> None:
    """By training, and by a shrink, exactly; with batch normalisation it is its scale and bias that died."""
    cut = run(make_task(partial(0.5, strength), "cut", model=model))
    dead = {name: gone for name, (_, _, gone) in cut.manifest["neurons"].items()}
    assert all(0 < gone <= penalised < whole for whole, penalised, gone in cut.manifest["neurons"].values()), dead
    later = run(make_task(DENSE, "later", "cut", model=model))
    for name, mask in cut.holds.items():
        assert not later.network[name][mask == 0].any()
    small = run(make_task({"kind": "shrink"}, "small", "cut", model=model))
    assert small.manifest["shrunk"]["difference"] < 1e-5
    assert {name: before - after for name, (before, after) in small.manifest["shrunk"]["units"].items()} == dead
    assert nonzeros(small.network) == nonzeros(cut.network)


def test_from_a_parent_what_it_pruned_stays_zero(make_task: MakeTask) -> None:
    """Its masks hold, and count in what dies."""
    made(make_task(DENSE, "dense", model="digits_cnn"))
    half = {"set": "row", "tensors": "6.weight", "keep": 0.5}
    spec = {"kind": "prune", "constraints": [half], "admm": None, "retrain": {"epochs": 0, "lr": 0.1}}
    pruned = made(make_task(spec, "pruned", "dense", model="digits_cnn"))
    after = run(make_task(partial(strength=1e-6), "after", "pruned", model="digits_cnn"))
    assert not after.network["6.weight"][pruned.holds["6.weight"] == 0].any()
    assert nonzeros(after.network)["6.weight"] == nonzeros(pruned.network)["6.weight"]


@pytest.mark.parametrize(
    ("constraints", "place", "words"),
    [
        ([{"tensors": "nosuch", "strength": 1}], "constraints.0.tensors", "'nosuch' matches no tensor of digits_cnn"),
        ([{"tensors": "8.weight", "strength": 1}], "constraints.0", "no filters of it can go"),
        ([{"tensors": "*", "strength": 1}] * 2, "constraints.1", "units of 0.weight are held by an earlier constraint"),
    ],
)
def test_what_is_wrong_has_its_place(make_task: MakeTask, constraints: Any, place: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        run(make_task(partial(constraints=constraints), model="digits_cnn"))
    assert str(caught.value).startswith(f"{place}: {words}")


def test_layers_can_be_penalised_apart(make_task: MakeTask) -> None:
    """Each by its own share and strength."""
    both = [{"layers": "Conv2d", "share": 0.5, "strength": 1e-9}, {"layers": "Linear", "share": 0.25, "strength": 1.0}]
    found = run(make_task(partial(constraints=both), model="digits_cnn")).manifest["neurons"]
    assert found == {"0.weight": [16, 8, 0], "2.weight": [32, 16, 0], "6.weight": [128, 32, 32]}


@pytest.mark.slow
def test_two_ranks_do_what_one_does(make_task: MakeTask) -> None:
    """Under every ZeRO stage, with momentum, going on from one rank's checkpoint too."""
    spec = partial(0.5, 2.0) | SGD
    one = run(make_task(spec, "one", model="digits_cnn"))
    tasks = [make_task(spec, f"zero{zero}", model="digits_cnn", zero=zero) for zero in range(4)]
    interrupted = make_task(spec, "interrupted", model="digits_cnn", checkpoint_steps=3)
    stopped(interrupted, 1)
    on_ranks(2, rank_main, [task.model_dump_json() for task in [*tasks, interrupted]])
    assert any(dead for _, _, dead in one.manifest["neurons"].values())
    for task in [*tasks, interrupted]:
        got = artefact.load(Folder(task.store) / task.key)
        assert got.manifest["neurons"] == one.manifest["neurons"]
        for name, value in one.network.items():
            assert torch.allclose(got.network[name], value, rtol=1e-3, atol=1e-4), (task.key, name)


def test_only_what_is_penalised_is_read_and_written(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a proximal step the makers' tensors; at the end their readers' too."""
    touched: list[str] = []
    plain = Engine.set

    def noted(self: Engine, name: str, value: Tensor, state: str | None = None) -> None:
        touched.append(name)
        plain(self, name, value, state)

    monkeypatch.setattr(Engine, "set", noted)
    spec = partial(constraints=[{"tensors": "6.weight", "strength": 0.01}])
    run(make_task(spec, model="digits_cnn"))
    assert touched.count("6.bias") == 20
    assert set(touched) == {"6.weight", "6.bias", "8.weight"}
