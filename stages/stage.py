"""run_stage: one stage on its ranks, from its parents' artefacts to its own."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stages import admm, artefact
from stages.checkpoint import Checkpoints, Progress
from stages.constraints import Constraint
from stages.data.batches import Batches, load_split
from stages.engine import Engine, join
from stages.evaluate import evaluate
from stages.files import Folder
from stages.manifest import Damaged, verify
from stages.spec import PruneSpec, Task
from stages.targets import build_model, constraints, weights
from stages.train import Log, stretches, train


def run_stage(task: Task, log: Log) -> dict[str, Any]:
    """Run `task` on all ranks of this process group together (or on this process alone), and commit it.

    Goes on from the stage's newest checkpoint where there is one. Returns the artefact's manifest;
    `log` is called on rank 0. Raises SpecError, DataError, stages.manifest.Damaged for a parent that
    is not what it was, and stages.train.NonFinite.
    """
    rank, world, device = join(task.engine.threads)
    log = log if rank == 0 else _silent
    folder = Folder(task.store) / task.key
    finished: dict[str, Any] | None = _agreed(_finished(folder) if rank == 0 else None)
    if finished is not None:
        return finished
    spec = task.spec
    data, validation, test = (
        Batches(load_split(task.shards, split, task.data_digest), spec.data, spec.seed, device)
        for split in ("train", "val", "test")
    )
    if len(data) < spec.batch:
        raise ValueError(f"{task.name}: a batch of {spec.batch} is larger than the {len(data)} training samples")
    parent = artefact.load(Folder(task.store) / task.parents[0].key) if task.parents else None
    torch.manual_seed(spec.seed)
    model = build_model(spec.model)
    if parent is not None:
        model.load_state_dict(parent.network)
    sets = constraints(spec, {name: p.shape for name, p in model.named_parameters()})
    holds = _inherited(spec, sets, parent.holds if parent else {})
    engine = Engine(model, set(sets), set(holds), spec.optimizer, spec.precision, task.engine)
    checkpoints = Checkpoints(folder, rank, world)
    try:
        newest = _agreed(checkpoints.newest() if rank == 0 else None)
        if newest is None:
            for name in engine.held:
                engine.set(name, holds.get(name, torch.ones(engine.shape(name))), "hold")
            admm.start(engine, sets, _duals(spec, parent, holds))
            progress = Progress()
        else:
            progress = checkpoints.load(newest, engine)
        projected = progress.residual is not None
        engine.optimizer.holding = projected or bool(holds)
        log({"event": "resumed" if newest else "training", "steps": progress.steps})
        train(engine, spec, sets, data, validation, progress, checkpoints, task.engine.checkpoint_steps, log)
        engine.module.eval()
        scores = {
            split: evaluate(engine.forward, batches, rank, world)
            for split, batches in (("val", validation), ("test", test))
        }
        network = {name: tensor.cpu() for name, tensor in engine.tensors()}
        duals = {name: engine.get(name, "dual").cpu() for name in sets}
        final_holds = {name: engine.get(name, "hold").cpu() for name in sorted(engine.held)}
        manifest: dict[str, Any] = {}
        if rank == 0:
            manifest = _manifest(task, progress, network, sets, scores, world)
            manifest = artefact.commit(folder, manifest, network, final_holds, duals)
            checkpoints.folder.remove("")
        manifest = _agreed(manifest)
        return manifest
    finally:
        checkpoints.abandon()
        engine.close()


def _inherited(spec: Any, sets: Mapping[str, Constraint], holds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parent's masks that stay in force: all, but for constrained tensors whose weights may come back."""
    if isinstance(spec, PruneSpec) and spec.regrow:
        return {name: mask for name, mask in holds.items() if name not in sets}
    return dict(holds)


def _duals(spec: Any, parent: artefact.Artefact | None, holds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """U to start from. The unscaled dual rho U is what carries over, so U is rescaled to the new rho."""
    if not isinstance(spec, PruneSpec) or spec.duals == "reset" or parent is None or not parent.duals:
        return {}
    factor = parent.manifest["rho"] / spec.admm.rho
    return {name: u * factor * holds.get(name, 1.0) for name, u in parent.duals.items()}


def _manifest(
    task: Task,
    progress: Progress,
    network: Mapping[str, Tensor],
    sets: Mapping[str, Constraint],
    scores: Mapping[str, Any],
    world: int,
) -> dict[str, Any]:
    shapes = {name: tensor.shape for name, tensor in network.items()}
    counted = sorted(sets) or sorted(weights(shapes))
    tensors = {
        name: {
            "shape": list(network[name].shape),
            "size": network[name].numel(),
            "nonzeros": int(torch.count_nonzero(network[name])),
            **({"set": type(sets[name]).__name__.lower(), **asdict(sets[name])} if name in sets else {}),  # type: ignore[call-overload]
        }
        for name in counted
    }
    size, nonzeros = (sum(t[what] for t in tensors.values()) for what in ("size", "nonzeros"))
    last = next((s for s in reversed(stretches(task.spec)) if s.phase == "admm"), None)
    return {
        "name": task.name,
        "kind": task.spec.kind,
        "key": task.key,
        "spec": task.spec.model_dump(mode="json"),
        "data": task.data_digest,
        "parents": [parent.model_dump() for parent in task.parents],
        "tensors": tensors,
        "rho": last.rho * last.growth if last else 0.0,
        "residuals": (progress.residual or {}).get("tensors", {}),
        "metrics": {
            "rate": size / nonzeros if nonzeros else None,
            "weights": size,
            "nonzeros": nonzeros,
            "val_accuracy": scores["val"].accuracy,
            "test_accuracy": scores["test"].accuracy,
            "val_loss": scores["val"].loss,
            "test_loss": scores["test"].loss,
            "residual": (progress.residual or {}).get("total"),
            "steps": progress.steps,
            "seconds": round(progress.seconds, 3),
        },
        "rows": progress.metrics,
        "world": world,
        "engine": task.engine.model_dump(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "deepspeed", "webdataset")},
        },
    }


def _finished(folder: Folder) -> dict[str, Any] | None:
    try:
        return verify(folder)
    except Damaged:
        return None


def _agreed(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    box = [value]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def _silent(event: dict[str, Any]) -> None:
    """The log of ranks other than 0."""
