"""Whole stages with every kind of set: what they leave lies in the sets, and pruned weights stay pruned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.constraints.combined import Combined
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.data.read.stream import IGNORED
from dualprune.stages.kinds.base import learning_rate
from dualprune.stages.kinds.constrained import targets_of
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.kinds.table import phases
from dualprune.stages.networks.build import parameters_of
from dualprune.stages.solver import admm
from dualprune.stages.solver.admm import Residual
from dualprune.stages.training import pace
from dualprune.stages.training.stage import run_stage
from tests.stages.conftest import CLASSIFY, MakeTask
from tests.stages.training.test_stage import DENSE, Stop, made, nonzeros, prune, resumed, run, same_bytes, stopped

pytestmark = pytest.mark.usefixtures("one_rank")

Sets = list[dict[str, Any]]
LEVELS = {"set": "levels", "tensors": "*", "bits": 3}
NM = {"set": "nm", "tensors": "[268].weight", "n": 2, "m": 4}
SHORT = {"epochs": 1, "lr": 0.005}


def quantize(sets: Sets, **change: Any) -> dict[str, Any]:
    """A quantize stage: two ADMM phases of an epoch."""
    return {
        "kind": "quantize",
        "constraints": sets,
        "admm": {"updates": 2, "lr": 0.003, "rho": 0.05},
        "optimizer": {"name": "adam", "weight_decay": 0.001},
    } | change


def rows(task: StageJob) -> list[dict[str, Any]]:
    """What the stage said of its epochs."""
    return [json.loads(line) for line in Path(task.store, task.key, "metrics.jsonl").read_text().splitlines()]


def in_its_sets(task: StageJob, loaded: artefact.Artefact) -> None:
    """Every tensor lies in its set, and every budget is spent exactly; energies are tested on their own."""
    aims = targets_of(task.spec, parameters_of(task.spec.model))
    assert aims.names
    for name, constraint in aims.sets.items():
        if getattr(constraint, "energy", None) is None:
            assert constraint.contains(loaded.network[name]), (name, constraint)
    for budget in aims.budgets:
        assert sum(nonzeros(loaded.network)[name] for name in budget.names) == budget.total
    for name, mask in loaded.holds.items():
        assert int(loaded.network[name][mask == 0].count_nonzero()) == 0, name
    assert {name: entry["sets"] for name, entry in loaded.manifest["tensors"].items()} == {
        name: list(kinds) for name, kinds in aims.kinds.items()
    }


PRUNES: dict[str, Sets] = {
    "nm": [NM],
    "filter": [{"set": "filter", "tensors": "[02].weight", "keep": 0.5}],
    "channel": [{"set": "channel", "tensors": "2.weight", "count": 5}],
    "column": [{"set": "column", "tensors": "[26].weight", "rate": 2.0}],
    "row": [{"set": "row", "tensors": "6.weight", "rate": 4.0}],
    "head": [{"set": "head", "tensors": "6.weight", "heads": 8, "count": 3}],
    "block": [{"set": "block", "tensors": "6.weight", "p": 4, "q": 4, "keep": 0.25}],
    "global": [{"set": "cardinality", "tensors": "*", "rate": 8.0, "scope": "global"}],
    "global rms": [{"set": "cardinality", "tensors": "*", "rate": 8.0, "scope": "global", "scale": "rms", "floor": 9}],
    "filter and cardinality": [
        {"set": "filter", "tensors": "2.weight", "count": 20},
        {"set": "cardinality", "tensors": "2.weight", "count": 700},
    ],
    "two patterns": [NM, {"set": "cardinality", "tensors": "0.weight", "keep": 0.5}],
}


@pytest.mark.parametrize("name", PRUNES)
def test_a_prune_ends_in_its_sets(make_task: MakeTask, name: str) -> None:
    """With weight decay, momentum and retraining after the projection; what was kept did train on."""
    made(make_task(DENSE | {"train": SHORT}, "dense", model="digits_cnn"))
    task = make_task(prune(constraints=PRUNES[name], retrain=SHORT), "pruned", "dense", model="digits_cnn")
    loaded = run(task)
    in_its_sets(task, loaded)
    aims = targets_of(task.spec, parameters_of(task.spec.model))
    assert set(loaded.holds) == set(aims.names)
    for n, constraint in aims.sets.items():
        size = constraint.most(tuple(loaded.network[n].shape))
        assert nonzeros(loaded.network)[n] == int(loaded.holds[n].sum()) <= size
        assert isinstance(constraint, Combined) or int(loaded.holds[n].sum()) == size
    if aims.budgets:
        (budget,) = aims.budgets
        kept = loaded.manifest["budget"]["kept"]
        assert sum(kept.values()) == budget.total
        assert loaded.manifest["budget"]["peak_bytes"] > 0
        assert all(count >= budget.floor for count in nonzeros(loaded.network).values())
        assert len({nonzeros(loaded.network)[n] / loaded.network[n].numel() for n in budget.names}) > 1


@pytest.mark.parametrize("name", ["global", "two patterns"])
def test_without_admm_weights_are_projected_at_once(make_task: MakeTask, name: str) -> None:
    """The dense network's nearest one is what is retrained, also across a stop; ADMM can start from there."""
    dense = made(make_task(DENSE, "dense", model="digits_cnn")).network
    spec = prune(constraints=PRUNES[name], admm=None, retrain={"epochs": 0, "lr": 0.005})
    untrained = run(make_task(spec, "untrained", "dense", model="digits_cnn"))
    in_its_sets(make_task(spec, "untrained", "dense", model="digits_cnn"), untrained)
    masks = untrained.holds
    for n, tensor in untrained.network.items():
        assert torch.equal(tensor, dense[n] * masks.get(n, 1.0)), n
    least = min(float(dense[n][mask == 1].abs().min()) for n, mask in masks.items())
    if name == "global":
        assert all(float(dense[n][mask == 0].abs().max()) <= least for n, mask in masks.items())
        assert sum(untrained.manifest["budget"]["kept"].values()) == sum(nonzeros(untrained.network).values())
    assert untrained.manifest["metrics"]["residual"] > 0

    spec |= {"retrain": {"epochs": 2, "lr": 0.005}}
    tasks = [make_task(spec, store, "dense", model="digits_cnn") for store in ("whole", "cut")]
    whole = run(tasks[0])
    assert [row["phase"] for row in rows(tasks[0])] == ["retrain"] * 2
    assert all(torch.equal(whole.holds[n], mask) for n, mask in masks.items())
    assert not torch.equal(whole.network["6.weight"], untrained.network["6.weight"])
    stopped(tasks[1], 2)
    assert resumed(tasks[1]) == 10
    same_bytes(*tasks)

    child = prune(rate=9.0, duals="carry", retrain=SHORT)
    in_its_sets(
        make_task(child, "child", "whole", model="digits_cnn"),
        run(make_task(child, "child", "whole", model="digits_cnn")),
    )


@pytest.mark.parametrize("measure", [{"rank": 8}, {"energy": 0.2}], ids=["rank", "energy"])
def test_a_low_rank_stage_ends_with_that_rank(make_task: MakeTask, measure: dict[str, Any]) -> None:
    """Without retraining, and with some: the tensor stays as projected, and no mask is left on it."""
    sets = [{"set": "lowrank", "tensors": "6.weight"} | measure]
    parent = made(make_task(DENSE | {"train": SHORT}, "dense", model="digits_cnn"))
    wanted = LowRank(**measure).of(parent.network["6.weight"]).rank
    assert wanted is not None
    found = []
    for epochs in (0, 1):
        spec = prune(constraints=sets, retrain={"epochs": epochs, "lr": 0.005})
        task = make_task(spec, f"low{epochs}", "dense", model="digits_cnn")
        loaded = run(task)
        in_its_sets(task, loaded)
        assert loaded.holds == {}
        found.append(loaded.network)
    assert torch.equal(found[0]["6.weight"], found[1]["6.weight"])
    assert not torch.equal(found[0]["8.bias"], found[1]["8.bias"])
    rank = int(torch.linalg.matrix_rank(found[0]["6.weight"].double(), rtol=1e-5))
    assert rank == wanted < 128


QUANTIZES: dict[str, dict[str, Any]] = {
    "levels at once": quantize([LEVELS]),
    "levels snapped": quantize([LEVELS], snap={"rounds": 2, "share": 0.3, "lr": 0.003}),
    "powers": quantize([LEVELS | {"levels": "power"}], snap={"rounds": 1, "lr": 0.003}, retrain=SHORT),
    "binary": quantize([{"set": "levels", "tensors": "*", "levels": "binary"}]),
    "ternary": quantize([{"set": "levels", "tensors": "*", "levels": "ternary"}], retrain=SHORT),
    "clusters at once": quantize([{"set": "clusters", "tensors": "*", "count": 6}]),
    "centroids": quantize([{"set": "clusters", "tensors": "*", "count": 6}], centroids=SHORT),
    "centroids, then retraining": quantize(
        [{"set": "clusters", "tensors": "*", "count": 6}], centroids=SHORT, retrain=SHORT
    ),
    "centroids of some": quantize([{"set": "clusters", "tensors": "6.weight", "count": 6}], centroids=SHORT),
}


@pytest.mark.parametrize("name", QUANTIZES)
@pytest.mark.parametrize("masked", [False, True], ids=["dense", "pruned"])
def test_a_quantised_network_has_few_values(make_task: MakeTask, name: str, masked: bool) -> None:
    """In its sets, on the values that the manifest lists, and no pruned weight came back."""
    before = made(make_task(prune(retrain=SHORT) if masked else DENSE, "before", model="digits_cnn"))
    task = make_task(QUANTIZES[name], "after", "before", model="digits_cnn")
    loaded = run(task)
    in_its_sets(task, loaded)
    aims = targets_of(task.spec, parameters_of(task.spec.model))
    for n in before.holds:
        assert bool(((loaded.network[n] != 0) <= (before.holds[n] != 0)).all())
        assert torch.equal(loaded.holds[n], (loaded.network[n] != 0).float())
    for n in aims.names:
        used = set(torch.unique(loaded.network[n]).tolist()) - {0.0}
        fitted = loaded.manifest["values"][n]
        assert len(used) <= len(fitted) <= 8
        if "centroids" not in name:
            assert used <= set(torch.tensor(fitted).tolist())
        stored = loaded.manifest["storage"]["tensors"][n]
        assert stored["bits"] <= 3
        assert stored["data_bits"] == nonzeros(loaded.network)[n] * stored["bits"]
    assert loaded.manifest["storage"]["data_rate"] > (40 if masked else 10) or len(aims.names) == 1


def test_only_what_is_not_quantised_trains_in_the_end(make_task: MakeTask) -> None:
    """After centroid training too."""
    made(make_task(DENSE | {"train": SHORT}, "dense", model="digits_cnn"))
    sets = [{"set": "clusters", "tensors": "*", "count": 4}]
    found = []
    for epochs in (0, 1):
        spec = quantize(sets, centroids=SHORT, retrain={"epochs": epochs, "lr": 0.01})
        found.append(run(make_task(spec, f"after{epochs}", "dense", model="digits_cnn")).network)
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]) == (tensor.ndim > 1), name


def test_centroids_train(make_task: MakeTask) -> None:
    """They move from where k-means put them, and pull their members along."""
    made(make_task(DENSE | {"train": SHORT}, "dense", model="digits_cnn"))
    spec = quantize([{"set": "clusters", "tensors": "*", "count": 4}], centroids=SHORT)
    loaded = run(make_task(spec, "after", "dense", model="digits_cnn"))
    for name, fitted in loaded.manifest["values"].items():
        used = torch.unique(loaded.network[name])
        assert len(used) == len(fitted) == 4
        assert not set(used.tolist()) & set(torch.tensor(fitted).tolist())
    assert [row["phase"] for row in rows(make_task(spec, "after", "dense", model="digits_cnn"))][-1] == "centroids"


def test_n_of_m_and_levels_on_one_tensor(make_task: MakeTask) -> None:
    """From a dense parent: both sets hold, and the mask is that of N:M."""
    made(make_task(DENSE | {"train": SHORT}, "dense", model="digits_cnn"))
    spec = quantize([NM, LEVELS | {"tensors": "[268].weight"}], snap={"rounds": 2, "lr": 0.003})
    task = make_task(spec, "both", "dense", model="digits_cnn")
    loaded = run(task)
    in_its_sets(task, loaded)
    assert {name: entry["sets"] for name, entry in loaded.manifest["tensors"].items()} == {
        f"{n}.weight": ["nm", "levels"] for n in (2, 6, 8)
    }
    for name, mask in loaded.holds.items():
        assert int(mask.sum()) == mask.numel() // 2
        assert len(torch.unique(loaded.network[name][mask == 1])) <= 8
    assert loaded.holds.keys() == {"2.weight", "6.weight", "8.weight"}


INTERRUPTED: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "snap": (quantize([LEVELS], snap={"rounds": 2, "lr": 0.003}, retrain=SHORT), (2, 3, 4)),
    "centroids": (
        quantize([{"set": "clusters", "tensors": "*", "count": 5}], centroids={"epochs": 2, "lr": 0.003}),
        (2, 3, 4),
    ),
    "early stop": (
        prune(admm={"updates": 5, "lr": 0.003, "rho": 0.05, "tolerance": 1e9}, retrain={"epochs": 2, "lr": 0.01}),
        (1, 6, 7),
    ),
    "balanced": (prune(admm={"updates": 3, "lr": 0.003, "rho": 0.05, "rho_balance": True}, retrain=SHORT), (2, 3)),
    "global": (prune(constraints=PRUNES["global"], retrain=SHORT, distill={"weight": 0.5}), (2, 3)),
    "updates within epochs": (
        prune(admm={"updates": 1, "epochs": 3, "interval": 4, "lr": 0.003, "rho": 0.05}, retrain=SHORT),
        (1, 2, 3),
    ),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_stopped_stage_ends_with_the_same_bytes(make_task: MakeTask, name: str) -> None:
    """Stopped in every phase that is new to it, between checkpoints and at them; the parent is masked."""
    spec, epochs = INTERRUPTED[name]
    for store in ("store", "whole"):
        made(make_task(prune(2.0, retrain=SHORT), "before", store=store))
    whole = make_task(spec, "after", "before", store="whole")
    run(whole)
    task = make_task(spec, "after", "before", checkpoint_steps=4)
    for epoch in epochs:
        stopped(task, epoch)
    assert resumed(task) > 0
    same_bytes(task, whole)
    one, other = (run(each).manifest for each in (task, whole))
    for what in ("values", "budget", "residuals", "rho", "storage"):
        assert one[what] == other[what], what


def test_admm_ends_early_within_the_tolerance(make_task: MakeTask) -> None:
    """The final projection and retraining follow at once; a tolerance that is not reached changes nothing."""
    admm_ = {"updates": 4, "lr": 0.003, "rho": 0.05}
    early, late = (
        make_task(prune(admm=admm_ | {"tolerance": tolerance}, retrain=SHORT), f"t{n}")
        for n, tolerance in enumerate((1e9, 1e-9))
    )
    for task, wanted in ((early, ["admm", "retrain"]), (late, ["admm"] * 4 + ["retrain"])):
        loaded = run(task)
        assert [row["phase"] for row in rows(task)] == wanted
        assert [row["steps"] for row in rows(task)] == [10 * (n + 1) for n in range(len(wanted))]
        in_its_sets(task, loaded)
    assert run(early).manifest["metrics"]["residual"] > 0


def test_early_stop_without_retraining_ends_the_stage(make_task: MakeTask) -> None:
    """Also of a quantize stage."""
    admm_ = {"updates": 3, "lr": 0.003, "rho": 0.05, "tolerance": 1e9}
    for key, spec in (
        ("prune", prune(admm=admm_, retrain={"epochs": 0, "lr": 0.1})),
        ("quantize", quantize([LEVELS], admm=admm_)),
    ):
        task = make_task(spec, key)
        in_its_sets(task, run(task))
        assert [row["phase"] for row in rows(task)] == ["admm"]


def test_rho_is_balanced_by_the_residuals(make_task: MakeTask) -> None:
    """Each update's factor is what its residuals say, and the manifest has the last rho."""
    admm_ = {"updates": 4, "lr": 1e-5, "rho": 1e-4, "rho_balance": True}
    task = make_task(prune(admm=admm_, retrain=SHORT))
    manifest = run(task).manifest
    updates = [row for row in rows(task) if row["phase"] == "admm"]
    rho = 1e-4
    for row in updates[:-1]:
        assert row["rho"] == pytest.approx(rho)
        rho *= admm.balance(Residual({}, row["residual"], row["change"]))
    assert updates[-1]["rho"] == pytest.approx(rho)
    # The last row's residual is that of the final projection; the factor is one of the three.
    assert manifest["rho"] / rho in (pytest.approx(0.5), pytest.approx(1.0), pytest.approx(2.0))
    assert updates[1]["rho"] == pytest.approx(2e-4), "Z hardly moves at such a learning rate"


@pytest.mark.parametrize(
    ("total", "change", "factor"), [(1.0, 0.05, 2.0), (0.05, 1.0, 0.5), (1.0, 0.2, 1.0), (0.0, 0.0, 1.0)]
)
def test_balance(total: float, change: float, factor: float) -> None:
    assert admm.balance(Residual({}, total, change)) == factor


def test_without_restarts_the_rate_falls_once_over_all_updates(make_task: MakeTask) -> None:
    """With restarts it falls in each; constant schedules know no difference."""
    admm_ = {"updates": 3, "epochs": 2, "lr": 0.4, "rho": 0.1, "schedule": "cosine"}
    once, again = (
        [s for s in phases(make_task(prune(admm=admm_ | {"lr_restart": restart})).spec) if s.name == "admm"]
        for restart in (False, True)
    )
    ends = [(learning_rate(s, 0), learning_rate(s, 2)) for s in once]
    assert [at for pair in ends for at in pair] == pytest.approx([0.4, 0.3, 0.3, 0.1, 0.1, 0.0])
    assert [learning_rate(s, done) for s in again for done in (0, 1, 2)] == pytest.approx([0.4, 0.2, 0.0] * 3)
    spec = prune(admm=admm_ | {"updates": 2, "epochs": 1, "lr": 0.01, "lr_restart": False}, retrain=SHORT)
    task = make_task(spec)
    in_its_sets(task, run(task))


def test_the_rate_falls_in_steps_as_torch_has_it(make_task: MakeTask) -> None:
    """Within a phase, and anew with each update of ADMM or once over all of them."""
    steps = {"schedule": "step", "every": 2, "factor": 0.1}
    weight = torch.optim.SGD([torch.zeros(1)], lr=0.4)
    theirs = torch.optim.lr_scheduler.StepLR(weight, step_size=2, gamma=0.1)
    wanted = []
    for _ in range(6):
        wanted.append(theirs.get_last_lr()[0])
        weight.step()
        theirs.step()
    (train,) = phases(make_task(DENSE | {"train": {"epochs": 6, "lr": 0.4} | steps}).spec)
    assert [learning_rate(train, epoch + 0.9) for epoch in range(6)] == pytest.approx(wanted)
    (often,) = phases(make_task(DENSE | {"train": {"epochs": 1, "lr": 0.4} | steps | {"every": 0.1}}).spec)
    rates = [learning_rate(often, step / 10) for step in range(10)]
    assert rates == pytest.approx([0.4 * 0.1**step for step in range(10)])
    for restart, rates in ((True, wanted[:3] * 2), (False, wanted)):
        admm_ = {"updates": 2, "epochs": 3, "lr": 0.4, "rho": 0.1, "lr_restart": restart} | steps
        two = phases(make_task(prune(admm=admm_)).spec)[:2]
        assert [learning_rate(s, epoch) for s in two for epoch in range(3)] == pytest.approx(rates)


def test_updates_within_epochs_are_those_of_shorter_phases(make_task: MakeTask) -> None:
    """Bit for bit: once an epoch, asked for in either way; and twice as often makes a difference."""
    spec = {"constraints": PRUNES["global"], "retrain": SHORT}
    by_stretch = prune(admm={"updates": 4, "epochs": 1, "lr": 0.003, "rho": 0.05}, **spec)
    run(whole := make_task(by_stretch, "after", store="whole"))
    for interval, same in ((10, True), (5, False)):
        admm_ = {"updates": 2, "epochs": 2, "interval": interval, "lr": 0.003, "rho": 0.05}
        task = make_task(prune(admm=admm_, **spec), "after", store=f"every{interval}")
        loaded = run(task)
        in_its_sets(task, loaded)
        theirs = run(whole).network
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in loaded.network.items()) == same


@pytest.mark.parametrize("bad", [0, 1], ids=["all count", "one does not"])
def test_the_distillation_loss_by_hand(bad: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, pictures = (torch.randn(4, 3, generator=generator) for _ in range(2))
    teacher = nn.Linear(3, 3)
    labels = torch.tensor([0, 1, 2, 0])
    labels[:bad] = IGNORED
    assert CLASSIFY.distil is not None
    got = CLASSIFY.distil(logits, teacher(pictures), {"label": labels}, 4.0)

    def soft(x: Tensor) -> Tensor:
        return torch.exp(x / 4) / torch.exp(x / 4).sum(1, keepdim=True)

    p, q = soft(teacher(pictures))[bad:], soft(logits)[bad:]
    torch.testing.assert_close(got, 16 * (p * (p / q).log()).sum())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(make_task: MakeTask, precision: str) -> None:
    """Its distillation loss is 0 while it does not move, in any precision; with the labels' loss it isn't."""
    made(make_task(DENSE, "dense", model="digits_cnn"))
    still: dict[str, Any] = {"admm": {"updates": 1, "lr": 1e-30, "rho": 0.1}, "retrain": {"epochs": 0, "lr": 0.1}}
    still["precision"] = precision
    losses = {}
    for weight in (1.0, 0.5):
        task = make_task(prune(distill={"weight": weight}, **still), f"w{weight}", "dense", model="digits_cnn")
        run(task)
        losses[weight] = rows(task)[0]["loss"]
    assert losses[1.0] == 0
    assert losses[0.5] > 1e-3


def test_masks_outlive_every_later_kind_of_stage(make_task: MakeTask) -> None:
    """Prune, prune more by another set, quantise, train: nothing that was pruned comes back."""
    parent = run(make_task(prune(2.0, retrain=SHORT), "a", model="digits_cnn"))
    later = [
        prune(constraints=[NM], retrain=SHORT),
        quantize([LEVELS], snap={"rounds": 1, "lr": 0.003}),
        DENSE | {"train": SHORT},
        quantize([{"set": "clusters", "tensors": "[26].weight", "count": 4}], centroids=SHORT),
    ]
    masks = parent.holds
    for number, spec in enumerate(later):
        loaded = run(make_task(spec, "bcde"[number], "abcd"[number], model="digits_cnn"))
        assert loaded.holds.keys() == masks.keys()
        for name, mask in masks.items():
            assert bool((loaded.holds[name] <= mask).all()), (number, name)
            assert bool(((loaded.network[name] != 0) <= (loaded.holds[name] != 0)).all()), (number, name)
        masks = loaded.holds


LATER = {
    "a prune of others": prune(constraints=[{"set": "cardinality", "tensors": "2.weight", "rate": 2.0}], retrain=SHORT),
    "others quantised": quantize([LEVELS | {"tensors": "0.weight"}], snap={"rounds": 1, "lr": 0.003}, retrain=SHORT),
    "training": DENSE | {"train": SHORT},
}


@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize("zero", [1, 3])
def test_later_stages_leave_alone_what_is_on_values_or_of_low_rank(make_task: MakeTask, name: str, zero: int) -> None:
    """Unless they constrain it themselves; the stage after the next still knows, and bits are counted of all of it."""
    made(make_task(DENSE | {"train": SHORT}, "dense", model="digits_cnn"))
    sets = [LEVELS | {"tensors": "6.weight"}]
    first = made(make_task(quantize(sets, snap={"rounds": 1, "lr": 0.003}), "a", "dense", model="digits_cnn"))
    lowrank = prune(constraints=[{"set": "lowrank", "tensors": "8.weight", "rank": 3}], retrain=SHORT)
    second = made(make_task(lowrank, "b", "a", model="digits_cnn", zero=zero))
    third = run(make_task(LATER[name], "c", "b", model="digits_cnn", zero=zero))
    assert second.manifest["fixed"] == {"6.weight": ["levels"], "8.weight": ["lowrank"]}
    for loaded in (second, third):
        assert torch.equal(loaded.network["6.weight"], first.network["6.weight"])
        assert loaded.manifest["storage"]["tensors"]["6.weight"]["bits"] == 3
    assert torch.equal(third.network["8.weight"], second.network["8.weight"])
    assert not torch.equal(third.network["2.weight"], second.network["2.weight"])
    assert "6.weight" not in third.holds
    assert third.manifest["fixed"].items() >= second.manifest["fixed"].items()
    again = run(make_task(quantize([LEVELS | {"tensors": "6.weight", "bits": 2}]), "d", "c", model="digits_cnn"))
    assert len(torch.unique(again.network["6.weight"])) == 4
    assert torch.equal(again.network["8.weight"], second.network["8.weight"])


def test_the_time_left_is_of_the_epochs_that_are_left(make_task: MakeTask) -> None:
    """Also where ADMM ends early: one of two epochs is over, though five were planned; then none is left."""
    admm_ = {"updates": 4, "lr": 0.003, "rho": 0.05, "tolerance": 1e9}
    events: list[dict[str, Any]] = []
    run_stage(make_task(prune(admm=admm_, retrain=SHORT)), events.append)
    first, last = (event for event in events if event["event"] == "epoch")
    assert 0 < first["seconds_left"] < 1.2 * first["seconds"]  # the first step, which may compile, is left out
    assert last["seconds_left"] == 0


def test_a_stage_that_goes_on_tells_its_earlier_epochs_again(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was told of the one that broke off, but for what its checkpoint did not have; and within epochs too."""
    monkeypatch.setattr(pace, "EVERY", 0.0)
    task = make_task(prune(admm={"updates": 2, "lr": 0.003, "rho": 0.05}, retrain={"epochs": 1, "lr": 0.01}))
    first: list[dict[str, Any]] = []

    def log(event: dict[str, Any]) -> None:
        first.append(event)
        if event["event"] == "epoch" and event["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        run_stage(task, log)
    assert [event["steps"] for event in first if event["event"] == "steps"] == list(range(1, 21))
    whole = [event["loss"] for event in first if event["event"] == "steps" and event["epoch"] == 2]
    assert sum(whole) / 10 == pytest.approx(first[-1]["loss"])
    second: list[dict[str, Any]] = []
    run_stage(task, second.append)
    (begun,) = (event for event in second if event["event"] == "resumed")
    epochs = [event for event in (*first, *second) if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [1, 2, 2, 3]
    (row,) = begun["rows"]
    assert {name: epochs[0][name] for name in row} == row
    assert row["tensors"].keys() == row["histograms"].keys() == {"1.weight", "5.weight"}
    assert row["left"] == sum(one["left"] for one in row["tensors"].values())
    assert (begun["world"], begun["per_epoch"], begun["epochs"]) == (1, 10, 3)
    assert {"samples_per_second", "step_seconds", "waited", "memory_bytes"} <= row.keys()
    assert all(0 <= event["waited"] <= 1 for event in (*first, *second) if "waited" in event)


def test_retraining_begins_without_the_momentum_of_admm(make_task: MakeTask) -> None:
    """The optimizer's step counts begin anew at it, and at it alone, as one sees in the checkpoints."""
    task = make_task(prune(admm={"updates": 2, "lr": 0.003, "rho": 0.05}, retrain={"epochs": 2, "lr": 0.01}))
    counts = []
    for epoch in (2, 3, 4):  # each ends after the checkpoint of the one before
        stopped(task, epoch)
        newest = max(Path(task.store, task.key, "checkpoints").rglob("*.json"))
        counts.append(json.loads(newest.read_text())["progress"]["inner_steps"])
    assert counts == [10, 0, 10]
