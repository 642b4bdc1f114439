"""A parent's network made smaller at the beginning of a stage, the same on all ranks and after each restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from dualprune.stages.artefacts.artefact import Artefact
from dualprune.stages.coupling.cut import Cut, cut, inputs
from dualprune.stages.coupling.trace import Untraceable
from dualprune.stages.data.read.reading import Reader
from dualprune.stages.engine.ranks import agreed
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.base import Kind
from dualprune.stages.networks.structure import Structure, load, untied
from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import StageSpec
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

    def score(self, network: nn.Module, samples: int) -> float:
        """The best metric on so many samples; more is better. On all ranks together."""
        network = network.to(self.device).eval()
        score = evaluate(network, self.objective, self.split, self.rank, self.world, self.size, samples)
        metric = self.objective.metrics[self.objective.best]
        value = score.values[self.objective.best]
        return value if metric.higher else -value

    def cut(self, network: nn.Module) -> Cut:
        """What can be cut of a network. Raises SpecError for one that can't be followed."""
        try:
            return cut(network, *inputs(self.objective, self.batch()))
        except Untraceable as error:
            raise SpecError([(("model",), f"what goes together in it can't be found: {error}")]) from error


def shaped(
    kind: Kind[Any], spec: StageSpec, parent: Artefact, network: nn.Module, by: Validated, folder: Folder
) -> tuple[Structure, dict[str, Any]]:
    """Make a parent's network smaller as a kind that shrinks says, in place; its edits, and what they come to.

    They are kept in the folder of the stage's checkpoints, so that an attempt goes on with what was decided.
    """
    assert kind.shrinks is not None
    lowrank = [name for name, sets in parent.manifest.get("fixed", {}).items() if "lowrank" in sets]
    kept = agreed(_read(folder) if by.rank == 0 else None)
    if kept is None:
        found = kind.shrinks(spec, Before(network, inputs(by.objective, by.batch()), by.score, lowrank))
        structure = Structure(edits=list(found.edits))
        kept = agreed({"structure": structure.model_dump(mode="json"), "facts": found.facts})
        if by.rank == 0:
            folder.write_json(SHAPE, kept)
    structure = Structure.model_validate(kept["structure"])
    load(network, structure, structure.carry(untied(network)))
    return structure, kept["facts"]


def carried(parent: Artefact, edits: Structure) -> Artefact:
    """What a parent leaves, for its network after edits: masks, duals, and what is fixed of it."""
    two = {f"{edit.module}.weight" for edit in edits.edits if edit.edit == "factorise"}
    holds, duals = (
        edits.carry({name: tensor for name, tensor in tensors.items() if name not in two})
        for tensors in (parent.holds, parent.duals)
    )
    left = edits.carry(parent.network)
    fixed = {name: sets for name, sets in parent.manifest.get("fixed", {}).items() if name in left}
    return replace(parent, manifest={**parent.manifest, "fixed": fixed}, network=left, holds=holds, duals=duals)


def _read(folder: Folder) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = folder.read_json(SHAPE)
    except FileNotFoundError:
        return None
    return found
