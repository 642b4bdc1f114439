"""The table of kinds. To add one: a file beside this one, and a line here."""

from __future__ import annotations

from typing import Any

from dualprune.stages.kinds import gates, joint, layerwise, partial, prune, quantize, scores, shrink, train, trp
from dualprune.stages.kinds.base import Kind, Phase
from dualprune.stages.settings.training import StageSpec

KINDS: dict[str, Kind[Any]] = {
    "train": train.KIND,
    "prune": prune.KIND,
    "shrink": shrink.KIND,
    "quantize": quantize.KIND,
    "partial": partial.KIND,
    "gates": gates.KIND,
    "joint": joint.KIND,
    "scores": scores.KIND,
    "trp": trp.KIND,
    "layerwise": layerwise.KIND,
}


def parse(settings: Any) -> StageSpec:
    """A stage's settings as its kind has them. Raises ValueError for a kind that is not in the table, and pydantic's
    ValidationError."""
    if isinstance(settings, StageSpec):
        return settings
    kind = settings.get("kind") if isinstance(settings, dict) else None
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    found: StageSpec = KINDS[kind].settings.model_validate(settings)
    return found


def phases(spec: StageSpec) -> list[Phase]:
    """A stage's epochs in order."""
    return [phase for phase in KINDS[spec.kind].phases(spec) if phase.epochs]
