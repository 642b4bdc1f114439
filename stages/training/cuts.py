"""What can be cut of a stage's network, found before anything is trained, as it is built: for plans."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from dualprune.stages.coupling.cut import Cut, cut, inputs
from dualprune.stages.kinds.base import any_network
from dualprune.stages.kinds.shrink import ShrinkSpec
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.networks.build import build_model
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.training import Model, StageSpec
from dualprune.stages.solver import shrinking
from dualprune.stages.training.probe import batch_of

_found: dict[str, Cut] = {}
"""By network, objective and shapes of a batch: plans ask for the same one many times."""


def cuts(spec: StageSpec, manifest: Mapping[str, Any]) -> Callable[[], Cut] | None:
    """What finds out what can be cut of a stage's network, for a stage that cuts; None for others."""
    kind = KINDS[spec.kind]
    coupled = any(getattr(one, "coupled", False) for one in kind.constraints(spec))
    return partial(_cut, spec, manifest) if coupled or kind.shrinks is not None else None


def fits(spec: StageSpec, manifest: Mapping[str, Any]) -> None:
    """Raise SpecError for a network that is not one for a stage of its kind, whatever its weights."""
    kind = KINDS[spec.kind]
    if kind.fits is not any_network:  # building one takes time
        kind.fits(spec, build_model(_plain(spec.model)).eval(), inputs(objective(spec), batch_of(manifest, spec)))


def least(spec: ShrinkSpec, manifest: Mapping[str, Any], cost: Literal["macs", "weights"]) -> float:
    """The least share of what a stage's network costs that it leaves, whatever the weights are. Raises SpecError."""
    given = inputs(objective(spec), batch_of(manifest, spec))
    remove = 0 if spec.blocks is None else spec.blocks.remove
    network = build_model(_plain(spec.model)).eval()
    return shrinking.least(network, given, spec.constraints, remove, spec.resolution, cost)


def _plain(model: Model) -> Model:
    """A network with weights of its own beginning."""
    return model.model_copy(update={"weights": None, "sha256": None})


def _cut(spec: StageSpec, manifest: Mapping[str, Any]) -> Cut:
    """Raises stages.coupling.trace.Untraceable."""
    batch = batch_of(manifest, spec)
    shapes = {name: [str(values.dtype), *values.shape] for name, values in batch.items()}
    model = _plain(spec.model)
    key = json.dumps([model.model_dump(mode="json"), spec.objective.model_dump(mode="json"), shapes])
    if key not in _found:
        _found[key] = cut(build_model(model).eval(), *inputs(objective(spec), batch))
    return _found[key]
