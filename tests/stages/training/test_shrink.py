"""Whole stages that make networks smaller: exact after coupled prunes; masks, duals and fixed values go with them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.artefacts import artefact
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.coupling.cut import macs
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.structure import Structure
from dualprune.stages.settings.base import SpecError
from dualprune.stages.training import shaping
from dualprune.stages.training.measure import measure
from tests.processes import PATH, ROOT
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask
from tests.stages.training.test_ranks import SGD, rank_main
from tests.stages.training.test_stage import DENSE, made, nonzeros, prune, resumed, run, same_bytes, stopped

pytestmark = pytest.mark.usefixtures("one_rank")

HALF = {"set": "filter", "tensors": "*", "macs": 0.5, "coupled": True}
CUT = prune(constraints=[HALF], retrain={"epochs": 0, "lr": 0.01})
SMALL: dict[str, Any] = {"kind": "shrink", "retrain": {"epochs": 2, "lr": 0.005}}
AT_ONCE = SMALL | {"constraints": [{"set": "filter", "tensors": "*", "keep": 0.5, "coupled": True}]}


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.first, self.second = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] to the same."""
        return F.relu(x + self.second(self.two(F.relu(self.first(self.one(x))))))


class Blocks(nn.Module):
    """For grey pictures of any size: three residual blocks."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(*(Block(8) for _ in range(3)))
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, h, w] to [n, classes]."""
        y: Tensor = self.head(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))
        return y


@pytest.fixture
def stage(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> MakeTask:
    """Stages of `digits_cnn`, or of `blocks`."""
    monkeypatch.setitem(MODELS, "blocks", Blocks)

    def make(*args: Any, model: str = "digits_cnn", **settings: Any) -> StageJob:
        return make_task(*args, model=model, **settings)

    return make


PICTURES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_after_a_coupled_prune_it_is_exact_and_needs_no_parents(stage: MakeTask, tmp_path: Path) -> None:
    """Without retraining it gives what the masked network gives, from its own folder, in a process of its own."""
    made(stage(DENSE, "dense", model="blocks"))
    cut = made(stage(CUT, "cut", "dense", model="blocks"))
    small = run(stage({"kind": "shrink"}, "small", "cut", model="blocks"))
    assert set(nonzeros(small.network)) == set(nonzeros(cut.network))
    facts = small.manifest["shrunk"]
    assert facts["difference"] < 1e-5
    before, after = artefact.network(cut), artefact.network(small)
    with torch.no_grad():
        assert torch.allclose(before(PICTURES), after(PICTURES), atol=1e-5)
    assert facts["macs"] == [macs(before, (PICTURES,), {}), macs(after, (PICTURES,), {})]
    assert 0.4 < facts["macs"][1] / facts["macs"][0] <= 0.5
    assert facts["weights"][1] == small.manifest["metrics"]["network_weights"] < facts["weights"][0]
    assert all(
        after.get_parameter(f"blocks.{n}.one.weight").shape[1]
        == after.stem.weight.shape[0]
        == facts["units"]["stem.weight"][1]
        for n in range(3)
    )
    assert small.manifest["metrics"]["val_accuracy"] == cut.manifest["metrics"]["val_accuracy"]
    for key in ("dense", "cut"):
        shutil.rmtree(tmp_path / "store" / key)
    program = """
import json, sys, torch
from dualprune.stages.artefacts import artefact
from dualprune.stages.files.folder import Folder
from dualprune.stages.networks.builtin import MODELS
from tests.stages.training.test_shrink import Blocks, PICTURES
MODELS["blocks"] = Blocks
print(json.dumps(artefact.network(artefact.load(Folder(sys.argv[1])))(PICTURES).tolist()))
"""
    there = str(tmp_path / "store" / "small")
    said = subprocess.run(
        [sys.executable, "-c", program, there], cwd=ROOT, env={"PYTHONPATH": PATH}, capture_output=True, check=True
    )
    with torch.no_grad():
        assert torch.allclose(torch.tensor(json.loads(said.stdout)), after(PICTURES))
    assert measure(there, stage(DENSE).shards)["test_accuracy"] == small.manifest["metrics"]["test_accuracy"]


def test_a_coupled_prune_is_held_in_retraining(stage: MakeTask) -> None:
    """Masks are what the units that stay leave of each tensor; a prune after it stays within them."""
    made(stage(DENSE, "dense"))
    half = HALF | {"macs": None, "rate": 2}
    cut = run(stage(prune(constraints=[half]), "cut", "dense"))
    left = {"0.weight": 8 * 9, "2.weight": 16 * 8 * 9, "6.weight": 64 * 256, "8.weight": 64 * 10}
    assert nonzeros(cut.network) == left
    assert {name: one["nonzeros"] for name, one in cut.manifest["tensors"].items()} == left
    assert {tuple(one["sets"]) for one in cut.manifest["tensors"].values()} == {("filter",)}
    assert set(cut.manifest["residuals"]) == set(left)
    for name, mask in cut.holds.items():
        assert torch.equal(mask, (cut.network[name] != 0).float())
    rows = cut.holds["2.weight"].flatten(1).any(1)
    assert rows.sum() == 16
    assert torch.equal(cut.holds["6.weight"].view(128, 32, 16).any(0).any(1), rows)
    quarter = run(stage(prune(constraints=[half | {"rate": 4}], duals="carry"), "quarter", "cut"))
    assert nonzeros(quarter.network)["6.weight"] == 32 * 128
    assert all((quarter.holds[name] <= mask).all() for name, mask in cut.holds.items())


def test_masks_and_duals_go_with_the_network(stage: MakeTask) -> None:
    """A network pruned 10x is cut to half of its units: what is left of the masks holds in retraining, and a later
    prune starts from what is left of U."""
    made(stage(DENSE, "dense"))
    thin = made(stage(prune(10.0), "thin", "dense"))
    small = run(stage(AT_ONCE, "small", "thin"))
    edits = Structure.model_validate(small.manifest["structure"])
    masks, duals = edits.carry(thin.holds), edits.carry(thin.duals)
    assert small.network["2.weight"].shape == (16, 8, 3, 3)
    for name, mask in masks.items():
        assert torch.equal(small.holds[name], mask)
        assert not small.network[name][mask == 0].any()
        assert small.network[name].count_nonzero() > 0.95 * mask.sum()
        assert torch.equal(small.duals[name], duals[name])
    assert not torch.equal(small.network["2.weight"], edits.carry(thin.network)["2.weight"])
    assert (small.manifest["solved"], small.manifest["rho"]) == ("prune", thin.manifest["rho"])
    later = prune(2.0, duals="carry", admm={"updates": 1, "lr": 1e-9, "rho": 0.1}, retrain={"epochs": 0, "lr": 0.1})
    last = run(stage(later, "last", "small"))
    for name, u in duals.items():
        w, u = small.network[name], u * (thin.manifest["rho"] / 0.1) * masks[name]
        assert torch.allclose(last.duals[name], u + w - Cardinality(w.numel() // 2).project(w + u), atol=1e-4), name
        assert u.any()


def test_a_stopped_stage_ends_with_the_same_bytes(stage: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken out is decided once, also where nothing is saved yet; but not kept of another parent."""
    for store in ("whole", "stopped"):
        made(stage(DENSE, "dense", store=store))
        made(stage(CUT, "cut", "dense", store=store))
    whole = stage(SMALL, "small", "cut", store="whole", checkpoint_steps=3)
    run(whole)
    task = stage(SMALL, "small", "cut", store="stopped", checkpoint_steps=3)
    stopped(task, 1)
    shape = Folder(task.store) / task.key / "checkpoints"
    kept = shape.read_json(shaping.SHAPE)
    shape.write_json(shaping.SHAPE, kept | {"parent": "another"})  # a checkpoint is there: its shape counts
    with monkeypatch.context() as patch:
        patch.setattr(shaping, "Before", None)
        assert resumed(task) > 0
    same_bytes(task, whole)
    again = stage(SMALL, "again", "cut", store="stopped")
    other = Folder(again.store) / again.key / "checkpoints"
    other.write_json(shaping.SHAPE, {"parent": "another", "structure": {}, "facts": {}})
    assert run(again).manifest["structure"] == kept["structure"]
    assert not other.exists(shaping.SHAPE)


@pytest.mark.parametrize(
    ("constraint", "units", "part"),
    [
        ({"set": "filter", "tensors": "2.weight", "rate": 4}, {"2.weight": [32, 8]}, {}),
        ({"set": "channel", "tensors": "2.weight", "rate": 4}, {"0.weight": [16, 4]}, {}),
        ({"set": "row", "tensors": "6.weight", "rate": 4}, {"6.weight": [128, 32]}, {}),
        ({"set": "cardinality", "tensors": "[02].weight", "rate": 2}, {}, {}),
    ],
)
def test_after_prunes_of_single_tensors_it_takes_out_what_it_can(
    constraint: dict[str, Any], units: dict[str, Any], part: dict[str, int], stage: MakeTask
) -> None:
    """And says where that is nothing."""
    made(stage(DENSE, "dense"))
    pruned = prune(constraints=[constraint], admm=None, retrain={"epochs": 0, "lr": 0.01})
    made(stage(pruned, "pruned", "dense"))
    task = stage({"kind": "shrink"}, "small", "pruned")
    if not units:
        with pytest.raises(SpecError, match="nothing would be taken out: no unit is zero in all") as caught:
            run(task)
        assert "coupled: true" in str(caught.value)
        return
    facts = run(task).manifest["shrunk"]
    assert (facts["units"], facts["part"]) == (units, part)


def test_widths_are_multiples(stage: MakeTask) -> None:
    """Of units that are zero some stay."""
    made(stage(DENSE, "dense"))
    third = prune(constraints=[HALF | {"macs": None, "keep": 0.3}], admm=None, retrain={"epochs": 0, "lr": 0.01})
    made(stage(third, "third", "dense"))
    small = run(stage({"kind": "shrink", "multiple": 8}, "small", "third"))
    assert small.manifest["shrunk"]["units"] == {"0.weight": [16, 8], "2.weight": [32, 16], "6.weight": [128, 40]}
    assert small.manifest["shrunk"]["difference"] < 1e-5


def test_blocks_and_pixels_are_taken_out(stage: MakeTask, tmp_path: Path) -> None:
    """The block without which the loss on validation is least; pictures are smaller in training and evaluation."""
    dense = made(stage(DENSE, "dense", model="blocks"))
    spec = SMALL | {"blocks": {"remove": 1, "samples": 50}, "resolution": 6}
    small = run(stage(spec, "small", "dense", model="blocks"))
    edits = small.manifest["structure"]["edits"]
    assert [edit["edit"] for edit in edits] == ["resolution", "remove"]
    ((gone, loss),) = small.manifest["shrunk"]["blocks"].items()
    assert edits[1]["module"] == gone
    assert loss > 0
    network = artefact.network(small)
    seen: list[torch.Size] = []
    network.stem.register_forward_hook(lambda _, given, out: seen.append(out.shape))
    network(PICTURES)
    assert seen == [(4, 8, 6, 6)]
    assert set(dense.network) - set(small.network) == {name for name in dense.network if name.startswith(f"{gone}.")}
    before, after = small.manifest["shrunk"]["macs"]
    assert after < before * (6 / 8) ** 2
    assert (
        measure(str(tmp_path / "store" / "small"), stage(DENSE).shards)["val_accuracy"]
        == (small.manifest["metrics"]["val_accuracy"])
    )


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        ({"blocks": {"remove": 4}}, ("blocks", "remove"), "4 blocks can't be removed"),
        ({"resolution": 8}, ("resolution",), "of this size already"),
        ({"constraints": [HALF | {"macs": None, "keep": 1.0}]}, ("kind",), "the constraints keep all units"),
        (
            {"constraints": [{"set": "head", "tensors": "*", "keep": 0.5, "coupled": True}]},
            ("constraints", 0),
            "no heads of it can go",
        ),
        (
            {"constraints": [{"set": "filter", "tensors": "*", "count": 9, "coupled": True}]},
            ("constraints", 0),
            "asks for 9 filters, but there are 8",
        ),
    ],
)
def test_what_can_not_be_taken_out(
    change: dict[str, Any], path: tuple[str | int, ...], text: str, stage: MakeTask
) -> None:
    made(stage(DENSE, "dense", model="blocks"))
    with pytest.raises(SpecError) as caught:
        run(stage(SMALL | change, "small", "dense", model="blocks"))
    ((place, told),) = caught.value.problems
    assert place == path
    assert text in told


def test_a_count_that_only_the_dense_network_has_is_refused_at_the_start(stage: MakeTask) -> None:
    made(stage(DENSE, "dense"))
    run(stage(AT_ONCE | {"retrain": None}, "small", "dense"))
    count = {"set": "cardinality", "tensors": "2.weight", "count": 4000}
    with pytest.raises(SpecError, match=r"2.weight of shape \(16, 8, 3, 3\)"):
        run(stage(prune(constraints=[count]), "thin", "small"))


def test_fixed_values_survive_and_the_dense_network_teaches(stage: MakeTask) -> None:
    """Levels of a quantised network, in what is left of it, while the rest is trained, also from the dense one."""
    made(stage(DENSE, "dense"))
    made(stage(CUT, "cut", "dense"))
    levels = {
        "kind": "quantize",
        "constraints": [{"set": "levels", "levels": "equidistant", "bits": 4, "tensors": ["*", "!0.*"]}],
        "admm": {"updates": 1, "lr": 0.005, "rho": 0.05},
    }
    coarse = made(stage(levels, "coarse", "cut"))
    task = stage(SMALL | {"distill": {"weight": 0.5, "temperature": 2.0}}, "small", "coarse")
    small = run(task.model_copy(update={"teacher": stage(DENSE, "x", "dense").parent}))
    edits = Structure.model_validate(small.manifest["structure"])
    left = edits.carry(coarse.network)
    assert small.manifest["fixed"] == coarse.manifest["fixed"]
    for name in small.manifest["fixed"]:
        assert torch.equal(small.network[name], left[name])
    assert not torch.equal(small.network["0.weight"], left["0.weight"])
    assert small.manifest["metrics"]["bytes"] < coarse.manifest["metrics"]["bytes"]


def test_a_layer_of_low_rank_becomes_two(stage: MakeTask, tmp_path: Path) -> None:
    """Which train on, and are cut with the rest later."""
    made(stage(DENSE, "dense"))
    lowrank = prune(constraints=[{"set": "lowrank", "tensors": "6.weight", "rank": 4}], admm=None)
    made(stage(lowrank, "lowrank", "dense"))
    small = run(stage(SMALL, "small", "lowrank"))
    assert small.manifest["shrunk"]["factorised"] == {"6": 4}
    assert small.manifest["shrunk"]["difference"] < 1e-4
    assert "6.weight" not in small.network
    assert small.manifest["fixed"] == {}
    smaller = run(stage(AT_ONCE | {"retrain": None}, "smaller", "small"))
    assert smaller.manifest["metrics"]["network_weights"] < 0.6 * small.manifest["metrics"]["network_weights"]
    assert (
        measure(str(tmp_path / "store" / "smaller"), stage(DENSE).shards)["val_accuracy"]
        == (smaller.manifest["metrics"]["val_accuracy"])
    )


@pytest.mark.slow
def test_two_ranks_do_what_one_does(stage: MakeTask, tmp_path: Path) -> None:
    """Under every ZeRO stage: the same units, the same weights but for rounding; also where one rank began."""
    tasks: list[StageJob] = []
    for zero in range(4):
        where = {"store": f"zero{zero}", "zero": zero}
        tasks += [stage(DENSE | SGD, "dense", **where), stage(CUT | SGD, "cut", "dense", **where)]
        tasks += [stage(SMALL | SGD, "small", "cut", **where)]
    for task in (stage(DENSE | SGD, "dense"), stage(CUT | SGD, "cut", "dense"), stage(SMALL | SGD, "small", "cut")):
        run(task)
    begun = stage(SMALL | SGD, "begun", "cut", checkpoint_steps=3)
    stopped(begun, 1)
    on_ranks(2, rank_main, [task.model_dump_json() for task in [*tasks, begun]])
    for task in [*tasks, begun]:
        expected = artefact.load(Folder(str(tmp_path / "store" / task.key.replace("begun", "small"))))
        got = artefact.load(Folder(task.store) / task.key)
        assert nonzeros(got.network) == nonzeros(expected.network), task.store
        assert got.manifest.get("structure") == expected.manifest.get("structure"), task.store
        for name, value in expected.network.items():
            assert float((got.network[name] - value).abs().mean()) < 0.01 * float(value.abs().mean()), (
                task.store,
                name,
            )
