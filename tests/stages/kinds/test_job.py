"""A stage that is ready to run crosses processes, and its key is of what changes results."""

from __future__ import annotations

from typing import Any

from dualprune.stages.kinds.job import StageJob, key_material
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.kinds.table import KINDS

PRUNE: dict[str, Any] = {
    "kind": "prune",
    "model": {"name": "lenet5"},
    "data": {"source": "digits"},
    "constraints": [{"set": "cardinality", "tensors": "*", "rate": 4.0}],
    "admm": {"updates": 2, "lr": 0.1, "rho": 0.01},
    "retrain": {"epochs": 1, "lr": 0.1},
}


def test_a_job_survives_json() -> None:
    job = StageJob.model_validate(
        {
            "name": "n",
            "key": "k",
            "store": "s",
            "spec": PRUNE,
            "parent": {"name": "p", "key": "q"},
            "shards": "x",
            "data_digest": "d",
            "engine": {"zero": 3},
        }
    )
    assert StageJob.model_validate_json(job.model_dump_json()) == job


def test_the_key_knows_results_and_not_places() -> None:
    def key(**change: Any) -> dict[str, Any]:
        return key_material(PruneSpec.model_validate(PRUNE | change), "digest", ["parent"])

    assert key() == key(data={"shards": "/elsewhere"}) == key(data={"source": "mnist", "folder": "x"})
    same = {"name": "lenet5"}
    assert key() == key(model=same | {"weights": None, "sha256": None}) == key(data={"source": "digits", "limit": None})
    pretrained = same | {"weights": "a.pth", "sha256": "a" * 64}
    assert key(model=pretrained) == key(model=pretrained | {"weights": "b.pth"}) != key()
    assert key(model=pretrained) != key(model=pretrained | {"sha256": "b" * 64})
    for change in ({"data": {"source": "digits", "flip": True}}, {"data": {"source": "digits", "limit": 9}}):
        assert key(**change) != key()
    assert key() == key(data={"source": "digits", "workers": 8, "cache": 10**9, "bad": 0.5})
    data = [{"source": "digits", **own} for own in ({"shift": 1}, {"crop": 96}, {"window": 4}, {"flip": True})]
    for change in ({"seed": 1}, {"batch": 32}, {"duals": "carry"}, {"smoothing": 0.1}, *({"data": d} for d in data)):
        assert key(**change) != key()
    assert key_material(PruneSpec.model_validate(PRUNE), "other", ["parent"]) != key()
    assert key_material(PruneSpec.model_validate(PRUNE), "digest", ["other"]) != key()


def test_keys_of_old_settings_stay() -> None:
    """Of stages from before there were weights from elsewhere, mirrored pictures and limits: artefacts stay what they
    were. The material is written down here as it was then."""
    assert key_material(PruneSpec.model_validate(PRUNE), "digest", ["parent"]) == {
        "spec": {
            "model": {"name": "lenet5"},
            "data": {},
            "kind": "prune",
            "constraints": [{"tensors": "*", "rate": 4.0, "set": "cardinality"}],
            "admm": {"updates": 2, "lr": 0.1, "rho": 0.01},
            "retrain": {"epochs": 1, "lr": 0.1},
        },
        "method": KINDS["prune"].version,
        "data": "digest",
        "parents": ["parent"],
    }
