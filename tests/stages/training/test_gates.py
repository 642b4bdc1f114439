"""Whole stages of gates: budgets are met, what is closed is taken out exactly, and stopped stages end alike."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import read_manifest
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.gates import GatesSpec
from dualprune.stages.settings.base import SpecError
from dualprune.stages.training.cuts import fits
from dualprune.stages.training.stage import run_stage
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask
from tests.stages.training.budgeted import BOTH, cut_exactly
from tests.stages.training.test_ranks import SGD, rank_main
from tests.stages.training.test_stage import DENSE, made, nonzeros, quiet, resumed, run, same_bytes, stopped

pytestmark = pytest.mark.usefixtures("one_rank")


def gates(macs: float | None = 0.5, **change: Any) -> dict[str, Any]:
    """Two epochs in which all that can be closed has gates."""
    return {
        "kind": "gates",
        "constraints": [{"tensors": "*"}],
        "macs": macs,
        "train": {"epochs": 2, "lr": 0.01},
    } | change


@BOTH
def test_a_budget_is_met_and_a_shrink_after_it_is_exact(stage: MakeTask, model: str) -> None:
    cut_exactly(stage, gates(0.5), model)


def test_closed_blocks_are_taken_out(stage: MakeTask) -> None:
    """Where the budget leaves no room for all three; what is left trains on from the same outputs."""
    made(stage(DENSE, "dense", model="blocks"))
    cut = run(stage(gates(0.08), "gates", "dense", model="blocks"))
    shut = cut.manifest["gates"]["blocks"]
    assert shut
    for path in shut:
        assert not any(
            tensor.any() for name, tensor in cut.network.items() if name.startswith(path) and "." not in name
        )
        assert not cut.network[f"{path}.second.weight"].any()
        assert not cut.network[f"{path}.second.bias"].any()
    small = run(stage({"kind": "shrink", "retrain": {"epochs": 1, "lr": 0.01}}, "small", "gates", model="blocks"))
    assert small.manifest["shrunk"]["idle"] == shut
    assert small.manifest["shrunk"]["difference"] < 1e-5
    assert not any(name.startswith(tuple(f"{path}." for path in shut)) for name in small.network)
    assert small.manifest["metrics"]["macs"] / small.manifest["metrics"]["dense_macs"] <= 0.08


def test_without_time_for_it_the_budget_is_met_at_once(stage: MakeTask) -> None:
    """In one epoch, at the end of `ramp` or of all of it."""
    for ramp in (0.1, 1.0):
        spec = gates(0.3, ramp=ramp, train={"epochs": 1, "lr": 1e-6}, interval=4)
        assert run(stage(spec, f"ramp{ramp}")).manifest["gates"]["macs"] <= 0.3


@BOTH
def test_a_stopped_one_ends_with_the_same_bytes(stage: MakeTask, model: str) -> None:
    """Within an epoch, and between two, with proximal steps every third step."""
    spec = gates(0.4, interval=3, ramp=0.8, optimizer={"name": "sgd", "weight_decay": 0.001})
    whole, cut, within = (
        stage(spec, store=store, model=model, checkpoint_steps=7) for store in ("whole", "cut", "within")
    )
    first = run(whole)
    stopped(cut, 1)
    assert resumed(cut) == 7
    same_bytes(whole, cut)
    asked = iter([False] * 13)
    assert run_stage(within, quiet, lambda: next(asked, True)) is None
    assert resumed(within) == 14
    same_bytes(whole, within)
    assert artefact.load(Folder(within.store) / within.key).manifest["gates"] == first.manifest["gates"]


def test_a_budget_may_be_of_weights(stage: MakeTask) -> None:
    """As the network's own count has them, once it is smaller."""
    cut = run(stage(gates(macs=None, weights=0.5), "gates"))
    assert cut.manifest["gates"]["weights"] <= 0.5
    small = run(stage({"kind": "shrink"}, "small", "gates"))
    before, after = small.manifest["shrunk"]["weights"]
    assert after / before == pytest.approx(cut.manifest["gates"]["weights"])


@pytest.mark.parametrize("given", [{"macs": None}, {"weights": 0.5}])
def test_one_budget_is_given(given: dict[str, Any]) -> None:
    spec = gates(model={"name": "digits_cnn"}, data={"source": "digits"})
    with pytest.raises(ValidationError, match="give either `macs` or `weights`"):
        GatesSpec.model_validate(spec | given)


def test_what_a_parent_pruned_counts_as_closed(stage: MakeTask) -> None:
    """A second budget is of what is left by the first."""
    first = made(stage(gates(0.5), "first"))
    second = run(stage(gates(0.3), "second", "first"))
    assert second.manifest["gates"]["macs"] <= 0.3
    for name, mask in first.holds.items():
        assert not second.network[name][mask == 0].any()
    assert sum(nonzeros(second.network).values()) < sum(nonzeros(first.network).values())


def test_layers_that_are_left_out_stay_whole(stage: MakeTask) -> None:
    """Gates are of what the patterns match."""
    found = run(stage(gates(0.5, constraints=[{"layers": "Conv2d"}]))).manifest["gates"]
    assert set(found["units"]) == {"0.weight", "2.weight"}


@pytest.mark.parametrize(
    ("spec", "place", "words"),
    [
        (gates(0.001), "macs", r"0\.001 of the multiply-accumulates can't be reached: .* 0.0[0-9]+ of them are left"),
        (gates(constraints=[{"tensors": "nosuch"}]), "constraints.0.tensors", "'nosuch' matches no tensor"),
        (gates(constraints=[{"tensors": "8.weight"}]), "constraints.0", "no filters of it can go"),
    ],
)
def test_what_is_wrong_has_its_place(stage: MakeTask, spec: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(SpecError, match=f"^{place}: {words}"):
        run(stage(spec))


def test_a_plan_refuses_what_a_stage_would(stage: MakeTask) -> None:
    """A budget that can't be met, before anything is trained."""
    task = stage(gates(0.001))
    with pytest.raises(SpecError, match=r"^macs: 0\.001 of the multiply-accumulates can't be reached"):
        fits(task.spec, read_manifest(task.shards))
    fits(stage(gates(0.1)).spec, read_manifest(task.shards))


def test_gates_need_an_optimizer_that_averages_gradients() -> None:
    spec = gates(model={"name": "digits_cnn"}, data={"source": "digits"}, optimizer={"name": "sgd", "momentum": 0.0})
    with pytest.raises(ValidationError, match="give it a `momentum` above 0"):
        GatesSpec.model_validate(spec)


@pytest.mark.slow
def test_two_ranks_do_what_one_does(stage: MakeTask) -> None:
    """Under every ZeRO stage; and the same units are closed."""
    spec = gates(0.5) | SGD
    one = run(stage(spec, "one"))
    tasks = [stage(spec, f"zero{zero}", zero=zero) for zero in range(4)]
    interrupted = stage(spec, "interrupted", checkpoint_steps=3)
    stopped(interrupted, 1)
    on_ranks(2, rank_main, [task.model_dump_json() for task in [*tasks, interrupted]])
    for task in [*tasks, interrupted]:
        got = artefact.load(Folder(task.store) / task.key)
        assert got.manifest["gates"]["macs"] == pytest.approx(one.manifest["gates"]["macs"], abs=0.02)
        for name, mask in one.holds.items():
            assert float((mask == got.holds[name]).float().mean()) > 0.97, (task.key, name)
            assert not got.network[name][got.holds[name] == 0].any()
