"""Whole stages of trained rank pruning: by hand, stopped and resumed, on two ranks, and made smaller after it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.coupling.cut import macs
from dualprune.stages.data.format import read_manifest
from dualprune.stages.data.order import global_batch
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.kinds.trp import TrpSpec
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.matrices import matrix, unmatrix
from dualprune.stages.settings.base import SpecError
from dualprune.stages.training.cuts import fits
from dualprune.stages.training.stage import run_stage
from dualprune.stages.training.start import assembled
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask
from tests.stages.training.test_ranks import SGD, rank_main
from tests.stages.training.test_stage import DENSE, made, prune, quiet, resumed, run, same_bytes, stopped
from tests.stages.training.test_stage_solver import rows

pytestmark = pytest.mark.usefixtures("one_rank")

PICTURES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def trp(energy: float = 0.1, view: str = "channel", **change: Any) -> dict[str, Any]:
    """Two epochs in which all layers but the first are truncated every third step."""
    return {
        "kind": "trp",
        "constraints": [{"tensors": ["*", "!0.*"], "energy": energy, "view": view}],
        "train": {"epochs": 2, "lr": 0.01},
        "interval": 3,
    } | change


@pytest.fixture
def stage(make_task: MakeTask) -> MakeTask:
    """Stages of `digits_cnn`."""

    def make(*args: Any, model: str = "digits_cnn", **settings: Any) -> StageJob:
        return make_task(*args, model=model, **settings)

    return make


def rank_of(weight: Tensor, view: str) -> int:
    """By torch, rounding aside."""
    return int(torch.linalg.matrix_rank(matrix(weight.double(), view), rtol=1e-5))


LAMBDA, LR, STEPS = 0.2, 0.05, 5
HAND: dict[str, Any] = {
    "optimizer": {"name": "sgd", "momentum": 0.9},
    "data": {"source": "digits", "mean": [0.3], "std": [0.38]},
    "train": {"epochs": 1, "lr": LR, "schedule": "constant"},
    "batch": 64,
    "nuclear": LAMBDA,
}


def cut_down(weight: Tensor, view: str, energy: float) -> Tensor:
    """Replace a weight by its truncation, and give U V^T: by torch's SVD."""
    u, s, v = torch.linalg.svd(matrix(weight.detach().double(), view), full_matrices=False)
    rank = next(k for k in range(1, len(s) + 1) if s[k:].square().sum() <= energy * s.square().sum())
    weight.data = unmatrix(u[:, :rank] * s[:rank] @ v[:rank], weight.shape, view).float()
    return unmatrix(u[:, :rank] @ v[:rank], weight.shape, view).float()


def by_hand(task: StageJob, view: str, energy: float, interval: int) -> nn.Sequential:
    """Equation 2 of the paper with momentum: before steps 0, m, 2 m, ... layers are truncated, and the sub-gradient is
    in the gradient of these steps; at the end they are truncated once more."""
    torch.manual_seed(task.spec.seed)
    network = build_model(task.spec.model)
    assert isinstance(network, nn.Sequential)
    other = task.model_copy(update={"key": "other"})
    begun = assembled(other, Folder(task.store), quiet, lambda: False, (0, 1, torch.device("cpu")))
    begun.engine.close()
    data = begun.splits["train"]
    assert len(data) // 64 == STEPS
    held = [network.get_parameter(f"{layer}.weight") for layer in (2, 6, 8)]
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9)
    for step in range(STEPS):
        slopes = [cut_down(weight, view, energy) for weight in held] if step % interval == 0 else []
        (batch,) = data.evaluation([global_batch(data.order(0), 64, step)])
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch["image"]), batch["label"]).backward()
        for weight, slope in zip(held, slopes, strict=False):
            assert weight.grad is not None
            weight.grad += LAMBDA * slope
        optimizer.step()
    for weight in held:
        cut_down(weight, view, energy)
    return network


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("view", ["channel", "spatial"])
def test_it_is_the_papers_equation(stage: MakeTask, view: str, interval: int) -> None:
    """Against a loop by hand, with the nuclear norm and momentum."""
    energy = 0.02
    task = stage(trp(energy, view, **HAND) | {"interval": interval})
    found, network = run(task), by_hand(task, view, energy, interval)
    for name, value in network.named_parameters():
        assert torch.allclose(found.network[name], value.detach(), atol=1e-5), name
    ranks = {name: rank for name, (_, rank) in found.manifest["ranks"].items()}
    assert ranks == {f"{layer}.weight": rank_of(network.get_parameter(f"{layer}.weight"), view) for layer in (2, 6, 8)}
    assert rows(task)[-1]["rank"] == sum(ranks.values())
    assert 0 < rows(task)[-1]["dropped"] <= energy
    without = run(stage(trp(energy, view, **HAND | {"nuclear": 0.0}) | {"interval": interval}, "without"))
    assert not torch.allclose(found.network["2.weight"], without.network["2.weight"], atol=1e-3)


def test_every_epoch_ends_at_a_low_rank(stage: MakeTask) -> None:
    """And says of which; ranks fall while it is truncated anew. What is told in the manifest is what there is."""
    task = stage(trp(train={"epochs": 3, "lr": 0.01}, interval=1000))
    found = run(task)
    told = [row["rank"] for row in rows(task)]
    assert len(told) == 3
    assert told == sorted(told, reverse=True)
    assert found.manifest["ranks"] == {
        name: [full, rank_of(found.network[name], "channel")]
        for name, full in (("2.weight", 32), ("6.weight", 128), ("8.weight", 10))
    }
    assert found.manifest["fixed"] == {name: ["lowrank"] for name in found.manifest["ranks"]}
    assert not found.holds


def test_without_epochs_it_is_truncated_once(stage: MakeTask) -> None:
    dense = made(stage(DENSE, "dense"))
    found = run(stage(trp(0.2, train={"epochs": 0, "lr": 0.1}), "once", "dense"))
    for name in ("2.weight", "6.weight", "8.weight"):
        expected = dense.network[name].clone()
        cut_down(expected, "channel", 0.2)
        assert torch.allclose(found.network[name], expected, atol=1e-6)
    assert torch.equal(found.network["0.weight"], dense.network["0.weight"])


@pytest.mark.parametrize("zero", [0, 3])
def test_a_stopped_one_ends_with_the_same_bytes(stage: MakeTask, zero: int) -> None:
    """Within an epoch, between two, right after a truncation and not, with the nuclear norm."""
    spec = trp(nuclear=0.01, interval=4, optimizer={"name": "sgd", "weight_decay": 0.001})
    whole, cut = (stage(spec, store=store, zero=zero, checkpoint_steps=7) for store in ("whole", "cut"))
    first = run(whole)
    stopped(cut, 1)
    assert resumed(cut) == 7
    same_bytes(whole, cut)
    for steps in (8, 13):
        asked = iter([False] * (steps - 1))
        within = stage(spec, store=f"after{steps}", zero=zero)
        assert run_stage(within, quiet, lambda asked=asked: next(asked, True)) is None
        assert resumed(within) in (steps, steps + 1)
        same_bytes(whole, within)
        assert artefact.load(Folder(within.store) / within.key).manifest["ranks"] == first.manifest["ranks"]


@pytest.mark.parametrize("view", ["channel", "spatial"])
def test_a_shrink_after_it_factorises_and_is_exact(stage: MakeTask, view: str) -> None:
    """Where that is smaller; in as many multiplications as ranks say. Nothing is trained after it."""
    made(stage(DENSE, "dense"))
    low = run(stage(trp(0.15, view, train={"epochs": 1, "lr": 0.01}), "low", "dense"))
    small = run(stage({"kind": "shrink"}, "small", "low"))
    facts = small.manifest["shrunk"]
    before, after = artefact.network(low), artefact.network(small)
    with torch.no_grad():
        assert torch.allclose(before(PICTURES), after(PICTURES), atol=1e-4)
    assert facts["difference"] < 1e-5
    assert small.manifest["metrics"]["test_accuracy"] == low.manifest["metrics"]["test_accuracy"]
    ranks = {name.removesuffix(".weight"): rank for name, (_, rank) in low.manifest["ranks"].items()}
    assert facts["factorised"] | facts["unfactorised"] == ranks
    assert {"2", "6"} <= set(facts["factorised"])
    sides = (16 * 9, 32) if view == "channel" else (16 * 3, 32 * 3)
    of = {"2": (64, sides, 32 * 16 * 9), "6": (1, (512, 128), 512 * 128), "8": (1, (128, 10), 1280)}
    saved = sum(of[path][0] * (of[path][2] - rank * sum(of[path][1])) for path, rank in facts["factorised"].items())
    assert facts["macs"] == [macs(before, (PICTURES,), {}), macs(after, (PICTURES,), {})]
    assert facts["macs"][0] - facts["macs"][1] == saved
    assert small.manifest["metrics"]["macs"] / small.manifest["metrics"]["dense_macs"] < 0.9


def test_a_layer_that_would_not_be_smaller_stays_whole(stage: MakeTask) -> None:
    """A rank close to full takes more than the layer itself; where that is so of all, the stage fails and says so."""
    sets = [{"tensors": "6.weight", "energy": 0.5}, {"tensors": "8.weight", "energy": 1e-6}]
    made(stage(trp(constraints=sets), "low"))
    small = run(stage({"kind": "shrink"}, "small", "low"))
    assert set(small.manifest["shrunk"]["factorised"]) == {"6"}
    assert small.manifest["shrunk"]["unfactorised"] == {"8": 10}
    assert torch.equal(small.network["8.weight"], made(stage(trp(constraints=sets), "low")).network["8.weight"])
    made(stage(trp(constraints=sets[1:]), "high"))
    with pytest.raises(SpecError, match=r"none of 1 layers of low rank is smaller as two, such as 8 of rank 10"):
        run(stage({"kind": "shrink"}, "none", "high"))


def strided(classes: int) -> nn.Module:
    """For 8 x 8 pictures: a convolution that takes every second row and column."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.Flatten(), nn.Linear(128, classes)
    )


def test_strides_count_in_what_two_layers_cost(stage: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two spatial ones has a stride down alone: at rank 10 they are smaller, but have more to multiply."""
    monkeypatch.setitem(MODELS, "strided", strided)
    for rank, factorised in ((10, {}), (7, {"2": 7})):
        sets = [
            {"set": "lowrank", "tensors": "2.weight", "view": "spatial", "rank": rank},
            {"set": "lowrank", "tensors": "4.weight", "rank": 4},
        ]
        made(stage(DENSE, f"dense{rank}", model="strided"))
        made(stage(prune(constraints=sets, admm=None), f"low{rank}", f"dense{rank}", model="strided"))
        facts = run(stage({"kind": "shrink"}, f"small{rank}", f"low{rank}", model="strided")).manifest["shrunk"]
        assert facts["factorised"] == {"4": 4} | factorised
        assert facts["macs"][1] < facts["macs"][0]


@pytest.mark.parametrize("view", ["channel", "spatial"])
def test_after_admm_it_is_exact_too(stage: MakeTask, view: str) -> None:
    made(stage(DENSE, "dense"))
    sets = [{"set": "lowrank", "layers": "Conv2d", "tensors": ["*", "!0.*"], "energy": 0.4, "view": view}]
    low = made(stage(prune(constraints=sets), "low", "dense"))
    small = run(stage({"kind": "shrink"}, "small", "low"))
    assert set(small.manifest["shrunk"]["factorised"]) == {"2"}
    assert small.manifest["shrunk"]["difference"] < 1e-5
    assert small.manifest["metrics"]["test_accuracy"] == low.manifest["metrics"]["test_accuracy"]


def test_layers_of_low_rank_stay_as_they_are_in_later_stages(stage: MakeTask) -> None:
    """Or are truncated further."""
    low = made(stage(trp(0.1), "low"))
    later = run(stage(DENSE, "later", "low"))
    for name in low.manifest["ranks"]:
        assert torch.equal(later.network[name], low.network[name])
    assert not torch.equal(later.network["0.weight"], low.network["0.weight"])
    lower = run(stage(trp(0.3), "lower", "low"))
    assert sum(rank for _, rank in lower.manifest["ranks"].values()) < rows(stage(trp(0.1), "low"))[-1]["rank"]


def test_zeros_of_earlier_stages_are_not_filled(stage: MakeTask) -> None:
    half = {"set": "row", "tensors": "6.weight", "keep": 0.5}
    made(stage(DENSE, "dense"))
    made(stage(prune(constraints=[half], admm=None), "pruned", "dense"))
    with pytest.raises(SpecError, match=r"^constraints: low rank would fill the zeros .* 6\.weight; leave it out"):
        run(stage(trp(), "low", "pruned"))
    low = run(stage(trp(constraints=[{"tensors": "2.*", "energy": 0.1}]), "other", "pruned"))
    assert int(low.network["6.weight"].any(1).sum()) == 64


class Odd(nn.Module):
    """What can't become two layers: a grouped convolution, and a recurrent layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2)
        self.lstm, self.head = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 8, 8] to [n, classes]."""
        y: Tensor = self.head(self.lstm(self.grouped(self.first(x)).flatten(2))[0][:, -1])
        return y


@pytest.mark.parametrize(
    ("constraints", "place", "words"),
    [
        ([{"tensors": "nosuch", "energy": 0.1}], "constraints.0.tensors", "'nosuch' matches no tensor of odd"),
        (
            [{"tensors": "head*", "energy": 0.1}, {"tensors": "grouped*", "energy": 0.1}],
            "constraints.1",
            "grouped has several groups, or padding that is named: it can't be factorised; leave it out",
        ),
        ([{"layers": "LSTM", "energy": 0.1}], "constraints.0", "lstm.weight_ih_l0 is one of several weights of its"),
        ([{"tensors": "h*", "energy": 0.1}] * 2, "constraints.1", "head.weight of shape (10, 8): `lowrank` can't be"),
    ],
)
def test_what_is_wrong_has_its_place(
    stage: MakeTask, monkeypatch: pytest.MonkeyPatch, constraints: Any, place: str, words: str
) -> None:
    """In plans and in the stage."""
    monkeypatch.setitem(MODELS, "odd_ranks", Odd)
    task = stage(trp(constraints=constraints), model="odd_ranks")
    with pytest.raises(SpecError) as caught:
        run(task)
    assert str(caught.value).startswith(f"{place}: {words}")
    if "factorised" in words or "several" in words:
        with pytest.raises(SpecError) as caught:
            fits(task.spec, read_manifest(task.shards))
        assert str(caught.value).startswith(f"{place}: {words}")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"constraints": []}, ("constraints",)),
        *(({"constraints": [{"tensors": "*", "energy": e}]}, ("constraints", 0, "energy")) for e in (0, 1, -0.1, 20)),
        ({"constraints": [{"tensors": "*"}]}, ("constraints", 0, "energy")),
        ({"constraints": [{"tensors": "*", "energy": 0.1, "view": "filter"}]}, ("constraints", 0, "view")),
        ({"interval": 0}, ("interval",)),
        ({"nuclear": -1e-4}, ("nuclear",)),
    ],
)
def test_settings_have_bounds(change: dict[str, Any], place: tuple[Any, ...]) -> None:
    common = {"model": {"name": "digits_cnn"}, "data": {"source": "digits"}}
    with pytest.raises(ValidationError) as caught:
        TrpSpec.model_validate(trp() | common | change)
    assert [error["loc"] for error in caught.value.errors()] == [place]


@pytest.mark.slow
def test_two_ranks_do_what_one_does(stage: MakeTask) -> None:
    """Under every ZeRO stage, and going on from one rank's checkpoint; each with the same ranks."""
    spec = trp(0.2, nuclear=0.01) | SGD
    one = run(stage(spec, "one"))
    tasks = [stage(spec, f"zero{zero}", zero=zero) for zero in range(4)]
    interrupted = stage(spec, "interrupted", checkpoint_steps=3)
    stopped(interrupted, 1)
    on_ranks(2, rank_main, [task.model_dump_json() for task in [*tasks, interrupted]])
    for task in [*tasks, interrupted]:
        got = artefact.load(Folder(task.store) / task.key)
        assert got.manifest["ranks"] == one.manifest["ranks"]
        for name, (_, rank) in got.manifest["ranks"].items():
            assert rank_of(got.network[name], "channel") == rank
        for name, value in one.network.items():
            assert torch.allclose(got.network[name], value, rtol=1e-3, atol=1e-4), (task.key, name)
