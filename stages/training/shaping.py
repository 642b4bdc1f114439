"""A parent's network made smaller at the beginning of a stage, the same on all ranks and after each restart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from dualprune.stages.artefacts.artefact import Artefact
from dualprune.stages.artefacts.checkpoint import Checkpoints
from dualprune.stages.coupling.cut import Cut, by, inputs, look
from dualprune.stages.coupling.proof import Proved
from dualprune.stages.coupling.trace import Untraceable
from dualprune.stages.data.read.reading import Reader
from dualprune.stages.engine.ranks import agreed
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.networks.structure import Structure, load, untied
from dualprune.stages.objectives.base import Batch, Metric, Objective
from dualprune.stages.solver.shrinking import Before
from dualprune.stages.training.evaluate import evaluate

SHAPE = "shape.json"
"""What was decided of a network's shape, beside a stage's checkpoints."""
SAMPLES = 2
"""Of validation that a network is followed with."""


@dataclass(frozen=True)
class Validated:
    """What a network's shape is decided by: an objective, validation, and this process's place."""

    objective: Objective
    split: Reader
    size: int
    """Samples that are measured together on each rank."""
    rank: int
    world: int
    device: torch.device

    def batch(self) -> Batch:
        """A few samples, in the host's memory."""
        (found,) = self.split.evaluation([np.arange(min(SAMPLES, len(self.split)))])
        return {name: values.cpu() for name, values in found.items()}

    def loss(self, network: nn.Module, samples: int) -> float:
        """The mean loss over so many samples of validation. On all ranks together."""
        network = network.to(self.device).eval()
        mean = Metric(self.objective.loss, lambda total, good: total / good, higher=False, unit="")
        aim = replace(self.objective, metrics={"loss": mean}, best="loss")
        return evaluate(network, aim, self.split, self.rank, self.world, self.size, samples).values["loss"]

    def cut(self, network: nn.Module) -> Cut:
        """What can be cut of a network: rank 0 finds it out. On all ranks together.

        Raises stages.coupling.trace.Untraceable.
        """
        args, kwargs = inputs(self.objective, self.batch())
        found: Proved | Untraceable = agreed(self._found(network, args, kwargs) if self.rank == 0 else None)
        if isinstance(found, Untraceable):
            raise found
        return by(network, args, kwargs, found)

    def _found(self, network: nn.Module, args: Any, kwargs: Any) -> Proved | Untraceable:
        try:
            return look(network, args, kwargs)
        except Untraceable as error:
            return error


def shaped(
    job: StageJob, network: nn.Module, of: Validated, parent: Artefact | None, checkpoints: Checkpoints
) -> tuple[Structure, dict[str, Any]]:
    """Make a parent's network smaller as a kind that shrinks says, in place; its edits, and what they come to. Of other
    kinds there are none.

    They are kept beside the stage's checkpoints, so that an attempt goes on with what was decided. Before the first
    checkpoint that counts only for this very `parent`.
    """
    shrinks, folder = KINDS[job.spec.kind].shrinks, checkpoints.folder
    if shrinks is None or parent is None:
        return Structure(), {}
    sha256 = parent.manifest["sha256"]
    lowrank = [name for name, sets in parent.manifest.get("fixed", {}).items() if "lowrank" in sets]
    kept = agreed(_kept(checkpoints, sha256) if of.rank == 0 else None)
    if kept is None:
        found = shrinks(job.spec, Before(network, inputs(of.objective, of.batch()), of.cut, of.loss, lowrank))
        structure = Structure(edits=list(found.edits))
        shape = {"parent": sha256, "structure": structure.model_dump(mode="json"), "facts": found.facts}
        kept = agreed(shape)
        if of.rank == 0:
            folder.write_json(SHAPE, kept)
    structure = Structure.model_validate(kept["structure"])
    load(network, structure, structure.carry(untied(network)))
    return structure, kept["facts"]


def carried(parent: Artefact, edits: Structure, names: Collection[str]) -> Artefact:
    """What a parent leaves beside its weights, for a network after edits that has parameters of these names: masks,
    duals, and what is fixed of it."""
    fixed = {name: sets for name, sets in parent.manifest.get("fixed", {}).items() if name in names}
    manifest = {**parent.manifest, "fixed": fixed}
    return replace(parent, manifest=manifest, holds=edits.beside(parent.holds), duals=edits.beside(parent.duals))


def handed(parent: Artefact) -> dict[str, Any]:
    """What a manifest says of a parent's U that is handed on: its rho, and the kind of stage that left it."""
    manifest = parent.manifest
    return {"rho": manifest["rho"], "solved": manifest.get("solved", manifest["spec"]["kind"])}


def dense_macs(parent: Artefact | None, shrunk: Mapping[str, Any]) -> float | None:
    """Multiply-accumulates for one sample before anything was taken out of a network, if its stages know of that.

    `shrunk` is what a stage took out of it.
    """
    before = {} if parent is None else parent.manifest["metrics"]
    if shrunk and before.get("dense_macs") is None:
        found: float | None = before.get("macs")
        return found
    return before.get("dense_macs")


def _kept(checkpoints: Checkpoints, parent: str) -> Mapping[str, Any] | None:
    """What an earlier attempt decided, if that still counts."""
    try:
        found: Mapping[str, Any] = checkpoints.folder.read_json(SHAPE)
    except FileNotFoundError:
        return None
    return found if found.get("parent") == parent or checkpoints.newest() is not None else None
