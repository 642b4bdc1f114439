"""Whole stages that prune layer by layer: sets hold, errors are told, stopped stages and ranks end alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.constraints import SETS
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.constrained import check
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.kinds.layerwise import LayerwiseSpec
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.base import SpecError
from dualprune.stages.solver import layerwise as layers
from dualprune.stages.solver.solved import Solved
from dualprune.stages.training.stage import run_stage
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask
from tests.stages.training.test_ranks import SGD, rank_main
from tests.stages.training.test_stage import (
    DENSE,
    Stop,
    made,
    nonzeros,
    prune,
    quiet,
    resumed,
    run,
    same_bytes,
    stopped,
)

pytestmark = pytest.mark.usefixtures("one_rank")

HALF: dict[str, Any] = {"set": "cardinality", "tensors": "*", "keep": 0.5}
RETRAIN: dict[str, Any] = {"retrain": {"epochs": 2, "lr": 0.01}}


def layerwise(*constraints: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Half of each layer, on a few samples."""
    return {"kind": "layerwise", "constraints": list(constraints or [HALF]), "samples": 60} | change


@pytest.fixture
def stage(make_task: MakeTask) -> MakeTask:
    """Stages of `digits_cnn`, convolutions and linear layers, after the stage `dense`."""

    def make(spec: dict[str, Any], key: str = "pruned", parent: str = "dense", **more: Any) -> StageJob:
        store = {"store": more["store"]} if "store" in more else {}
        made(make_task(DENSE, "dense", model="digits_cnn", **store))
        return make_task(spec, key, parent, model="digits_cnn", **more)

    return make


def at_once(*constraints: dict[str, Any]) -> dict[str, Any]:
    """The same by magnitude."""
    return {"kind": "prune", "constraints": list(constraints), "admm": None, "retrain": {"epochs": 0, "lr": 0.1}}


def loss(found: artefact.Artefact) -> float:
    """On validation."""
    return float(found.manifest["metrics"]["val_loss"])


@pytest.mark.parametrize(
    "one",
    [
        {"set": "cardinality", "tensors": "*", "rate": 8},
        {"set": "nm", "tensors": ["*", "!0.weight"], "n": 1, "m": 4},
        {"set": "block", "tensors": "6.weight", "p": 4, "q": 8, "keep": 0.3},
        {"set": "column", "tensors": "*", "keep": 0.4},
        {"set": "lowrank", "tensors": "[26].weight", "rank": 6},
    ],
    ids=lambda one: str(one["set"]),
)
def test_it_stays_in_its_set_and_does_better_than_magnitude(stage: MakeTask, one: dict[str, Any]) -> None:
    """Without any training, and what no constraint names stays as it was."""
    task = stage(layerwise(one))
    found, plain = run(task), made(stage(at_once(one), "plain"))
    assert loss(found) < loss(plain)
    (settings,) = LayerwiseSpec.model_validate(found.manifest["spec"]).constraints
    for name, tensor in found.manifest["tensors"].items():
        assert SETS[one["set"]].make(settings, tuple(tensor["shape"])).contains(found.network[name])
        if one["set"] != "lowrank":
            assert not found.network[name][found.holds[name] == 0].any()
        assert 0 < found.manifest["layers"][name]["error"] < 1
    assert list(found.manifest["layers"]) == sorted(found.manifest["tensors"])
    dense = artefact.load(Folder(task.store) / "dense")
    for name in set(found.network) - set(found.manifest["tensors"]):
        assert torch.equal(found.network[name], dense.network[name]), name


def test_retraining_and_prunes_after_it_keep_what_is_zero(stage: MakeTask) -> None:
    pruned = run(stage(layerwise(**RETRAIN), "pruned"))
    further = {"set": "cardinality", "tensors": "*", "keep": 0.25}
    again = run(stage(layerwise(further), "again", "pruned"))
    later = run(stage(prune(3.0), "later", "pruned"))
    for name, mask in pruned.holds.items():
        assert int(mask.sum()) == mask.numel() // 2
        for found in (pruned, again, later):
            assert not found.network[name][mask == 0].any()
    assert nonzeros(again.network)["6.weight"] == pruned.holds["6.weight"].numel() // 4
    assert loss(pruned) < loss(run(stage(layerwise(), "untrained")))


def test_a_stopped_one_ends_with_the_same_bytes(stage: MakeTask) -> None:
    """While it retrains."""
    whole, cut = (stage(layerwise(**RETRAIN), store=store, checkpoint_steps=7) for store in ("whole", "cut"))
    run(whole)
    stopped(cut, 1)
    assert resumed(cut) == 7
    same_bytes(whole, cut)


def test_one_that_is_stopped_between_layers_goes_on_after_the_last(stage: MakeTask) -> None:
    whole, cut = (stage(layerwise(), store=store) for store in ("whole", "cut"))
    run(whole)
    told: list[dict[str, Any]] = []
    assert run_stage(cut, told.append, lambda: True) is None
    assert told == [{"event": "stopped", "steps": 0}]
    place = Folder(cut.store) / cut.key
    assert place.exists("checkpoints/layers/0.json")
    assert not place.exists("checkpoints/layers/1.json")
    run(cut)
    same_bytes(whole, cut)


def test_one_that_dies_between_layers_goes_on_after_the_last(stage: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless its parent has become another meanwhile; and nothing of it is left."""
    whole, cut, other = (stage(layerwise(), store=store) for store in ("whole", "cut", "other"))
    run(whole)
    solved: list[torch.Size] = []
    plain = layers.solve

    def noted(w: torch.Tensor, *args: Any) -> Solved:
        solved.append(w.shape)
        if len(solved) == 3:
            raise Stop
        return plain(w, *args)

    monkeypatch.setattr(layers, "solve", noted)
    for task in (cut, other):
        solved.clear()
        with pytest.raises(Stop):
            run_stage(task, quiet)
    found = run(cut)
    assert len(solved) == 3 + len(found.manifest["layers"]) - 2
    same_bytes(whole, cut)
    assert not (Folder(cut.store) / cut.key).exists("checkpoints/layers/0.json")
    for note in ("0.json", "1.json"):
        place = Folder(other.store) / other.key / "checkpoints" / "layers"
        place.write_json(note, place.read_json(note) | {"parent": "0" * 64})
    solved.clear()
    solved += [torch.Size()] * 3
    run(other)
    assert len(solved) == 3 + len(found.manifest["layers"])


@pytest.mark.slow
def test_two_ranks_do_what_one_does(stage: MakeTask) -> None:
    """The same masks under every ZeRO stage, and after retraining nearly the same weights."""
    spec = layerwise(**RETRAIN) | SGD
    one = run(stage(spec, "one"))
    tasks = [stage(spec, f"zero{zero}", zero=zero) for zero in range(4)]
    on_ranks(2, rank_main, [task.model_dump_json() for task in tasks])
    for task in tasks:
        got = artefact.load(Folder(task.store) / task.key)
        for name, mask in one.holds.items():
            assert torch.equal(got.holds[name], mask), (task.key, name)
        for name, facts in one.manifest["layers"].items():
            assert got.manifest["layers"][name] == pytest.approx(facts, rel=1e-3)
        for name, value in one.network.items():
            assert torch.allclose(got.network[name], value, rtol=1e-3, atol=1e-4), (task.key, name)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_one_rank_does_the_same_sharded(stage: MakeTask, zero: int) -> None:
    whole, sharded = run(stage(layerwise(), "whole")), run(stage(layerwise(), "sharded", zero=zero))
    for name, value in whole.network.items():
        assert torch.equal(value, sharded.network[name]), name


class Odd(nn.Module):
    """For 8 x 8 pictures, with layers that can't be pruned by their inputs."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(1, 4, 1)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.first, self.again = nn.Linear(64, 64), nn.Linear(64, 64)
        self.again.weight = self.first.weight
        self.idle = nn.Linear(64, 64)
        self.last = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All but `idle`."""
        x = self.deep(self.up(x)).flatten(2)
        x = self.again(self.first(self.attention(x, x, x)[0]))
        out: torch.Tensor = self.last(x.mean(1))
        return out


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ("deep.weight", "constraints: deep.weight is of a convolution in 4 groups: only linear layers and convol"),
        ("up.weight", "constraints: up.weight is of type ConvTranspose2d: only"),
        ("attention.in_proj_weight", "constraints: attention.in_proj_weight is of type MultiheadAttention: only"),
        ("attention.out_proj.weight", "constraints: .* a part of MultiheadAttention, which uses its weight and nev"),
        ("first.weight", "constraints: first.weight is of first.weight and again.weight together: only"),
    ],
)
def test_layers_that_cannot_be_are_refused_by_plans(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, tensors: str, words: str
) -> None:
    monkeypatch.setitem(MODELS, "odd", Odd)
    with pytest.raises(SpecError, match=words):
        check(make_task(layerwise(HALF | {"tensors": tensors}), "pruned", "dense", model="odd").spec)


def test_a_layer_that_is_never_called_is_told(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "odd", Odd)
    made(make_task({"kind": "train", "train": {"epochs": 0, "lr": 0.1}}, "dense", model="odd"))
    both = HALF | {"tensors": ["idle.weight", "last.weight"]}
    with pytest.raises(SpecError, match=r"^constraints: idle\.weight: never called on calibration data"):
        run(make_task(layerwise(both), "pruned", "dense", model="odd"))


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (HALF | {"scope": "global"}, r"constraints.0.scope: `scope: global` can't be had layer by layer"),
        (
            {"set": "filter", "tensors": "*", "keep": 0.5, "coupled": True},
            r"constraints.0.coupled: `coupled: true` can't be had layer by layer",
        ),
        ({"set": "lowrank", "tensors": "*", "rank": 2, "view": "spatial"}, r"constraints.0.view: `view: spatial`"),
    ],
)
def test_sets_over_several_layers_are_refused_by_plans(make_task: MakeTask, one: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        check(make_task(layerwise(one), model="digits_cnn").spec)


def test_settings_that_make_no_sense_are_refused() -> None:
    common = {"model": {"name": "lenet5"}, "data": {"source": "mnist"}}
    with pytest.raises(ValidationError, match="`distill` is of training, and `retrain` is not given"):
        LayerwiseSpec.model_validate(common | layerwise(distill={"weight": 0.5}))
    with pytest.raises(ValidationError, match="damping"):
        LayerwiseSpec.model_validate(common | layerwise(damping=0))
