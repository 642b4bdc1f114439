"""The table of objectives: what holds of each of its lines, and a new line from outside that stages train for."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.objectives.base import Batch, Metric, Objective
from dualprune.stages.objectives.fields import IGNORED
from dualprune.stages.objectives.measures import CLASSIFY, measures
from dualprune.stages.objectives.table import OBJECTIVES
from dualprune.stages.settings.training import Model, StageSpec
from dualprune.stages.training.stage import run_stage
from tests.processes import ROOT
from tests.stages.conftest import MakeTask


def outputs_and_batch(name: str, n: int, seed: int) -> tuple[Any, Batch]:
    """What a network may give for a batch of an objective, one sample of which is bad. A new objective needs a line."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator)

    label = torch.randint(0, 10, (n,), generator=generator)
    labels = (normal(4) > 0).float()
    numbers, points = normal(3), normal(5, 2)
    label[0], labels[0], numbers[0], points[0] = IGNORED, IGNORED, torch.nan, torch.nan
    return {
        "classify": lambda: (normal(10), {"image": normal(3, 4, 4), "label": label}),
        "multilabel": lambda: (normal(4), {"x": normal(7), "target": labels}),
        "regress": lambda: (normal(3), {"x": normal(7), "target": numbers}),
        "tokens": lambda: (normal(10), {"input_ids": label[:, None].expand(n, 6).abs(), "label": label}),
        "landmarks": lambda: (normal(10), {"image": normal(3, 4, 4), "target": points}),
    }[name]()


def made(name: str) -> Objective:
    """A line of the table with no arguments."""
    return OBJECTIVES[name](TrainSpec.model_construct(model=Model(name="any"), smoothing=0.0, mix=None))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_keeps_the_contract(name: str) -> None:
    """Losses and metrics are sums over good samples: of two batches together, what each has added up."""
    objective = made(name)
    assert objective.best in objective.metrics
    one, other = outputs_and_batch(name, 6, 1), outputs_and_batch(name, 5, 2)
    both = (torch.cat([one[0], other[0]]), {key: torch.cat([one[1][key], other[1][key]]) for key in one[1]})
    assert [int(objective.good(batch)) for _, batch in (one, other, both)] == [5, 4, 9]
    for what in (objective.loss, *(metric.sums for metric in objective.metrics.values())):
        assert torch.allclose(what(*one).double() + what(*other).double(), what(*both).double(), rtol=1e-5)
    if objective.distil is not None:
        assert float(objective.distil(one[0], one[0], one[1], 2.0)) == pytest.approx(0, abs=1e-6)
        assert float(objective.distil(one[0], one[0].flip(0), one[1], 2.0)) > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_bad_counts_nowhere(name: str) -> None:
    """Whatever the network gives for it: nothing of it is in a loss, a metric or a gradient."""
    objective = made(name)
    outputs, batch = outputs_and_batch(name, 6, 1)
    other = outputs.clone()
    other[0] = 1e3
    asked = [objective.loss, *(metric.sums for metric in objective.metrics.values())]
    if objective.distil is not None:
        asked.append(lambda given, batch: objective.distil(given, outputs.flip(1), batch, 1.0))
    for what in asked:
        assert torch.equal(what(outputs, batch), what(other, batch))
    outputs.requires_grad_()
    objective.loss(outputs, batch).backward()
    assert not outputs.grad[0].any()
    assert outputs.grad[1:].any(1).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_metric_has_a_value_and_facts(name: str) -> None:
    """A finite number of the sums in fp64, as evaluation gives them; unit and direction as the manifest has them."""
    objective = made(name)
    outputs, batch = outputs_and_batch(name, 6, 1)
    for one in objective.metrics.values():
        sums = one.sums(outputs, batch).double()
        value = one.value(sums if sums.ndim else float(sums), 5)
        assert isinstance(value, float)
        assert math.isfinite(value)
    assert measures({"objective": json.loads(json.dumps(objective.measures.said()))}) == objective.measures


def brier(spec: StageSpec) -> Objective:
    """Squared distance of the softmax from the label: what somebody else would write into a file of theirs."""

    def distance(logits: Tensor, batch: Batch) -> Tensor:
        wanted = F.one_hot(batch["label"], logits.shape[1])
        return (logits.softmax(1) - wanted).square().sum()

    return Objective(
        call=lambda network, batch: network(batch["image"]).float(),
        loss=distance,
        good=lambda batch: torch.tensor(len(batch["label"])),
        metrics={"score": Metric(distance, lambda total, samples: total / samples, higher=False, unit="")},
        best="score",
    )


def test_an_objective_from_outside_is_trained_for(
    make_task: MakeTask, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss goes down, and its metric is what is told and kept; nothing asks for accuracy."""
    monkeypatch.setitem(OBJECTIVES, "brier", brier)
    rows: list[dict[str, Any]] = []
    task = make_task({"kind": "train", "objective": "brier", "train": {"epochs": 5, "lr": 0.01}})
    manifest = run_stage(task, rows.append)
    assert manifest is not None
    epochs = [row for row in rows if row["event"] == "epoch"]
    assert epochs[-1]["loss"] < 0.9 * epochs[0]["loss"]
    assert epochs[-1]["val_score"] == manifest["metrics"]["val_score"] < epochs[0]["val_score"]
    assert not [name for name in manifest["metrics"] if "accuracy" in name]
    assert manifest["objective"] == {"best": "score", "metrics": {"score": {"unit": "", "higher": False}}}
    assert (epochs[-1]["best"], epochs[-1]["unit"]) == ("score", "")


def test_all_of_validation_is_told_and_kept(make_task: MakeTask, one_rank: None) -> None:
    """Each epoch's event has every metric, and so has the artefact's row."""
    rows: list[dict[str, Any]] = []
    task = make_task({"kind": "train", "train": {"epochs": 1, "lr": 0.01}})
    manifest = run_stage(task, rows.append)
    assert manifest is not None
    (told,) = (row for row in rows if row["event"] == "epoch")
    names = {name for name in told if name.startswith("val_")}
    assert names == {"val_accuracy", "val_loss", "val_top5"}
    assert {name: told[name] for name in names} == {name: manifest["metrics"][name] for name in names}
    (kept,) = map(json.loads, (Folder(task.store) / task.key).read("metrics.jsonl").splitlines())
    assert {name for name in kept if name.startswith(("val_", "best", "unit"))} == names
    assert CLASSIFY.metrics.items() <= measures(manifest).metrics.items()
    assert measures(manifest).best == CLASSIFY.best
    assert measures({}) == CLASSIFY


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_made_without_torch(name: str) -> None:
    """So a pipeline knows its metrics. Its numbers take torch, when they are computed."""
    call = (
        "import sys; from dualprune.stages.objectives.table import OBJECTIVES;"
        "from dualprune.stages.kinds.train import TrainSpec; from dualprune.stages.settings.training import Model;"
        f"made = OBJECTIVES[{name!r}](TrainSpec.model_construct(model=Model(name='any'), smoothing=0.0, mix=None));"
        "print(made.measures.best, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
