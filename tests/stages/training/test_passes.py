"""Whole stages with sharpness-aware steps, schedules within ADMM, statistics anew and averaged weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.inputs import NeverCalled
from dualprune.stages.engine.weighing import DECAY
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.objectives.table import objective
from dualprune.stages.solver import admm
from dualprune.stages.training import loop
from dualprune.stages.training.evaluate import evaluate
from dualprune.stages.training.stage import run_stage
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask, noisy_net
from tests.stages.training.test_stage import DENSE, made, nonzeros, prune, quiet, resumed, run, same_bytes, stopped
from tests.stages.training.test_stage_solver import rows

pytestmark = pytest.mark.usefixtures("one_rank")

SAM = {"radius": 0.05}
ADMM: dict[str, Any] = {"updates": 2, "lr": 0.01, "rho": 0.05}
RETRAIN: dict[str, Any] = {"epochs": 2, "lr": 0.01}
EVERYTHING: dict[str, Any] = {
    "admm": ADMM
    | {
        "interval": 3,
        "rho_schedule": "cosine",
        "rate_from": 2.0,
        "ramp": 0.8,
        "sam": SAM | {"adaptive": True},
        "sg": True,
        "weigh": "fisher",
    },
    "retrain": RETRAIN | {"sam": SAM, "ema": 0.8},
    "recalibrate": 100,
}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_radius_of_zero_ends_with_the_same_bytes(make_task: MakeTask, accumulate: int) -> None:
    """With batch normalisation, dropout, moved pictures and micro-batches: the second pass leaves nothing behind."""
    none = {"sam": {"radius": 0.0}}
    made(make_task(DENSE, "dense"))
    tasks = [
        make_task(prune(admm=ADMM | sam, retrain=RETRAIN | sam), "pruned", "dense", store=store, accumulate=accumulate)
        for store, sam in (("store", {}), ("other", none))
    ]
    made(make_task(DENSE, "dense", store="other"))
    for task in tasks:
        run_stage(task, quiet)
    same_bytes(*tasks)


def test_a_sharpness_aware_stage_differs_and_its_losses_are_those_of_the_weights(make_task: MakeTask) -> None:
    """They are near a plain stage's at first, and fall."""
    tasks = [
        make_task({"kind": "train", "train": {"epochs": 3, "lr": 0.01} | given}, key)
        for key, given in (("plain", {}), ("sharp", {"sam": SAM}))
    ]
    plain, sharp = map(run, tasks)
    assert not torch.equal(plain.network["1.weight"], sharp.network["1.weight"])
    one, other = map(rows, tasks)
    assert one[0]["loss"] == pytest.approx(other[0]["loss"], rel=0.2)
    assert other[-1]["loss"] < 0.95 * other[0]["loss"]


@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_a_stage_with_everything_resumes_to_the_same_bytes(make_task: MakeTask, epoch: int) -> None:
    made(make_task(DENSE, "dense", store="whole"))
    made(make_task(DENSE, "dense", store="cut"))
    whole, cut = (make_task(prune(**EVERYTHING), "pruned", "dense", store=store) for store in ("whole", "cut"))
    loaded = run(whole)
    assert sum(nonzeros(loaded.network).values()) == sum(int(mask.sum()) for mask in loaded.holds.values())
    stopped(cut, epoch)
    assert resumed(cut) == 10 * (epoch - 1)
    same_bytes(whole, cut)


def weighed(way: str) -> dict[str, Any]:
    """Everything, with projections weighed in that way."""
    return prune(**EVERYTHING | {"admm": EVERYTHING["admm"] | {"weigh": way}})


@pytest.mark.parametrize("way", ["fisher", "snip", "activation"])
def test_a_stage_with_everything_resumes_within_an_epoch(make_task: MakeTask, way: str) -> None:
    made(make_task(DENSE, "dense", store="whole"))
    made(make_task(DENSE, "dense", store="cut"))
    whole, cut = (make_task(weighed(way), "pruned", "dense", store=store) for store in ("whole", "cut"))
    run(whole)
    for stop in (4, 22):  # in ADMM, between two updates, and while weights are averaged
        told: list[dict[str, Any]] = []
        steps = [0]

        def stopping(stop: int = stop, steps: list[int] = steps) -> bool:
            steps[0] += 1
            return steps[0] >= stop

        assert run_stage(cut, told.append, stopping) is None
        assert told[-1]["event"] == "stopped"
        assert told[-1]["steps"] % 10
    resumed(cut)
    same_bytes(whole, cut)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_inputs_are_those_of_the_weights_alone(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    """Each sample of ADMM's 20 steps counts once: not in other passes, in evaluation, or in retraining."""
    left: dict[str, Tensor] = {}
    close = Engine.close
    monkeypatch.setattr(Engine, "close", lambda engine: (left.update(engine.inputs.sums), close(engine)))
    made(make_task(DENSE, "dense"))
    run(make_task(weighed("activation"), "pruned", "dense", accumulate=accumulate))
    assert sorted(left) == ["1.weight", "5.weight"]
    for sums in left.values():
        assert float(sums[-1]) == pytest.approx(32 * sum(DECAY ** (n + 1) for n in range(20)), rel=1e-5)


class Odd(nn.Module):
    """For 8 x 8 pictures; it uses its first layer's weight and never calls the layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 24), nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 8, 8] to [n, classes]."""
        y: Tensor = self.last(nn.functional.linear(x.flatten(1), self.first.weight).relu())
        return y


def test_a_layer_that_no_sample_comes_to_is_told(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "odd_inputs", Odd)
    made(make_task(DENSE, "dense", model="odd_inputs"))
    task = make_task(prune(admm=ADMM | {"weigh": "activation"}), "pruned", "dense", model="odd_inputs")
    with pytest.raises(NeverCalled, match=r"first.weight: its layer was never called in training"):
        run_stage(task, quiet)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "geometric"])
def test_rho_rises_and_what_u_stands_for_stays(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """rho at each of 8 updates of 20 steps, after steps 3, 6, 9, 10, 13, ...; rho U is the sum of rho (W - Z)."""
    rhos: list[float] = []
    multiplier: dict[str, Tensor] = {}
    update = admm.update

    def looked(engine: Engine, targets: Any, *rest: Any) -> Any:
        rho = engine.optimizer.rho
        rhos.append(rho)

        def watch(name: str, w: Tensor, z: Tensor, before: Tensor) -> None:
            multiplier[name] = multiplier.get(name, 0) + rho * (w - z).double()

        found = update(engine, targets, watch)
        assert rest or len(rhos) % 4  # a row is made at a phase's end alone
        for name, y in multiplier.items():
            torch.testing.assert_close(rho * engine.get(name, "dual").double(), y, rtol=1e-4, atol=1e-7)
        if rest:
            rest[0]("1.weight", engine.get("1.weight"), engine.get("1.weight"), engine.get("1.weight"))
        return found

    monkeypatch.setattr(admm, "update", looked)
    made(make_task(DENSE, "dense"))
    settings = ADMM | {"interval": 3, "rho_schedule": schedule}
    loaded = run(make_task(prune(admm=settings), "pruned", "dense"))
    ends = [step / 20 for step in (3, 6, 9, 10, 13, 16, 19, 20)]
    shape = {
        "cosine": [0.5 * (1 - math.cos(math.pi * x)) for x in ends],
        "linear": ends,
        "geometric": [1000 ** (x - 1) for x in ends],
    }[schedule]
    assert rhos == pytest.approx([0.05 * x for x in shape])
    assert loaded.manifest["rho"] == pytest.approx(0.05)


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_rates_rise_within_a_stage(make_task: MakeTask, scope: str) -> None:
    """Rows say what Z keeps: a cubic from the first rate, then the stage's own; other sets hold all along."""
    made(make_task(DENSE, "dense", model="digits_cnn"))
    sets = [
        {"set": "cardinality", "tensors": ["*", "!6.weight"], "rate": 10.0, "scope": scope},
        {"set": "nm", "tensors": "6.weight", "n": 2, "m": 4},
    ]
    spec = prune(constraints=sets, admm=ADMM | {"updates": 4, "rate_from": 2.0})
    task = make_task(spec, "pruned", "dense", model="digits_cnn")
    loaded = run(task)
    sizes = {name: tensor.numel() for name, tensor in loaded.network.items() if tensor.ndim > 1}
    others = sum(size for name, size in sizes.items() if name != "6.weight")
    for row, done in zip(rows(task)[:4], (0.25, 0.5, 0.75, 1.0), strict=True):
        kept = 0.1 + 0.4 * (1 - min(1.0, done / 0.75)) ** 3
        left = {name: one["left"] for name, one in row["tensors"].items()}
        assert left.pop("6.weight") <= sizes["6.weight"] // 2
        assert sum(left.values()) == pytest.approx(others * kept, abs=len(left))
    assert sum(nonzeros(loaded.network).values()) <= others / 10 + sizes["6.weight"] / 2


def split_of(task: StageJob, name: str) -> Any:
    """A split as a stage has it."""
    spec = task.spec
    return open_split(task.shards, name, task.data_digest, spec.data, spec.seed, torch.device("cpu"), 10)


def statistics(task: StageJob, network: nn.Module, batches: int) -> dict[str, Tensor]:
    """Of the one normalised layer, over whole batches, from its inputs."""
    split = split_of(task, "train")
    order = split.order(0)
    parts = [order[32 * n : 32 * n + 32] for n in range(batches)]
    seen: list[Tensor] = []
    handle = network.get_submodule("2").register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    network.eval()
    for batch in split.evaluation(parts):
        network(batch["image"])
    handle.remove()
    assert [len(one) for one in seen] == [32] * batches
    return {
        "running_mean": torch.stack([one.mean(0) for one in seen]).mean(0),
        "running_var": torch.stack([one.var(0) for one in seen]).mean(0),
    }


def recalibrated(task: StageJob, loaded: artefact.Artefact, batches: int) -> None:
    """An artefact's statistics are those computed by hand, and its metrics are measured with them."""
    network = artefact.network(loaded)
    for name, expected in statistics(task, network, batches).items():
        torch.testing.assert_close(loaded.network[f"2.{name}"], expected, rtol=1e-4, atol=1e-5)
    score = evaluate(network.eval(), objective(task.spec), split_of(task, "val")).values["accuracy"]
    assert loaded.manifest["metrics"]["val_accuracy"] == pytest.approx(score)


KINDS: dict[str, dict[str, Any]] = {
    "prune, no retraining": prune(8.0, retrain={"epochs": 0, "lr": 0.01}),
    "prune": prune(8.0),
    "magnitude": prune(8.0, admm=None, retrain={"epochs": 0, "lr": 0.01}),
    "averaged": prune(8.0, retrain=RETRAIN | {"ema": 0.9}),
    "quantize": {"kind": "quantize", "constraints": [{"set": "levels", "tensors": "*", "bits": 2}], "admm": ADMM},
    "trp": {
        "kind": "trp",
        "constraints": [{"tensors": "1.weight", "energy": 0.3}],
        "train": {"epochs": 1, "lr": 0.01},
    },
    "layerwise": {"kind": "layerwise", "constraints": [{"set": "cardinality", "tensors": "*", "rate": 8.0}]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_taken_anew(make_task: MakeTask, kind: str) -> None:
    """From 3 batches where 100 samples are asked for."""
    made(make_task(DENSE, "dense"))
    task = make_task(KINDS[kind] | {"recalibrate": 100}, "projected", "dense")
    loaded = run(task)
    recalibrated(task, loaded, 3)
    if kind == "prune, no retraining":
        other = make_task(KINDS[kind], "plain", "dense")
        plain = run(other)
        assert torch.equal(plain.network["1.weight"], loaded.network["1.weight"])
        assert not torch.allclose(plain.network["2.running_mean"], loaded.network["2.running_mean"])
        assert rows(other)[-1]["val_accuracy"] != rows(task)[-1]["val_accuracy"]


def test_too_few_samples_are_a_batch(make_task: MakeTask) -> None:
    task = make_task(DENSE | {"recalibrate": 1}, "dense")
    recalibrated(task, run(task), 1)


def test_averages_are_those_computed_by_hand(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of masked weights after each step, from the projected ones on; epochs are measured with them."""
    weights: list[dict[str, Tensor]] = []
    measured: list[dict[str, Tensor]] = []
    steps, looked = loop.steps, loop._looked

    def spied(given: Any, phase: Any, *rest: Any) -> Any:
        if phase.name == "retrain" and not weights:
            weights.append({name: given.engine.get(name) for name in given.engine.parameters})
        for one in steps(given, phase, *rest):
            if phase.name == "retrain":
                weights.append({name: given.engine.get(name) for name in given.engine.parameters})
            yield one

    def looking(given: Any, row: dict[str, Any], told: set[str]) -> Any:
        measured.append({name: given.engine.get(name) for name in given.engine.parameters})
        return looked(given, row, told)

    monkeypatch.setattr(loop, "steps", spied)
    monkeypatch.setattr(loop, "_looked", looking)
    made(make_task(DENSE, "dense"))
    loaded = run(make_task(prune(retrain=RETRAIN | {"ema": 0.9}), "pruned", "dense"))
    average, after = weights[0], []
    for one in weights[1:]:
        average = {name: 0.9 * average[name] + 0.1 * value for name, value in one.items()}
        after.append(average)
    assert len(after) == 20
    for found, expected in ((measured[2], after[9]), (measured[3], after[19]), (loaded.network, after[19])):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(loaded.network["1.weight"], weights[-1]["1.weight"], atol=1e-4)
    for name, mask in loaded.holds.items():
        assert int(loaded.network[name][mask == 0].count_nonzero()) == 0


def plain_net(classes: int) -> nn.Module:
    """For 8 x 8 pictures, without what sees micro-batches or ranks."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, classes))


def rank_main(tasks: list[StageJob]) -> None:
    """One of two ranks: these stages, one after the other."""
    MODELS.update(noisy=noisy_net, plain=plain_net)
    for task in tasks:
        run_stage(task, quiet)


@pytest.mark.slow
def test_two_ranks_end_where_one_does(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharded or not, of a network without batch statistics in training, but for rounding; statistics that are
    taken anew are those of the network that is left."""
    monkeypatch.setitem(MODELS, "plain", plain_net)
    made(make_task(DENSE, "dense", model="plain"))
    made(make_task(DENSE, "noisy"))
    alone, pairs = {}, []
    for way, zeros in (("fisher", (1, 3)), ("snip", (0, 2)), ("activation", (0, 3))):
        spec = weighed(way) | {"optimizer": {"name": "sgd"}, "recalibrate": None}
        alone[way] = run(make_task(spec, f"alone-{way}", "dense", model="plain")).network
        pairs += [(way, make_task(spec, f"two-{way}-{one}", "dense", model="plain", zero=one)) for one in zeros]
    spec = prune(8.0, recalibrate=100, retrain={"epochs": 1, "lr": 0.01, "ema": 0.5})
    stats = [make_task(spec, f"stats-{zero}", "noisy", zero=zero) for zero in (0, 2)]
    on_ranks(2, rank_main, [*(task for _, task in pairs), *stats])
    for way, task in pairs:
        network = artefact.load(Folder(task.store) / task.key).network
        for name, value in alone[way].items():
            near = torch.isclose(network[name], value, rtol=1e-3, atol=1e-4).float().mean()
            assert float(near) > 0.99, (task.key, name, float(near))
    for task in stats:
        loaded = artefact.load(Folder(task.store) / task.key)
        recalibrated(task, loaded, 3)
        assert all(bool(value.isfinite().all()) for value in loaded.network.values() if value.is_floating_point())
