"""Batch normalisation's statistics anew in kinds that take things out of a network or veil it: against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dualprune.stages.artefacts import artefact
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.networks.normalisation import norms
from dualprune.stages.objectives.table import objective
from dualprune.stages.training.evaluate import evaluate
from tests.stages.conftest import MakeTask
from tests.stages.kinds.test_scores import scores
from tests.stages.training.test_gates import gates
from tests.stages.training.test_joint import joint
from tests.stages.training.test_partial import partial
from tests.stages.training.test_passes import split_of
from tests.stages.training.test_shrink import AT_ONCE, SMALL
from tests.stages.training.test_stage import DENSE, made, run

pytestmark = pytest.mark.usefixtures("one_rank")

ONE = {"train": {"epochs": 1, "lr": 0.01}}
FILTERS = [{"set": "filter", "tensors": "*"}]
SPECS: dict[str, dict[str, Any]] = {
    "shrink": AT_ONCE | {"retrain": {"epochs": 1, "lr": 0.005}},
    "shrink, no retraining": AT_ONCE | {"retrain": None},
    "shrink, a block and pixels": SMALL | {"retrain": None, "blocks": {"remove": 1, "samples": 50}, "resolution": 6},
    "gates": gates(0.4, **ONE),
    "gates, closed blocks": gates(0.08, **ONE),
    "joint": joint(0.4, **ONE),
    "joint, fewer pixels": joint(0.015, resolutions=[6, 4], **ONE),
    "scores": scores(0.5, constraints=FILTERS, **ONE),
    "partial": partial(0.75, 2.0, **ONE),
}


def by_torch(task: StageJob, loaded: artefact.Artefact, batches: int) -> None:
    """An artefact's statistics are those that torch takes of its network, and its metrics are measured with them."""
    network, train = artefact.network(loaded), split_of(task, "train")
    order = train.order(0)
    parts = [order[32 * n : 32 * n + 32] for n in range(batches)]
    with torch.no_grad():
        torch.optim.swa_utils.update_bn([batch["image"] for batch in train.evaluation(parts)], network)
    expected = network.state_dict()
    assert norms(network)
    for name, value in expected.items():
        torch.testing.assert_close(loaded.network[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: n + text)
    score = evaluate(network.eval(), objective(task.spec), split_of(task, "val")).values["accuracy"]
    assert loaded.manifest["metrics"]["val_accuracy"] == pytest.approx(score)


@pytest.mark.parametrize("name", SPECS)
def test_they_are_those_of_what_is_left(stage: MakeTask, name: str) -> None:
    """From 3 batches where 100 samples are asked for."""
    made(stage(DENSE | ONE, "dense", model="blocks"))
    task = stage(SPECS[name] | {"recalibrate": 100}, "after", "dense", model="blocks")
    by_torch(task, run(task), 3)
