"""`run --smoke` of the recipes that come along, every stage of each, on the CPU: one on real Ray processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dualprune.pipeline.config.load import load
from dualprune.stages.data.make.index import index
from tests.running import dualprune, json_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RECIPES = {
    "digits": [],
    "diabetes": [],
    "mnist_lenet5": ["data.folder={root}/mnist"],
    "cifar10_resnet20": ["data.folder={root}/cifar10", "model.weights={root}/weights/resnet20-12fca82f.th"],
    "imagenet_resnet18": [
        *("data.shards={shards}", "data.crop=64", "data.resize=72", "model.weights=null"),
        *("cluster.gpus=0", "cluster.workers=1"),
    ],
}
"""By name: where its data and weights lie within DUALPRUNE_DATA, and what makes it small enough for a CPU."""

ON_RAY = ("imagenet_resnet18",)
"""The others take less time in a process, by the same code."""
LONG = ("mnist_lenet5", "cifar10_resnet20")
"""Of many stages, which show no more than the others do."""


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.soak] * (one in LONG)) for one in RECIPES])
def test_every_stage_of_a_recipe(name: str, tmp_path: Path) -> None:
    """Is done, with as many weights as it is to have: a few steps are enough for that."""
    root = os.environ.get("DUALPRUNE_DATA")
    if RECIPES[name] and not root:
        pytest.skip("DUALPRUNE_DATA is not set: it names a folder with data and weights")
    shards = tmp_path / "shards"
    if name.startswith("imagenet"):
        tars = f"{root}/imagenet_sample/imagenet-sample-00000"
        index(str(shards), "sample", {"train": f"{tars}[0-7].tar", "val": f"{tars}8.tar", "test": f"{tars}9.tar"})
    settings = [setting.format(root=root, shards=shards) for setting in RECIPES[name]]
    sets = [argument for setting in settings for argument in ("--set", setting)]
    way = [] if name in ON_RAY else ["--inline"]
    code, lines = dualprune(tmp_path, "run", name, "--smoke", "--json", *way, *sets)
    assert code == 0, "\n".join(lines)
    rows = {row["name"]: row for row in json_of(lines)["stages"]}
    assert {row["state"] for row in rows.values()} == {"done"}
    assert list(rows) == [stage.name for stage in load(name)[0].stages]
    for stage, row in rows.items():
        rate = stage.rpartition("-")[2]
        if rate.endswith("x"):
            assert row["rate"] == pytest.approx(float(rate[:-1]), rel=0.01)
