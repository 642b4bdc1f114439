"""A stage's Run, put together on one rank: data, network, teacher, targets, masks, engine, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.checkpoint import Checkpoints, Progress
from dualprune.stages.artefacts.manifest import ASIDE, Damaged, set_aside
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.data.read.reading import Reader
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import agreed
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import Task
from dualprune.stages.kinds.table import KINDS, phases
from dualprune.stages.networks import pretrained
from dualprune.stages.networks.build import build_model
from dualprune.stages.objectives.base import Batch
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.spec import StageSpec
from dualprune.stages.solver.targets import Targets, targets
from dualprune.stages.training.run import Log, Run, Stopping, Teacher

SPLITS = ("train", "val", "test")


Place = tuple[int, int, torch.device]
"""Rank, world size, and this rank's device."""


def assembled(task: Task, store: Folder, log: Log, stopping: Stopping, place: Place) -> Run[Any]:
    """Everything that a stage needs to begin, or to go on from its newest checkpoint.

    Raises SpecError, DataError, Damaged, WeightsError and stages.artefacts.checkpoint.OtherVersion.
    """
    spec, (rank, world, device) = task.spec, place
    splits = _splits(task, device)
    parent = _loaded(store, task.parents[0].key) if task.parents else None
    network = _network(spec, store, parent)
    teacher = _teacher(task, store, parent, device)
    aims = _with_ranks(targets(spec, {name: p.shape for name, p in network.named_parameters()}), network)
    masks = _inherited(spec, aims.names, parent.holds if parent else {})
    fixed = _fixed(parent, aims)
    holds = masks | {name: torch.zeros_like(network.get_parameter(name)) for name in fixed}
    run: Run[Any] = Run(
        task=task,
        spec=spec,
        kind=KINDS[spec.kind],
        objective=objective(spec),
        phases=phases(spec),
        splits=splits,
        targets=aims,
        fixed=fixed,
        masks=holds,
        inherited=frozenset(masks),
        masked=bool(holds),
        parent=parent,
        teacher=teacher,
        engine=Engine(network, set(aims.names), set(holds), spec.optimizer, spec.precision, task.engine),
        checkpoints=Checkpoints(store / task.key, rank, world),
        progress=Progress(),
        log=log,
        stopping=stopping,
        rank=rank,
        world=world,
    )
    _begun(run)
    run.parent, run.masks = None, {}  # of the network's size, and used no more
    return run


def _begun(run: Run[Any]) -> None:
    """Put a run where its newest checkpoint says, or at its beginning."""
    newest = agreed(run.checkpoints.newest() if run.rank == 0 else None)
    if newest is not None:
        run.progress = run.checkpoints.load(newest, run.engine, run.kind.state)
    else:
        engine = run.engine
        for name in engine.held:
            engine.set(name, run.masks.get(name, torch.ones(engine.shape(name))), "hold")
        run.progress.state = run.kind.state()
        run.kind.start(run)
    run.resumed = newest is not None


def _splits(task: Task, device: torch.device) -> dict[str, Reader]:
    spec = task.spec
    found = {
        split: open_split(task.shards, split, task.data_digest, spec.data, spec.seed, device, spec.model.classes)
        for split in SPLITS
    }
    if len(found["train"]) < spec.batch:
        text = f"a batch of {spec.batch} is larger than the {len(found['train'])} training samples"
        raise ValueError(f"{task.name}: {text}")
    return found


def _network(spec: StageSpec, store: Folder, parent: artefact.Artefact | None) -> nn.Module:
    """The network with its parent's weights, or trained ones from elsewhere, or those of its own beginning."""
    torch.manual_seed(spec.seed)
    network = build_model(spec.model)
    if parent is not None:
        network.load_state_dict(parent.network)
    elif spec.model.weights is not None:
        pretrained.load(spec.model, store, network)
    return network


def _loaded(store: Folder, key: str) -> artefact.Artefact:
    """A parent's artefact. Raises Damaged for one whose files were changed; it counts as absent from then on."""
    try:
        return artefact.load(store / key)
    except FileNotFoundError:
        if not (store / key).exists(ASIDE):
            raise
        found = f"{store.url}/{key} was found damaged"  # by another rank, a moment ago
    except Damaged as error:
        set_aside(store / key)
        found = str(error)
    raise Damaged(f"{found}; it counts as absent now, and the same command runs its stage again")


def _with_ranks(aims: Targets, network: nn.Module) -> Targets:
    """The same with the ranks that `energy` gives of the weights that the stage starts from: they hold to its end."""
    asked = {name: one for name, one in aims.sets.items() if isinstance(one, LowRank)}
    found: dict[str, LowRank] = agreed({name: one.of(network.get_parameter(name)) for name, one in asked.items()})
    return replace(aims, sets={**aims.sets, **found})


def _inherited(spec: StageSpec, constrained: list[str], holds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parent's masks that stay in force: all, but for constrained tensors whose weights may come back."""
    if getattr(spec, "regrow", False):
        return {name: mask for name, mask in holds.items() if name not in constrained}
    return dict(holds)


def _fixed(parent: artefact.Artefact | None, aims: Targets) -> dict[str, tuple[str, ...]]:
    """Tensors that are on shared values or of low rank since an earlier stage, with their sets, and stay as they are.

    Not those that this stage constrains: they are held to its own sets.
    """
    there = parent.manifest.get("fixed", {}) if parent else {}
    return {name: tuple(sets) for name, sets in there.items() if name not in aims.kinds}


def _teacher(task: Task, store: Folder, parent: artefact.Artefact | None, device: torch.device) -> Teacher | None:
    """The network that the stage learns from, if it does: its second parent's, or its only one's, `parent`.

    It answers in the stage's precision, and is compiled if the stage's own network is.
    """
    if getattr(task.spec, "distill", None) is None or not task.parents:
        return None
    key = task.parents[-1].key
    of = parent if parent is not None and key == task.parents[0].key else _loaded(store, key)
    network = artefact.network(of).to(device)
    if task.engine.compile:
        network.compile()
    wanted, bf16 = objective(task.spec), task.spec.precision == "bf16"

    @torch.no_grad()
    def teacher(batch: Batch) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return wanted.call(network, batch)

    return teacher
