"""run_stage: one stage on its ranks, from its parents' artefacts to its own."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.checkpoint import Checkpoints, Progress
from dualprune.stages.artefacts.manifest import Damaged, check, set_aside
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.engine.engine import Engine, channels_last, emulates_bf16, join
from dualprune.stages.files.folder import Folder
from dualprune.stages.networks import pretrained
from dualprune.stages.settings.spec import PruneSpec, Spec, Task, TrainSpec
from dualprune.stages.solver import admm
from dualprune.stages.solver import snapping as quantize
from dualprune.stages.solver.targets import Targets, build_model, targets, weights
from dualprune.stages.training.evaluate import evaluate
from dualprune.stages.training.loop import Log, NonFinite, Stopping, Teacher, first_of, project, share_bad, train

_log = logging.getLogger(__name__)

FIXING = ("levels", "clusters", "lowrank")
"""Sets that are more than a support: what they made of a tensor, only training that leaves it alone keeps."""


def run_stage(task: Task, log: Log, stopping: Stopping = lambda: False) -> dict[str, Any] | None:
    """Run `task` on all ranks of this process group together (or on this process alone), and commit it.

    Goes on from the stage's newest checkpoint where there is one. Returns the artefact's manifest;
    `log` is called on rank 0. When `stopping` says so on any rank, all save where they are, within an
    epoch too, and None is returned; the next call goes on from that very step. Raises SpecError,
    DataError, stages.manifest.Damaged for a parent that is not what it was, stages.pretrained.WeightsError,
    stages.train.NonFinite, and stages.outage.StoreError and StoreAway.
    """
    rank, world, device = join(task.engine.threads)
    log = log if rank == 0 else _silent
    store = Folder(task.store).established()
    folder = store / task.key
    finished: dict[str, Any] | None = _agreed(_finished(folder) if rank == 0 else None)
    if finished is not None:
        return finished
    spec = task.spec
    data, validation, test = (
        open_split(task.shards, split, task.data_digest, spec.data, spec.seed, device, spec.model.classes)
        for split in ("train", "val", "test")
    )
    if len(data) < spec.batch:
        raise ValueError(f"{task.name}: a batch of {spec.batch} is larger than the {len(data)} training samples")
    parent = _loaded(store, task.parents[0].key) if task.parents else None
    torch.manual_seed(spec.seed)
    model = build_model(spec.model)
    if parent is not None:
        model.load_state_dict(parent.network)
    elif spec.model.weights is not None:
        pretrained.load(spec.model, store, model)
    teacher = _teacher(task, store, parent, device)
    aims = _ranked(targets(spec, {name: p.shape for name, p in model.named_parameters()}), model)
    masks = _inherited(spec, aims.names, parent.holds if parent else {})
    fixed = _fixed(parent, aims)
    holds = masks | {name: torch.zeros_like(model.get_parameter(name)) for name in fixed}
    engine = Engine(model, set(aims.names), set(holds), spec.optimizer, spec.precision, task.engine)
    checkpoints = Checkpoints(folder, rank, world)
    try:
        newest = _agreed(checkpoints.newest() if rank == 0 else None)
        if newest is None:
            for name in engine.held:
                engine.set(name, holds.get(name, torch.ones(engine.shape(name))), "hold")
            admm.start(engine, aims, _duals(spec, parent, holds))
            progress = Progress(rho=0.0 if isinstance(spec, TrainSpec) or spec.admm is None else spec.admm.rho)
            if isinstance(spec, PruneSpec) and spec.admm is None:
                project(engine, aims, progress)
        else:
            progress = checkpoints.load(newest, engine)
        engine.optimizer.holding = progress.residual is not None or bool(holds)
        inherited = set(masks)
        del parent, masks, holds  # of the network's size, three times
        begun: dict[str, Any] = {"event": "resumed" if newest else "training", "steps": progress.steps}
        if spec.precision == "bf16" and emulates_bf16(device):
            begun["emulates_bf16"] = True
        log(begun)
        every = task.engine.checkpoint_steps
        if not train(engine, spec, aims, data, validation, teacher, progress, checkpoints, every, log, stopping):
            return None
        engine.module.eval()
        scores = {
            split: evaluate(engine.forward, batches, rank, world, engine.settings.evaluated(spec.batch, world))
            for split, batches in (("val", validation), ("test", test))
        }
        for split, score in scores.items():
            share_bad(validation if split == "val" else test)
            if not math.isfinite(score.loss):
                raise NonFinite(f"the trained network's loss on {split} is {score.loss}: it diverged, or began so")
        # Rows of epochs have told of the others, if there were any epochs.
        unnamed = [*test.bad.values(), *(() if progress.metrics else validation.bad.values())]
        if unnamed:
            log({"event": "left_out", "left_out": first_of(sorted(unnamed))})
        network = _kept(engine.tensors(), rank)
        duals = _kept(((name, engine.get(name, "dual")) for name in aims.names), rank)
        masks = _kept(((name, engine.get(name, "hold")) for name in sorted(engine.held)), rank)
        manifest: dict[str, Any] = {}
        if rank == 0:
            manifest = _manifest(task, progress, network, aims, fixed, scores, world)
            met = {"train": data.bad, "val": validation.bad, "test": test.bad}
            manifest["left_out"] = {split: sorted(bad.values()) for split, bad in met.items() if bad}
            manifest = artefact.commit(
                folder, manifest, network, _support(masks, aims, fixed, network, inherited), duals
            )
            try:
                checkpoints.folder.remove("")
            except OSError as error:  # the stage is done all the same
                _log.warning("%s: its checkpoints can't be removed: %s", task.name, error)
        manifest = _agreed(manifest)
        return manifest
    finally:
        checkpoints.abandon()
        engine.close()


def _ranked(aims: Targets, model: nn.Module) -> Targets:
    """The same with the ranks that `energy` gives of the weights that the stage starts from: they hold to its end."""
    asked = {name: one for name, one in aims.sets.items() if isinstance(one, LowRank)}
    found: dict[str, LowRank] = _agreed({name: one.of(model.get_parameter(name)) for name, one in asked.items()})
    return replace(aims, sets={**aims.sets, **found})


def _inherited(spec: Spec, constrained: list[str], holds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parent's masks that stay in force: all, but for constrained tensors whose weights may come back."""
    if isinstance(spec, PruneSpec) and spec.regrow:
        return {name: mask for name, mask in holds.items() if name not in constrained}
    return dict(holds)


def _fixed(parent: artefact.Artefact | None, aims: Targets) -> dict[str, list[str]]:
    """Tensors that are on shared values or of low rank since an earlier stage, with their sets, and stay as they are.

    Not those that this stage constrains: they are held to its own sets.
    """
    there = parent.manifest.get("fixed", {}) if parent else {}
    return {name: sets for name, sets in there.items() if name not in aims.kinds}


def _kept(tensors: Iterable[tuple[str, Tensor]], rank: int) -> dict[str, Tensor]:
    """Tensors in the host's memory, on rank 0, which writes them; all ranks gather them together."""
    return {name: tensor.cpu() for name, tensor in tensors if rank == 0}


def _support(
    holds: Mapping[str, Tensor],
    aims: Targets,
    fixed: Mapping[str, Any],
    network: Mapping[str, Tensor],
    inherited: set[str],
) -> dict[str, Tensor]:
    """Masks of what may be non-zero, for the stages after this one; `inherited` names those with a parent's mask.

    A prune's are its holds. Quantising holds weights on their values, not at zero: what was pruned before it is
    what is zero after it. Of a low-rank tensor every entry may be non-zero.
    """
    masks = {}
    for name, hold in holds.items():
        kinds = aims.kinds.get(name) or tuple(fixed.get(name, ()))
        if "lowrank" in kinds:
            continue
        if kinds and kinds[-1] in ("levels", "clusters"):
            if name in inherited or len(kinds) > 1:
                masks[name] = (network[name] != 0).float()
            continue
        masks[name] = hold
    return masks


def _loaded(store: Folder, key: str) -> artefact.Artefact:
    """A parent's artefact. Raises Damaged for one whose files were changed; it counts as absent from then on."""
    try:
        return artefact.load(store / key)
    except Damaged as error:
        set_aside(store / key)
        raise Damaged(f"{error}; it counts as absent now, and the same command runs its stage again") from None


def _teacher(task: Task, store: Folder, parent: artefact.Artefact | None, device: torch.device) -> Teacher | None:
    """The network that the stage learns from, if it does: its second parent's, or its only one's, `parent`.

    It answers in the stage's precision, and is compiled if the stage's own network is.
    """
    if isinstance(task.spec, TrainSpec) or task.spec.distill is None or not task.parents:
        return None
    key = task.parents[-1].key
    of = parent if parent is not None and key == task.parents[0].key else _loaded(store, key)
    network = artefact.network(of).to(device)
    if task.engine.compile:
        network.compile()
    bf16 = task.spec.precision == "bf16"

    @torch.no_grad()
    def teacher(pictures: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return network(channels_last(pictures)).float()  # type: ignore[no-any-return]

    return teacher


def _duals(spec: Spec, parent: artefact.Artefact | None, holds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """U to start from: a prune's. The unscaled dual rho U is what carries over, so U is rescaled to the new rho."""
    if not isinstance(spec, PruneSpec) or spec.duals == "reset" or parent is None:
        return {}
    if parent.manifest["spec"]["kind"] != "prune":  # what a quantisation leaves is the U of other sets
        return {}
    assert spec.admm is not None
    factor = parent.manifest["rho"] / spec.admm.rho
    return {name: u * factor * holds.get(name, 1.0) for name, u in parent.duals.items()}


def _manifest(
    task: Task,
    progress: Progress,
    network: Mapping[str, Tensor],
    aims: Targets,
    fixed: Mapping[str, list[str]],
    scores: Mapping[str, Any],
    world: int,
) -> dict[str, Any]:
    shapes = {name: tensor.shape for name, tensor in network.items()}
    counted = sorted(aims.names) or sorted(weights(shapes))
    tensors: dict[str, dict[str, Any]] = {
        name: {
            "shape": list(network[name].shape),
            "size": network[name].numel(),
            "nonzeros": int(torch.count_nonzero(network[name])),
            "sets": list(aims.kinds.get(name, ())),
        }
        for name in counted
    }
    size, nonzeros = (sum(t[what] for t in tensors.values()) for what in ("size", "nonzeros"))
    kinds = {**fixed, **aims.kinds}
    return {
        "name": task.name,
        "kind": task.spec.kind,
        "key": task.key,
        "spec": task.spec.model_dump(mode="json"),
        "data": task.data_digest,
        "parents": [parent.model_dump() for parent in task.parents],
        "tensors": tensors,
        "rho": progress.rho,
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
        "budget": progress.budget,
        "values": progress.values,
        "fixed": {name: list(sets) for name, sets in kinds.items() if sets[-1] in FIXING},
        "storage": quantize.storage(network, kinds) if kinds else None,
        "world": world,
        "engine": task.engine.model_dump(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "deepspeed", "webdataset")},
        },
    }


def _finished(folder: Folder) -> dict[str, Any] | None:
    try:
        return check(folder)
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
