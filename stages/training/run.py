"""A stage at work on one rank: what the loop and the hooks of kinds share. A record; it does nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from torch import Tensor

from dualprune.stages.artefacts.artefact import Artefact
from dualprune.stages.artefacts.checkpoint import Checkpoints, Progress
from dualprune.stages.data.order import steps_per_epoch
from dualprune.stages.data.read.reading import Reader
from dualprune.stages.engine.engine import Engine
from dualprune.stages.kinds.base import Kind, Phase, S
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.networks.structure import Structure
from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.solver.targets import Targets
from dualprune.stages.training.teacher import Teacher

Log = Callable[[dict[str, Any]], None]
Stopping = Callable[[], bool]
"""Whether this rank was told to save and leave. One rank that was is enough."""


@dataclass
class Run(Generic[S]):
    """One stage at work."""

    job: StageJob
    spec: S
    kind: Kind[S]
    objective: Objective
    phases: list[Phase]
    splits: Mapping[str, Reader]
    """`train`, `val` and `test`."""
    structure: Structure
    """What is changed about the network's shape."""
    shrunk: Mapping[str, Any]
    """What this stage took out of its parent's network, of kinds that do."""
    macs: float | None
    """Multiply-accumulates for one sample, on rank 0."""
    dense_macs: float | None
    """The same of the network before anything was taken out of it; None where nothing was, or it is not known."""
    weights: frozenset[str]
    """All tensors that could be constrained."""
    targets: Targets
    """What each constrained tensor is held to."""
    fixed: Mapping[str, tuple[str, ...]]
    """Tensors that are on shared values or of low rank since an earlier stage and stay as they are, with their sets."""
    masks: Mapping[str, Tensor]
    """The parent's that stay in force: until the first step."""
    inherited: frozenset[str]
    """Tensors with such a mask."""
    masked: bool
    """Whether anything is held from the first step on."""
    parent: Artefact | None
    """Until the first step: it is of the network's size."""
    duals: Mapping[str, Tensor]
    """The parent's U, which is handed on: of kinds that make its network smaller, on rank 0."""
    handed: Mapping[str, Any]
    """What the parent's manifest says of that U."""
    teacher: Teacher | None
    engine: Engine
    checkpoints: Checkpoints
    progress: Progress
    log: Log
    stopping: Stopping
    rank: int
    world: int
    batches: list[Batch] = field(default_factory=list)
    """This rank's micro-batches of the last step, of kinds that read them again."""
    held: Any = None
    """What the kind keeps in memory between its hooks beside `state`, of which it makes it again after a restart."""
    resumed: bool = False
    """Whether it goes on from a checkpoint."""

    @property
    def state(self) -> Any:
        """The kind's own progress."""
        return self.progress.state

    @property
    def per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return steps_per_epoch(len(self.splits["train"]), self.spec.batch)

    def told(self) -> dict[str, Any]:
        """What is told of a stage with each of its epochs, and as it begins."""
        of = self.objective.measures
        return {"epochs": sum(phase.epochs for phase in self.phases), "best": of.best, "unit": of.unit}

    @property
    def next_phase(self) -> Phase | None:
        """The phase that progress is at; None after the last."""
        return self.phases[self.progress.phase] if self.progress.phase < len(self.phases) else None
