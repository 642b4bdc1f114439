"""`run --smoke` of the recipes that come along, on real Ray processes: every stage of each, on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.config import load
from tests.running import dualprune, json_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RECIPES = {
    "digits": [],
    "cifar10_resnet20": ["data.folder={root}/cifar10", "model.weights={root}/weights/resnet20-12fca82f.th"],
}
"""By name: where its data and weights lie within DUALPRUNE_DATA."""


@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_of_a_recipe(name: str, tmp_path: Path) -> None:
    """Is done, with as many weights as it is to have: a few steps are enough for that."""
    root = os.environ.get("DUALPRUNE_DATA")
    if RECIPES[name] and not root:
        pytest.skip("DUALPRUNE_DATA is not set: it names a folder with data and weights")
    sets = [argument for setting in RECIPES[name] for argument in ("--set", setting.format(root=root))]
    code, lines = dualprune(tmp_path, "run", name, "--smoke", "--json", *sets)
    assert code == 0, "\n".join(lines)
    rows = {row["name"]: row for row in json_of(lines)["stages"]}
    assert {row["state"] for row in rows.values()} == {"done"}
    assert list(rows) == [stage.name for stage in load(name)[0].stages]
    for stage, row in rows.items():
        rate = stage.rpartition("-")[2]
        if rate.endswith("x"):
            assert row["rate"] == pytest.approx(float(rate[:-1]), rel=0.01)
