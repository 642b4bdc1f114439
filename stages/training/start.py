"""A stage's Run, put together on one rank: data, network, teacher, targets, masks, engine, and where it stands."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.checkpoint import Checkpoints, Progress
from dualprune.stages.artefacts.manifest import ASIDE, Damaged, set_aside
from dualprune.stages.coupling.cut import inputs, macs
from dualprune.stages.data.format import planned_manifest
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.data.read.reading import Reader
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import agreed
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.base import Phase
from dualprune.stages.kinds.constrained import targets_of
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.kinds.table import KINDS, phases
from dualprune.stages.networks import pretrained
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.code import unchanged
from dualprune.stages.networks.parameters import parameters, weights
from dualprune.stages.networks.structure import Structure, load
from dualprune.stages.objectives.base import Objective
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.distill import COMPILED
from dualprune.stages.settings.training import StageSpec
from dualprune.stages.solver.targets import Targets, ranked
from dualprune.stages.training.probe import batch_of
from dualprune.stages.training.run import Log, Run, Stopping
from dualprune.stages.training.shaping import Validated, carried, dense_macs, handed, shaped
from dualprune.stages.training.teacher import Teacher

SPLITS = ("train", "val", "test")
_log = logging.getLogger(__name__)


Place = tuple[int, int, torch.device]
"""Rank, world size, and this rank's device."""


def assembled(job: StageJob, store: Folder, log: Log, stopping: Stopping, place: Place) -> Run[Any]:
    """Everything that a stage needs to begin, or to go on from its newest checkpoint.

    Raises SpecError, DataError, Damaged, WeightsError, stages.artefacts.checkpoint.OtherVersion, and Stopped.
    """
    spec, (rank, world, device) = job.spec, place
    splits = _splits(job, device)
    parent = _loaded(store, job.parent.key) if job.parent else None
    structure = artefact.structure(parent) if parent is not None else Structure()
    network = _network(spec, store, parent, structure)
    aim = objective(spec)
    teacher = _teacher(job, aim, store, parent, device)
    checkpoints = Checkpoints(store / job.key, rank, world)
    by = Validated(aim, splits["val"], job.engine.evaluated(spec.batch, world), rank, world, device)
    aims = ranked(targets_of(spec, parameters(network), cache(lambda: by.cut(network))), network.get_parameter)
    edits, shrunk = shaped(job, network, by, parent, checkpoints)
    there = parameters(network)
    parent = parent and carried(parent, edits, there)
    inherited = _inherited(spec, aims.names, parent.holds if parent else {})
    fixed = _fixed(parent, aims)
    masks = inherited | {name: torch.zeros_like(network.get_parameter(name)) for name in fixed}
    planned = phases(spec)
    aims = replace(aims, weigh=next((phase.weigh for phase in planned if phase.weigh is not None), None))
    run: Run[Any] = Run(
        job=job,
        spec=spec,
        kind=KINDS[spec.kind],
        objective=aim,
        phases=planned,
        splits=splits,
        structure=Structure(edits=[*structure.edits, *edits.edits]),
        shrunk=shrunk,
        macs=_macs(job, aim, network) if rank == 0 else None,
        dense_macs=dense_macs(parent, shrunk),
        weights=frozenset(weights(there)),
        targets=aims,
        fixed=fixed,
        masks=masks,
        inherited=frozenset(inherited),
        masked=bool(masks),
        parent=parent,
        duals=parent.duals if parent is not None and shrunk and rank == 0 else {},
        handed=handed(parent) if parent is not None and shrunk else {},
        teacher=teacher,
        engine=_engine(job, network, aims, set(masks), planned),
        checkpoints=checkpoints,
        progress=Progress(),
        log=log,
        stopping=stopping,
        rank=rank,
        world=world,
    )
    try:
        _begun(run)
    except BaseException:
        run.engine.close()
        raise
    run.parent, run.masks = None, {}  # of the network's size, and used no more
    return run


def _engine(job: StageJob, network: nn.Module, aims: Targets, masked: set[str], planned: list[Phase]) -> Engine:
    """The network on this rank's device, with its optimizer."""
    spec = job.spec
    settings = job.engine.model_copy(update={"compile": job.engine.compile and not KINDS[spec.kind].veils})
    averaged = any(phase.ema is not None for phase in planned)
    return Engine(
        network,
        set(aims.names),
        masked,
        spec.optimizer,
        spec.precision,
        settings,
        valued=aims.valued,
        averaged=averaged,
        weighed=aims.weigh,
    )


def _macs(job: StageJob, aim: Objective, network: nn.Module) -> float | None:
    """Multiply-accumulates for one sample; None where they can't be counted on a batch of zeros."""
    batch = batch_of(planned_manifest(job.shards, job.data_digest), job.spec)
    training = network.training
    try:
        with torch.random.fork_rng(devices=[]):
            return macs(network.eval(), *inputs(aim, batch))
    except Exception as error:  # noqa: BLE001 - what networks do with zeros is their own affair; real batches come later
        _log.info("%s: its multiply-accumulates can't be counted: %s", job.name, error)
        return None
    finally:
        network.train(training)


def _begun(run: Run[Any]) -> None:
    """Put a run where its newest checkpoint says, or at its beginning. Raises SpecError for a teacher that is none."""
    if run.teacher is not None:
        run.teacher.teaches(run.engine.module)
    newest = agreed(run.checkpoints.newest() if run.rank == 0 else None)
    if newest is not None:
        run.progress = run.checkpoints.load(newest, run.engine, run.kind.state)
    else:
        engine = run.engine
        for name in sorted(engine.masked):  # in the same order on all ranks
            engine.set(name, run.masks.get(name, torch.ones(engine.shape(name))), "mask")
        if run.teacher is not None:
            run.teacher.check(run.engine.forward, run.splits["val"])
        run.progress.state = run.kind.state()
        run.kind.start(run)
    run.resumed = newest is not None


def _splits(job: StageJob, device: torch.device) -> dict[str, Reader]:
    spec = job.spec
    found = {
        split: open_split(job.shards, split, job.data_digest, spec.data, spec.seed, device, spec.model.classes)
        for split in SPLITS
    }
    if len(found["train"]) < spec.batch:
        text = f"a batch of {spec.batch} is larger than the {len(found['train'])} training samples"
        raise ValueError(f"{job.name}: {text}")
    return found


def _network(spec: StageSpec, store: Folder, parent: artefact.Artefact | None, structure: Structure) -> nn.Module:
    """The network as its parent left it, or with trained weights from elsewhere, or with those of its own beginning."""
    unchanged(spec.model)
    torch.manual_seed(spec.seed)
    network = build_model(spec.model)
    if parent is not None:
        load(network, structure, parent.network)
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


def _inherited(spec: StageSpec, constrained: list[str], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parent's masks that stay in force: all, but for constrained tensors whose weights may come back."""
    if KINDS[spec.kind].regrows(spec):
        return {name: mask for name, mask in masks.items() if name not in constrained}
    return dict(masks)


def _fixed(parent: artefact.Artefact | None, aims: Targets) -> dict[str, tuple[str, ...]]:
    """Tensors that are on shared values or of low rank since an earlier stage, with their sets, and stay as they are.

    Not those that this stage constrains: they are held to its own sets.
    """
    there = parent.manifest.get("fixed", {}) if parent else {}
    return {name: tuple(sets) for name, sets in there.items() if name not in aims.kinds}


def _teacher(
    job: StageJob, aim: Objective, store: Folder, parent: artefact.Artefact | None, device: torch.device
) -> Teacher | None:
    """The network that the stage learns from, if it does: its teacher's, or its `parent`'s.

    It answers in the stage's precision, and is compiled if the stage's own network is. Raises SpecError.
    """
    settings = getattr(job.spec, "distill", None)
    if settings is None or job.parent is None:
        return None
    if settings.inside and job.engine.compile:
        raise SpecError([(("distill",), COMPILED)])
    key = (job.teacher or job.parent).key
    of = parent if parent is not None and key == job.parent.key else _loaded(store, key)
    network = artefact.network(of).to(device)
    found = Teacher(network, settings, aim, job.spec.precision == "bf16")
    if job.engine.compile:
        network.compile()
    return found
