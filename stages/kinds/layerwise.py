"""`kind: layerwise`: layers pruned one after the other on a few samples, without training (ALPS: Meng et al. 2024).

Each layer's weights are those in its set that give the most similar outputs for what it is given, found by ADMM
(`stages.solver.layerwise`). What language models and transformers are usually pruned by, or the start of a prune.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from dualprune.stages.kinds.base import Kind, Phase, State, Stopped, plain
from dualprune.stages.settings.base import Problem
from dualprune.stages.settings.distill import Distill
from dualprune.stages.settings.sets import Cardinality, Grouped, LowRank, Support
from dualprune.stages.settings.training import StageSpec, Training

if TYPE_CHECKING:
    from dualprune.stages.networks.parameters import Parameters
    from dualprune.stages.solver.targets import Targets
    from dualprune.stages.training.run import Run


class LayerwiseSpec(StageSpec):
    """One shot, layer by layer: the nearest outputs for what calibration samples give each layer (Meng et al. 2024)."""

    kind: Literal["layerwise"]
    """The name of the kind."""
    constraints: list[Support] = Field(min_length=1)
    """What stays of which linear layers and convolutions."""
    samples: int = Field(default=128, ge=1)
    """Of training that layers' inputs are taken from, at most."""
    iterations: int = Field(default=300, ge=1)
    """Of ADMM for a layer, at most; it ends when its support stays."""
    damping: float = Field(default=0.03, gt=0)
    """Of each input's mean square so much is added to that, as if by noise: with few samples, more of it is better."""
    retrain: Training | None = None
    """After it: what was pruned stays zero."""
    distill: Distill | None = None
    """Learning from another stage's outputs too."""

    @model_validator(mode="after")
    def _of_training(self) -> LayerwiseSpec:
        if self.distill is not None and self.retrain is None:
            raise ValueError("`distill` is of training, and `retrain` is not given")
        return self


@dataclass
class _State(State):
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each weight how far its layer's outputs are from what they were, and how many iterations that took."""


def _phases(spec: LayerwiseSpec) -> list[Phase]:
    return [] if spec.retrain is None else [plain("retrain", spec.retrain)]


def _check(spec: LayerwiseSpec, targets: Targets, parameters: Parameters) -> list[Problem]:
    """Each set has to be of one layer alone, and each layer one that can be pruned by its inputs."""
    from dualprune.stages.networks.build import sketch
    from dualprune.stages.solver.unfit import by_moments

    problems: list[Problem] = []
    for number, one in enumerate(spec.constraints):
        for setting, said in (
            ("scope", isinstance(one, Cardinality) and one.scope == "global"),
            ("coupled", isinstance(one, Grouped) and one.coupled),
            ("view", isinstance(one, LowRank) and one.view != "channel"),
        ):
            if said:
                text = f"`{setting}: {getattr(one, setting)}` can't be had layer by layer; leave `{setting}` out"
                problems.append((("constraints", number, setting), text.replace("True", "true")))
    problems += [(("constraints",), text) for text in by_moments(sketch(spec.model), targets.names, parameters)]
    return problems


def _start(run: Run[LayerwiseSpec]) -> None:
    from dualprune.stages.engine.ranks import on_any
    from dualprune.stages.solver import layerwise
    from dualprune.stages.solver.calibration import Calibration
    from dualprune.stages.solver.solved import Notes

    spec, split = run.spec, run.splits["train"]
    calibration = Calibration(
        run.engine.forward,
        run.objective,
        split,
        split.order(0)[: spec.samples],
        run.rank,
        run.world,
        run.job.engine.compile,
    )
    run.engine.module.eval()
    layers = layerwise.layers(run.engine.module, run.targets)
    assert run.parent is not None
    notes = Notes(run.checkpoints.folder / "layers", run.parent.manifest["sha256"], run.rank)
    turned = {name for name in layers if run.targets.parameters[name].turned}
    found = layerwise.prune(
        run.engine, layers, run.targets.sets, turned, calibration, notes, spec.iterations, spec.damping
    )
    for name, one in found:
        run.state.layers[name] = {"error": one.error, "iterations": one.iterations}
        if on_any(run.stopping()):
            raise Stopped


def _enter(run: Run[LayerwiseSpec], phase: Phase) -> None:
    run.engine.optimizer.masking = True


def _facts(run: Run[LayerwiseSpec]) -> dict[str, Any]:
    return {"layers": run.state.layers}


KIND = Kind(
    settings=LayerwiseSpec,
    version=1,
    phases=_phases,
    state=_State,
    varies=("constraints", "samples", "iterations", "damping", "retrain", "distill"),
    needs_parent=True,
    constraints=lambda spec: spec.constraints,
    prunes=True,
    check=_check,
    start=_start,
    enter=_enter,
    facts=_facts,
)
