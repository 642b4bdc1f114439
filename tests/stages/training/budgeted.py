"""What tests of `gates` and `joint` have in common: they close units and blocks until a budget is met."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dualprune.stages.artefacts import artefact
from tests.stages.conftest import MakeTask
from tests.stages.training.test_shrink import PICTURES
from tests.stages.training.test_stage import DENSE, made, run
from tests.stages.training.test_stage_solver import rows

BOTH = pytest.mark.parametrize("model", ["digits_cnn", "blocks"])
"""Without and with batch normalisation and residual blocks."""


def cut_exactly(stage: MakeTask, spec: dict[str, Any], model: str) -> None:
    """Half of the multiplications are left, as many in the smaller network as the stage says, and no layer was told
    its share."""
    made(stage(DENSE, "dense", model=model))
    task = stage(spec, "cut", "dense", model=model)
    cut = run(task)
    facts = cut.manifest[spec["kind"]]
    assert 0.4 < facts["macs"] <= 0.5
    assert rows(task)[-1]["macs_left"] == facts["macs"]
    small = run(stage({"kind": "shrink"}, "small", "cut", model=model))
    before, after = small.manifest["shrunk"]["macs"]
    assert after / before == pytest.approx(facts["macs"])
    assert small.manifest["shrunk"]["difference"] < 1e-5
    with torch.no_grad():
        assert torch.allclose(artefact.network(cut)(PICTURES), artefact.network(small)(PICTURES), atol=1e-4)
    assert len({left / size for size, left in facts["units"].values()}) > 1
    for name, mask in cut.holds.items():
        assert not cut.network[name][mask == 0].any()
