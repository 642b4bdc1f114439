"""A stage of which the tests of choices make theirs."""

from __future__ import annotations

from typing import Any

from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.kinds.table import parse

STAGE = {
    "kind": "prune",
    "model": {"name": "digits_cnn"},
    "data": {"source": "digits"},
    "constraints": [{"set": "cardinality", "tensors": "*", "rate": 2.0}],
    "admm": {"updates": 1, "lr": 1e-3, "rho": 1e-3},
    "retrain": {"epochs": 1, "lr": 1e-3},
}


def stage(*constraints: dict[str, Any]) -> PruneSpec:
    """A prune with these constraints, or with one of rate 2."""
    spec = parse({**STAGE, "constraints": list(constraints) or STAGE["constraints"]})
    assert isinstance(spec, PruneSpec)
    return spec
