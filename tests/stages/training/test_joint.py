"""Whole stages of joint: budgets are met, what is closed is taken out exactly, and stopped stages end alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import read_manifest
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.joint import JointSpec
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.base import SpecError
from dualprune.stages.training.cuts import fits
from dualprune.stages.training.stage import run_stage
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask
from tests.stages.training.budgeted import BOTH, cut_exactly
from tests.stages.training.test_ranks import SGD, rank_main
from tests.stages.training.test_shrink import Blocks
from tests.stages.training.test_stage import DENSE, made, nonzeros, quiet, resumed, run, same_bytes, stopped
from tests.stages.training.test_stage_solver import rows

pytestmark = pytest.mark.usefixtures("one_rank")


def joint(macs: float | None = 0.5, **change: Any) -> dict[str, Any]:
    """Two epochs in which all that can be closed is searched, in the first of them."""
    return {
        "kind": "joint",
        "constraints": [{"tensors": "*"}],
        "macs": macs,
        "train": {"epochs": 2, "lr": 0.01},
        "interval": 1,
        "pairs": 2,
        "rate": 0.5,
    } | change


@BOTH
def test_a_budget_is_met_and_a_shrink_after_it_is_exact(stage: MakeTask, model: str) -> None:
    cut_exactly(stage, joint(0.5), model)


def test_the_size_of_pictures_goes_with_the_network(stage: MakeTask) -> None:
    """Where it is searched, and the budget leaves no room for all of it: later stages have it too."""
    made(stage(DENSE, "dense", model="blocks"))
    spec = joint(0.015, resolutions=[6, 4])
    cut = run(stage(spec, "joint", "dense", model="blocks"))
    facts = cut.manifest["joint"]
    own, side = facts["resolution"]
    assert own == 8
    assert side < own
    assert cut.manifest["structure"]["edits"] == [{"edit": "resolution", "module": "", "size": side}]
    small = run(stage({"kind": "shrink"}, "small", "joint", model="blocks"))
    metrics = small.manifest["metrics"]
    assert metrics["macs"] / metrics["dense_macs"] == pytest.approx(facts["macs"])
    assert facts["macs"] <= 0.015
    assert small.manifest["metrics"]["val_accuracy"] == cut.manifest["metrics"]["val_accuracy"]


@BOTH
def test_a_stopped_one_ends_with_the_same_bytes(stage: MakeTask, model: str) -> None:
    """Within the search and after it, with steps of the vector every third step."""
    sizes = {"resolutions": [6]} if model == "blocks" else {}
    spec = joint(0.4, interval=3, ramp=0.7, optimizer={"name": "sgd", "weight_decay": 0.001}, **sizes)
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
    assert artefact.load(Folder(within.store) / within.key).manifest["joint"] == first.manifest["joint"]


def test_what_is_wasted_goes_first(stage: MakeTask) -> None:
    """Of two layers that cost the same, that which no output needs."""
    made(stage({"kind": "train", "train": {"epochs": 8, "lr": 0.01}}, "dense", model="wasteful"))
    spec = joint(0.6, train={"epochs": 6, "lr": 0.003}, ramp=0.8, pairs=4, weight=0.5)
    task = stage(spec, "joint", "dense", model="wasteful")
    units = run(task).manifest["joint"]["units"]
    assert units["needed.weight"][1] > 2 * units["waste.weight"][1], units
    assert rows(task)[-1]["macs_found"] == pytest.approx(0.6, abs=0.1)


def test_a_budget_may_be_of_weights(stage: MakeTask) -> None:
    """As the network's own count has them, once it is smaller."""
    cut = run(stage(joint(macs=None, weights=0.5), "joint"))
    assert cut.manifest["joint"]["weights"] <= 0.5
    small = run(stage({"kind": "shrink"}, "small", "joint"))
    before, after = small.manifest["shrunk"]["weights"]
    assert after / before == pytest.approx(cut.manifest["joint"]["weights"])


def test_layers_that_are_left_out_stay_whole(stage: MakeTask) -> None:
    """What is searched is what the patterns match."""
    found = run(stage(joint(0.5, constraints=[{"layers": "Conv2d"}]))).manifest["joint"]
    assert set(found["units"]) == {"0.weight", "2.weight"}


WRONG = [
    (joint(0.001), "macs", r"0\.001 of the multiply-accumulates can't be reached: .* 0.0[0-9]+ of them are left"),
    (joint(constraints=[{"tensors": "nosuch"}]), "constraints.0.tensors", "'nosuch' matches no tensor"),
    (joint(constraints=[{"tensors": "8.weight"}]), "constraints.0", "no filters of it can go"),
    (joint(resolutions=[4]), "resolutions", "4: the network can't take pictures of 4 x 4: RuntimeError"),
]


@pytest.mark.parametrize(("spec", "place", "words"), WRONG)
def test_what_is_wrong_has_its_place(stage: MakeTask, spec: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(SpecError, match=f"^{place}: {words}"):
        run(stage(spec))


def test_a_plan_refuses_what_a_stage_would(stage: MakeTask) -> None:
    """A budget that can't be met, or pictures that the network can't take, before anything is trained."""
    for spec, place, words in (WRONG[0], WRONG[3]):
        task = stage(spec)
        with pytest.raises(SpecError, match=f"^{place}: {words}"):
            fits(task.spec, read_manifest(task.shards))
    task = stage(joint(0.5, resolutions=[12]), model="blocks")
    with pytest.raises(SpecError, match=r"^resolutions: 12 is not below the 8 pixels that pictures have already"):
        fits(task.spec, read_manifest(task.shards))
    fits(stage(joint(0.1)).spec, read_manifest(task.shards))
    fits(stage(joint(0.01, resolutions=[4, 6]), model="blocks").spec, read_manifest(task.shards))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"macs": None}, "give either `macs` or `weights`"),
        ({"weights": 0.5}, "give either `macs` or `weights`"),
        ({"resolutions": [4], "distill": {"weight": 0.5, "hidden": {"modules": "0"}}}, "distill outputs alone"),
        ({"macs": None, "weights": 0.5, "resolutions": [4]}, "`resolutions` don't change how many weights there are"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], words: str) -> None:
    spec = joint(model={"name": "digits_cnn"}, data={"source": "digits"})
    with pytest.raises(ValidationError, match=words):
        JointSpec.model_validate(spec | given)


def test_what_a_parent_pruned_counts_as_closed(stage: MakeTask) -> None:
    """A second budget is of what is left by the first."""
    first = made(stage(joint(0.5), "first", model="blocks"))
    second = run(stage(joint(0.3), "second", "first", model="blocks"))
    assert second.manifest["joint"]["macs"] <= 0.3
    for name, mask in first.holds.items():
        assert not second.network[name][mask == 0].any()
    assert sum(nonzeros(second.network).values()) < sum(nonzeros(first.network).values())
    assert set(first.manifest["joint"]["blocks"]) <= set(second.manifest["joint"]["blocks"])


@pytest.mark.slow
def test_two_ranks_do_what_one_does(stage: MakeTask) -> None:
    """Under every ZeRO stage; and the same units are closed."""
    spec = joint(0.5) | SGD
    one = run(stage(spec, "one"))
    tasks = [stage(spec, f"zero{zero}", zero=zero) for zero in range(4)]
    tasks += [stage(spec, f"parts{zero}", zero=zero, accumulate=2) for zero in range(4)]
    interrupted = stage(spec, "interrupted", checkpoint_steps=3)
    stopped(interrupted, 1)
    on_ranks(2, rank_main, [task.model_dump_json() for task in [*tasks, interrupted]])
    for task in [*tasks, interrupted]:
        got = artefact.load(Folder(task.store) / task.key)
        assert got.manifest["joint"] == one.manifest["joint"], task.key
        for name, mask in one.holds.items():
            assert torch.equal(mask, got.holds[name])
            assert not got.network[name][got.holds[name] == 0].any()
            assert torch.allclose(got.network[name], one.network[name], atol=1e-4), (task.key, name)


def blocks_main(tasks: list[str]) -> None:
    """One of two ranks that know `blocks`."""
    MODELS["blocks"] = Blocks
    rank_main(tasks)


@pytest.mark.slow
@pytest.mark.soak
def test_every_zero_stage_finds_the_same(stage: MakeTask) -> None:
    """With batch normalisation, blocks and sizes of pictures, whose statistics are each rank's own."""
    spec = joint(0.3, resolutions=[6]) | SGD
    tasks = [stage(spec, f"zero{zero}", model="blocks", zero=zero) for zero in range(4)]
    on_ranks(2, blocks_main, [task.model_dump_json() for task in tasks])
    first, *others = (artefact.load(Folder(task.store) / task.key) for task in tasks)
    assert first.manifest["joint"]["macs"] <= 0.3
    for other in others:
        assert other.manifest["joint"] == first.manifest["joint"]
        for name, tensor in first.network.items():
            assert torch.allclose(tensor.double(), other.network[name].double(), atol=1e-4), name
