"""Events of a run of two stages, as its driver adds them, made by hand; and the store that it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualprune.stages.artefacts.manifest import MANIFEST, own_hash
from dualprune.stages.files.folder import Folder
from dualprune.stages.objectives.measures import Measure, Measures

DENSE, HALF = "0123456789abcdef", "fedcba9876543210"
LOSS = Measures("error", {"error": Measure("px", higher=False), "hits": Measure("%")})
LAYERS = {
    "0.weight": {"shape": [8, 1, 3, 3], "size": 72, "nonzeros": 36, "sets": ["cardinality"]},
    "8.weight": {"shape": [10, 64], "size": 640, "nonzeros": 64, "sets": ["pattern", "levels"]},
}
SPEED = {"samples_per_second": 100.0, "step_seconds": 0.05, "waited": 0.125, "memory_bytes": 1e9}


def store(folder: Path) -> Folder:
    """A store in which both stages are done."""
    made = Folder(str(folder / "store"))
    for name, key in (("dense", DENSE), ("half", HALF)):
        manifest: dict[str, Any] = {
            "name": name,
            "key": key,
            "kind": "prune",
            "objective": LOSS.said(),
            "tensors": LAYERS,
            "metrics": {"rate": 2.0, "nonzeros": 100, "val_error": 1.25, "test_error": 1.5, "seconds": 9.0},
            "files": {"model.safetensors": {"sha256": "0", "bytes": 3}},
        }
        manifest["sha256"] = own_hash(manifest)
        (made / key).write("model.safetensors", b"abc")
        (made / key).write_json(MANIFEST, manifest)
    return made


def begun() -> dict[str, Any]:
    """A run begins."""
    stages = {
        "dense": {"key": DENSE, "kind": "train", "parents": [], "spec": {"batch": 64}, "data": "d", "state": "run"},
        "half": {
            "key": HALF,
            "kind": "prune",
            "parents": ["dense"],
            "spec": {"batch": 32},
            "data": "d",
            "state": "run",
        },
    }
    return {"event": "begun", "at": 0.0, "run": "tiny", "settings": {"store": "s3://***@bucket"}, "stages": stages}


def submitted(stage: str) -> dict[str, Any]:
    """A stage is given to the lanes."""
    kind, parents = ("train", []) if stage == "dense" else ("prune", ["dense"])
    return _of("submitted", stage, kind=kind, parents=parents, objective=LOSS.said(), material={})


def training(stage: str) -> dict[str, Any]:
    """It begins."""
    return _of("training", stage, steps=0, world=2, rows=[], epochs=4)


def resumed(stage: str, steps: int) -> dict[str, Any]:
    """It goes on after so many steps, ten of which are an epoch."""
    rows = [epoch(stage, number) for number in range(1, steps // 10 + 1)]
    told = [{name: value for name, value in row.items() if name not in ("event", "at", "stage", "key")} for row in rows]
    return _of("resumed", stage, steps=steps, world=2, rows=told, epochs=4)


def place(stage: str, steps: int) -> dict[str, Any]:
    """Within an epoch."""
    return _of("steps", stage, steps=steps, done=steps % 10 / 10 or 1.0, phase="admm", loss=2 / steps, lr=0.1, **SPEED)


def epoch(stage: str, number: int) -> dict[str, Any]:
    """An epoch ends, and with it a phase of ADMM's."""
    said: dict[str, Any] = {
        "epoch": number,
        "steps": 10 * number,
        "phase": "admm",
        "loss": 1 / number,
        "lr": 0.1,
        **SPEED,
    }
    said |= {
        "val_error": 8.0 / number,
        "val_hits": 10.0 * number,
        "best": "error",
        "unit": "px",
        "seconds": 1.0 * number,
    }
    said |= {"rho": 0.01 * number, "residual": 0.5 / number, "change": 0.25 / number, "left": 100, "churn": 0.125}
    one = {"primal": 0.5, "dual": 0.25, "left": 36, "size": 72, "churn": 0.125}
    said |= {"tensors": {"0.weight": one, "8.weight": {**one, "left": 64, "size": 640}}}
    counts = {"low": -1.0, "high": 1.0, "counts": [2, 3, 5, 2]}
    return _of("epoch", stage, **said, histograms={"0.weight": counts, "8.weight": counts})


def done(stage: str) -> dict[str, Any]:
    """It ends."""
    return _of("done", stage, metrics={"rate": 2.0, "val_error": 1.25}, advice="more of it")


def failed(stage: str) -> dict[str, Any]:
    """It fails for good."""
    return _of("failed", stage, reason="it broke", kind="prune")


def ended(how: str) -> dict[str, Any]:
    """The run ends."""
    return {"event": "ended", "at": 1.0, "how": how}


def _of(event: str, stage: str, **facts: Any) -> dict[str, Any]:
    return {"event": event, "at": 0.5, "stage": stage, "key": {"dense": DENSE, "half": HALF}[stage], **facts}
