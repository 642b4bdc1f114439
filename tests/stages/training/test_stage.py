"""Whole stages on real shards in this process: counts, masks, duals, and stopped stages that end with the same bits."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.manifest import Damaged, check, read
from dualprune.stages.data.format import DataError
from dualprune.stages.engine.engine import Engine
from dualprune.stages.files.folder import Folder, canonical, sha256
from dualprune.stages.kinds.base import Phase, learning_rate
from dualprune.stages.kinds.job import Parent, StageJob
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.kinds.table import phases
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import Rate
from dualprune.stages.training.measure import measure
from dualprune.stages.training.stage import run_stage
from dualprune.stages.training.step import NonFinite
from tests.stages.conftest import PLACES, MakeTask

pytestmark = pytest.mark.usefixtures("one_rank")

FILES = ["model.safetensors", "holds.safetensors", "duals.safetensors", "metrics.jsonl"]
DENSE: dict[str, Any] = {"kind": "train", "train": {"epochs": 2, "lr": 0.01}}


class Stop(Exception):
    """Raised by the log, as a machine that goes away would."""


def prune(rate: float = 4.0, **change: Any) -> dict[str, Any]:
    """A prune of every weight: two ADMM phases, then retraining; four epochs in all."""
    return {
        "kind": "prune",
        "constraints": [{"set": "cardinality", "tensors": "*", "rate": rate}],
        "admm": {"updates": 2, "lr": 0.01, "rho": 0.05, "rho_growth": 2.0},
        "retrain": {"epochs": 2, "lr": 0.01},
        "optimizer": {"name": "adam", "weight_decay": 0.001},
    } | change


def quiet(event: dict[str, Any]) -> None:
    """A log that nobody reads."""


def run(task: StageJob) -> artefact.Artefact:
    """Run a stage and read what it left."""
    run_stage(task, quiet)
    return artefact.load(Folder(task.store) / task.key)


def made(task: StageJob) -> artefact.Artefact:
    """The same; a copy where a test has made this stage of these parents already. That stages run twice end with the
    same bytes has tests of its own."""
    parents = [read(Folder(task.store) / parent.key)["sha256"] for parent in task.parents]
    name = sha256(canonical([task.model_dump(mode="json", exclude={"store"}), parents]))
    kept, folder = Path(_kept().name, name), Path(task.store, task.key)
    if not kept.exists():
        run_stage(task, quiet)
        shutil.copytree(folder, kept)
    elif not folder.exists():
        shutil.copytree(kept, folder)
    return artefact.load(Folder(str(folder)))


@cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    """Where `made` keeps artefacts for the tests of this process."""
    return tempfile.TemporaryDirectory()


def stopped(task: StageJob, epoch: int) -> None:
    """Run a stage until its log says that `epoch` is over; its checkpoints are on disk after that."""

    def log(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == epoch:
            raise Stop

    with pytest.raises(Stop):
        run_stage(task, log)
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()
    assert not (Path(task.store) / task.key / "manifest.json").exists()


def resumed(task: StageJob) -> int:
    """Run a stage to its end; the number of steps that it went on from."""
    first: list[dict[str, Any]] = []
    run_stage(task, first.append)
    assert first[0]["event"] in ("resumed", "training")
    return first[0]["steps"]


def same_bytes(one: StageJob, other: StageJob) -> None:
    """Both artefacts are the same to the byte, but for the manifest's times."""
    for name in FILES:
        a, b = (Path(task.store, task.key, name).read_bytes() for task in (one, other))
        assert a == b, name


def nonzeros(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Non-zero entries of each weight."""
    return {name: int(t.count_nonzero()) for name, t in tensors.items() if t.ndim > 1}


def test_a_train_stage_learns_and_says_what_it_made(make_task: MakeTask, shards: str) -> None:
    events: list[dict[str, Any]] = []
    task = make_task(DENSE | {"train": {"epochs": 6, "lr": 0.01}}, model="digits_cnn")
    manifest = run_stage(task, events.append)
    loaded = artefact.load(Folder(task.store) / task.key)
    assert loaded.manifest == manifest
    metrics = manifest["metrics"]
    assert metrics["test_accuracy"] > 70
    assert metrics["steps"] == 60
    assert metrics["weights"] == 71_568
    assert metrics["rate"] == pytest.approx(71_568 / metrics["nonzeros"])
    told = [event["event"] for event in events]
    assert [event for event in told if event != "steps"] == ["training"] + ["epoch"] * 6
    rows = [json.loads(line) for line in Path(task.store, task.key, "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["phase"], row["steps"]) for row in rows] == [(n, "train", 10 * n) for n in range(1, 7)]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["val_accuracy"] == metrics["val_accuracy"]
    assert loaded.holds == loaded.duals == {}
    assert not (Path(task.store) / task.key / "checkpoints").exists()
    measured = measure(f"{task.store}/{task.key}", shards)
    assert measured == {name: metrics[name] for name in ("val_accuracy", "test_accuracy")}


def test_a_finished_stage_returns_at_once(make_task: MakeTask) -> None:
    task = make_task(DENSE)
    first = run_stage(task, quiet)
    files = {file: file.stat().st_mtime_ns for file in Path(task.store).rglob("*")}
    events: list[dict[str, Any]] = []
    assert run_stage(task, events.append) == first
    assert events == []
    assert {file: file.stat().st_mtime_ns for file in Path(task.store).rglob("*")} == files


def test_a_damaged_stage_is_run_again_to_the_same_bytes(make_task: MakeTask) -> None:
    task, other = make_task(DENSE), make_task(DENSE, store="other")
    run(task)
    run(other)
    file = Path(task.store, task.key, "model.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    run(task)
    same_bytes(task, other)


def test_a_damaged_parent_is_found_by_who_reads_it(make_task: MakeTask) -> None:
    """A byte changed, and no size: the child refuses it by name, and the parent counts as absent from then on."""
    parent = make_task(DENSE, "dense")
    made(parent)
    file = Path(parent.store, parent.key, "model.safetensors")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(Damaged, match=r"model\.safetensors has changed.* the same command runs its stage again"):
        run(make_task(prune(), "pruned", parent="dense"))
    assert check(Folder(parent.store) / parent.key) is None
    with pytest.raises(Damaged, match="was found damaged; it counts as absent now"):  # as a second rank meets it
        run(make_task(prune(), "pruned", parent="dense"))
    run(parent)
    run(make_task(prune(), "pruned", parent="dense"))


def test_a_parent_that_teaches_is_read_once(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its files."""
    made(make_task(DENSE, "dense"))
    found: list[str] = []

    def noted(before: Callable[[Folder, str], bytes]) -> Callable[[Folder, str], bytes]:
        return lambda folder, path: found.append(f"{folder.root}/{path}") or before(folder, path)

    task = make_task(prune(distill={"weight": 0.5}), "pruned", parent="dense")
    with monkeypatch.context() as patch:
        for name in ("read", "read_small"):
            patch.setattr(Folder, name, noted(getattr(Folder, name)))
        run_stage(task, quiet)
    assert task.parent is not None
    key = task.parent.key
    of_parent = [path.split("/")[-1] for path in found if f"/{key}/" in path]
    assert sorted(of_parent) == ["duals.safetensors", "holds.safetensors", "manifest.json", "model.safetensors"]


def test_a_prune_leaves_exactly_k_in_every_tensor(make_task: MakeTask) -> None:
    dense = made(make_task(DENSE, "dense"))
    task = make_task(prune(), "pruned", parent="dense")
    loaded = run(task)
    k = {"1.weight": 64 * 24 // 4, "5.weight": 24 * 10 // 4}
    assert nonzeros(loaded.network) == k
    assert {name: int(mask.sum()) for name, mask in loaded.holds.items()} == k
    for name, mask in loaded.holds.items():
        assert torch.equal((loaded.network[name] != 0).float(), mask)
        assert bool(loaded.duals[name].any())
    manifest = loaded.manifest
    assert manifest["metrics"]["rate"] == pytest.approx(4.0)
    assert manifest["metrics"]["nonzeros"] == sum(k.values())
    assert (manifest["metrics"]["network_weights"], manifest["metrics"]["network_nonzeros"]) == (1776, sum(k.values()))
    assert manifest["metrics"]["bytes"] < manifest["metrics"]["dense_bytes"] / 2
    assert {name: entry["nonzeros"] for name, entry in manifest["tensors"].items()} == k
    assert {tuple(entry["sets"]) for entry in manifest["tensors"].values()} == {("cardinality",)}
    assert manifest["rho"] == pytest.approx(0.05 * 2 * 2)
    assert manifest["residuals"].keys() == k.keys()
    assert 0 < manifest["metrics"]["residual"] < 1
    assert [row["phase"] for row in map(json.loads, _rows(task))] == ["admm", "admm", "retrain", "retrain"]
    assert not torch.equal(loaded.network["1.bias"], dense.network["1.bias"])


def _rows(task: StageJob) -> list[str]:
    return Path(task.store, task.key, "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("duals", ["carry", "reset"])
def test_masks_shrink_and_nothing_grows_back(make_task: MakeTask, duals: str) -> None:
    made(make_task(DENSE, "dense"))
    parent = made(make_task(prune(), "4x", parent="dense"))
    child = run(make_task(prune(10.0, duals=duals), "10x", parent="4x"))
    assert nonzeros(child.network) == {"1.weight": 153, "5.weight": 24}
    for name, mask in child.holds.items():
        assert int(mask.sum()) == child.manifest["tensors"][name]["nonzeros"]
        assert bool((mask <= parent.holds[name]).all())
        assert int(child.duals[name][parent.holds[name] == 0].count_nonzero()) == 0


def test_regrown_weights_come_back(make_task: MakeTask) -> None:
    """The same rate again, with the parent's weights free: some of them return."""
    parent = made(make_task(prune(), "4x"))
    child = run(make_task(prune(regrow=True), "again", parent="4x"))
    assert nonzeros(child.network) == nonzeros(parent.network)
    assert not all(bool((child.holds[name] <= parent.holds[name]).all()) for name in child.holds)


@pytest.mark.parametrize("retrain", [2, 0])
def test_duals_carry_in_unscaled_form(make_task: MakeTask, retrain: int) -> None:
    """What a child starts from is the parent's U times its last rho over the child's rho; `reset` starts from 0."""
    parent = made(make_task(prune(retrain={"epochs": retrain, "lr": 0.01}), "parent"))
    assert parent.manifest["rho"] == pytest.approx(0.2)
    still = {"updates": 1, "lr": 1e-30, "rho": 0.1}
    found = {}
    for duals in ("carry", "reset"):
        child = prune(regrow=True, duals=duals, admm=still, retrain={"epochs": 0, "lr": 0.01})
        found[duals] = run(make_task(child, duals, parent="parent"))
    for name, w in parent.network.items():
        if name not in parent.duals:
            continue
        # W does not move, so U = U + W - Proj(W + U) once.
        for duals, u in (("carry", parent.duals[name] * 0.2 / 0.1), ("reset", torch.zeros_like(w))):
            v = (w + u).flatten()
            kept = v.abs().argsort(descending=True, stable=True)[: w.numel() // 4]
            expected = v.clone()
            expected[kept] = 0
            torch.testing.assert_close(found[duals].duals[name].flatten(), expected, rtol=1e-5, atol=1e-7)


def test_training_with_a_masked_parent_keeps_the_mask(make_task: MakeTask) -> None:
    parent = made(make_task(prune(), "parent"))
    child = run(make_task(DENSE | {"optimizer": {"name": "sgd", "weight_decay": 0.01}}, "child", parent="parent"))
    assert child.holds.keys() == parent.holds.keys()
    for name, mask in parent.holds.items():
        assert torch.equal(child.holds[name], mask)
        assert torch.equal((child.network[name] != 0).float(), mask)
        assert not torch.equal(child.network[name], parent.network[name])
    assert child.duals == {}


def test_unmatched_tensors_keep_the_parents_mask_too(make_task: MakeTask) -> None:
    parent = made(make_task(prune(), "parent"))
    some = prune(constraints=[{"set": "cardinality", "tensors": "1.*", "rate": 8.0}], regrow=True)
    child = run(make_task(some, "child", parent="parent"))
    assert torch.equal(child.holds["5.weight"], parent.holds["5.weight"])
    assert nonzeros(child.network) == {"1.weight": 64 * 24 // 8, "5.weight": 60}


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
@pytest.mark.parametrize("checkpoint_steps", [None, 4])
def test_a_stopped_prune_ends_with_the_same_bytes(
    make_task: MakeTask, epoch: int, checkpoint_steps: int | None
) -> None:
    """Stopped in ADMM, at the final projection and in retraining; between epochs, and within one.

    The network has batch normalisation and dropout, and pictures are shifted.
    """
    task = make_task(prune(), checkpoint_steps=checkpoint_steps)
    whole = make_task(prune(), store="whole")
    made(whole)
    stopped(task, epoch)
    # The log comes before the checkpoint that ends an epoch of ten steps.
    last = (10 * epoch - 1) // 4 * 4 if checkpoint_steps else 10 * (epoch - 1)
    assert resumed(task) == last
    same_bytes(task, whole)


@pytest.mark.parametrize("steps", [1, 13, 20, 37, 40])
def test_a_stage_that_is_asked_to_stop_goes_on_from_that_very_step(make_task: MakeTask, steps: int) -> None:
    """Within an epoch or at its end, the last one's too, in ADMM and in retraining; it says where it stopped."""
    task, whole = make_task(prune()), make_task(prune(), store="whole")
    made(whole)
    asked, events = iter(range(1, 99)), list[dict[str, Any]]()
    assert run_stage(task, events.append, lambda: next(asked) >= steps) is None
    assert events[-1] == {"event": "stopped", "steps": steps}
    assert not (Path(task.store) / task.key / "manifest.json").exists()
    assert resumed(task) == steps
    same_bytes(task, whole)


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_stopped_child_ends_with_the_same_bytes_under_every_zero_stage(make_task: MakeTask, zero: int) -> None:
    """Stopped twice; its parent's mask and duals are in force; momentum instead of Adam."""
    child = prune(8.0, duals="carry", optimizer={"name": "sgd", "weight_decay": 0.001})
    tasks = [
        make_task(child, "child", parent="parent", store=store, zero=zero, checkpoint_steps=7)
        for store in ("store", "whole")
    ]
    for store in ("store", "whole"):
        made(make_task(prune(), "parent", store=store, zero=zero))
    made(tasks[1])
    stopped(tasks[0], 2)
    stopped(tasks[0], 3)
    assert resumed(tasks[0]) == 28
    same_bytes(*tasks)


def test_a_damaged_checkpoint_costs_time_and_no_bits(make_task: MakeTask) -> None:
    task, whole = make_task(prune(), checkpoint_steps=4), make_task(prune(), store="whole")
    made(whole)
    stopped(task, 3)
    file = Path(task.store, task.key, "checkpoints/step-00000028/part-0-of-1.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert resumed(task) == 24
    same_bytes(task, whole)


def same_but_for_rounding(got: artefact.Artefact, expected: artefact.Artefact) -> None:
    """As many weights left, nearly the same ones, with nearly the same values and scores."""
    assert nonzeros(got.network) == nonzeros(expected.network)
    for name, mask in expected.holds.items():
        assert float((mask == got.holds[name]).float().mean()) > 0.998, name
    for name, value in expected.network.items():
        assert float((got.network[name] - value).abs().mean()) < 1e-3 * float(value.abs().mean()), name
    for split in ("val", "test"):
        assert (
            abs(got.manifest["metrics"][f"{split}_accuracy"] - expected.manifest["metrics"][f"{split}_accuracy"]) <= 2
        )


@pytest.mark.parametrize(("zero", "offload"), PLACES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_how_the_work_is_done_does_not_change_what_comes_out(
    make_task: MakeTask, zero: int, offload: bool, accumulate: int
) -> None:
    """To rounding; on a network without batch statistics, whose micro-batches would differ."""
    spec = prune() | {"batch": 80, "optimizer": {"name": "sgd"}}
    expected = made(make_task(spec, "one", model="digits_cnn", zero=1))
    placed = {"zero": zero, "offload": offload, "accumulate": accumulate}
    got = run(make_task(spec, "other", model="digits_cnn", **placed))
    same_but_for_rounding(got, expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_a_compiled_network_learns_the_same(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding, from a teacher that is compiled too, by inputs that are looked at within; its tensors have the names
    that they always have."""
    weighed = {"updates": 2, "lr": 0.01, "rho": 0.05, "weigh": "activation"}
    learns = prune(admm=weighed) | {"batch": 80, "optimizer": {"name": "sgd"}, "distill": {"weight": 0.5}}
    made(make_task(DENSE, "dense", model="digits_cnn"))
    expected = made(make_task(learns, "one", "dense", model="digits_cnn"))
    before, asked, compiles = counters["stats"]["unique_graphs"], [], nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda network: (asked.append(network.training), compiles(network)))
    got = run(make_task(learns, "other", "dense", model="digits_cnn", compile=True))
    same_but_for_rounding(got, expected)
    assert sorted(asked) == [False, True], "the teacher's and the network's"
    assert counters["stats"]["unique_graphs"] >= before + 2


def test_a_seed_gives_the_same_bytes_and_another_seed_others(make_task: MakeTask) -> None:
    one, same = make_task(prune()), make_task(prune(), store="same")
    other = make_task(prune(seed=1), store="other")
    for task in (one, same, other):
        run(task)
    same_bytes(one, same)
    assert Path(one.store, "key", FILES[0]).read_bytes() != Path(other.store, "key", FILES[0]).read_bytes()


def test_what_cannot_work_is_refused_before_training(make_task: MakeTask, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"constraints\.0\.tensors"):
        run_stage(make_task(prune(constraints=[{"set": "cardinality", "tensors": "x", "rate": 2.0}])), quiet)
    with pytest.raises(ValueError, match="batch of 321 is larger than the 320"):
        run_stage(make_task(DENSE | {"batch": 321}), quiet)
    with pytest.raises(FileNotFoundError, match="no finished artefact"):
        run_stage(make_task(DENSE, parent="nobody"), quiet)
    with pytest.raises(DataError, match="elsewhere"):
        run_stage(make_task(DENSE).model_copy(update={"shards": str(tmp_path / "elsewhere")}), quiet)
    assert not list((tmp_path / "store").glob("*/*"))


@pytest.mark.parametrize("setting", [None, 100])
def test_evaluation_takes_no_more_at_a_time_than_training(make_task: MakeTask, setting: int | None) -> None:
    """Or as many as a setting says: what fits on a device depends on the network."""
    task = make_task(DENSE | {"batch": 24})
    task = task.model_copy(update={"engine": task.engine.model_copy(update={"evaluate": setting})})
    forward, seen = Engine.forward, []

    def noted(engine: Engine, pictures: torch.Tensor) -> torch.Tensor:
        seen.append((engine.module.training, len(pictures)))
        return forward(engine, pictures)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Engine, "forward", noted)
        run_stage(task, quiet)
    assert max(size for training, size in seen if training) == 24
    assert max(size for training, size in seen if not training) == (setting or 24)


def test_a_damaged_parent_is_refused(make_task: MakeTask) -> None:
    parent = make_task(DENSE, "parent")
    run(parent)
    Path(parent.store, "parent", "holds.safetensors").unlink()
    with pytest.raises(Damaged, match="holds"):
        run_stage(make_task(prune(), "child", parent="parent"), quiet)


def test_a_loss_that_is_no_number_stops_the_stage(make_task: MakeTask) -> None:
    spec = DENSE | {"train": {"epochs": 3, "lr": 1e30}, "optimizer": {"name": "sgd"}}
    task = make_task(spec, model="digits_cnn")
    with pytest.raises(ArithmeticError, match=r"loss is (nan|inf) at step \d+ \(epoch 1, rank 0\)"):
        run_stage(task, quiet)
    assert not Path(task.store, task.key, "manifest.json").exists()


def test_a_network_that_ends_as_no_number_is_no_result(make_task: MakeTask) -> None:
    """Its last step moved it there, after the last loss that was looked at."""
    spec = DENSE | {"train": {"epochs": 1, "lr": 1e38}, "optimizer": {"name": "sgd"}, "batch": 320}
    task = make_task(spec, model="digits_cnn")
    with pytest.raises(NonFinite, match=r"the trained network's loss on val is (nan|inf)"):
        run_stage(task, quiet)
    assert not Path(task.store, task.key, "manifest.json").exists()


def test_weights_that_are_no_numbers_are_named(make_task: MakeTask) -> None:
    """Of all that a loss comes from."""

    def spoilt(engine: Engine, pictures: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            engine.module.get_parameter("2.weight")[0, 0] = math.nan
        return forward(engine, pictures)

    forward = Engine.forward
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Engine, "forward", spoilt)
        with pytest.raises(NonFinite, match=r"^the loss is nan at step 1 \(epoch 1, rank 0\): not finite: 2\.weight$"):
            run_stage(make_task(DENSE, model="digits_cnn"), quiet)


@pytest.mark.parametrize("seed", [20_261_126, 2**63 - 1])
def test_any_seed_will_do(make_task: MakeTask, seed: int) -> None:
    """Dates among them: what torch's generator is seeded with has 64 bits, and counts steps too."""
    run(make_task(DENSE | {"seed": seed, "train": {"epochs": 1, "lr": 0.01}}))


def test_a_teacher_may_be_another_network(make_task: MakeTask) -> None:
    """With as many outputs; it is built from its own artefact."""
    run(make_task(DENSE | {"train": {"epochs": 1, "lr": 0.01}}, "big"))
    run(make_task(DENSE | {"train": {"epochs": 1, "lr": 0.01}}, "parent", model="digits_cnn"))
    found = []
    for teacher in (None, Parent(name="big", key="big")):
        task = make_task(prune(distill={"weight": 0.9}), f"child-{teacher is not None}", "parent", model="digits_cnn")
        found.append(run(task.model_copy(update={"teacher": teacher})))
    assert found[0].network.keys() == found[1].network.keys()
    assert not torch.equal(found[0].network["2.weight"], found[1].network["2.weight"])


def test_the_phases_of_a_prune(make_task: MakeTask) -> None:
    admm = {"updates": 3, "epochs": 2, "lr": 0.1, "rho": 0.01, "rho_growth": 2.0}
    spec = make_task(prune(admm=admm)).spec
    assert isinstance(spec, PruneSpec)
    assert phases(spec) == [
        *[Phase("admm", 2, spec.admm)] * 3,
        Phase("retrain", 2, spec.retrain),
    ]


def test_learning_rates() -> None:
    cosine = Phase("train", 1, Rate(lr=0.4))
    assert [learning_rate(cosine, done) for done in (0, 0.5, 1)] == pytest.approx([0.4, 0.2, 0.0])
    assert learning_rate(Phase("train", 1, Rate(lr=0.4, schedule="constant")), 0.9) == 0.4


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_gradient_that_is_not_finite_ends_the_stage_and_names_the_tensors(make_task: MakeTask, zero: int) -> None:
    """With the step, and whichever micro-batch it came from; the checkpoint before it stays."""
    task = make_task(DENSE, model="spiky", zero=zero, accumulate=2, checkpoint_steps=2)
    with pytest.raises(NonFinite, match=r"the gradient is not finite at step 4 \(epoch 1\): 1.weight, 1.bias$"):
        run_stage(task, quiet)
    with pytest.raises(NonFinite):  # from step 2
        run_stage(task, quiet)
