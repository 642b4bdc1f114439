"""Which tensors a stage constrains, and to what: patterns meet a network's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Size, nn

from stages.constraints import Constraint, build
from stages.models import MODELS
from stages.spec import Model, PruneSpec, SpecError, StageSpec


def build_model(settings: Model, device: str = "cpu") -> nn.Module:
    """The network that the settings name. Raises SpecError for a name that is not in the table."""
    if settings.name not in MODELS:
        known = ", ".join(sorted(MODELS))
        raise SpecError([(("model", "name"), f"there is no model {settings.name!r}; there are {known}")])
    with torch.device(device):
        return MODELS[settings.name](settings.classes)


def weights(shapes: Mapping[str, Size]) -> dict[str, Size]:
    """What can be constrained: tensors of two or more dimensions. Biases and normalisation never are."""
    return {name: shape for name, shape in shapes.items() if len(shape) > 1}


def constraints(spec: StageSpec, shapes: Mapping[str, Size]) -> dict[str, Constraint]:
    """The set that each constrained tensor is held to, by parameter name. Raises SpecError with all that is wrong."""
    if not isinstance(spec, PruneSpec):
        return {}
    able = weights(shapes)
    sets: dict[str, Constraint] = {}
    claimed: dict[str, int] = {}
    problems: list[tuple[tuple[str | int, ...], str]] = []
    for number, settings in enumerate(spec.constraints):
        at = ("constraints", number)
        matching = [name for name in able if fnmatchcase(name, settings.tensors)]
        if not matching:
            others = [name for name in shapes if fnmatchcase(name, settings.tensors)]
            hint = f"matches only biases or normalisation ({', '.join(others)})" if others else "matches no tensor"
            text = f"{settings.tensors!r} {hint} of {spec.model.name}; its weights are {', '.join(able)}"
            problems.append(((*at, "tensors"), text))
        for name in matching:
            if name in claimed:
                text = f"{name} is constrained by constraints[{claimed[name]}] already; let patterns not overlap"
                problems.append(((*at, "tensors"), text))
                continue
            claimed[name] = number
            try:
                sets[name] = build(settings, able[name].numel())
            except ValueError as error:
                problems.append((at, f"{name} of shape {tuple(able[name])}: {error}"))
    if problems:
        raise SpecError(problems)
    return sets


def check(spec: StageSpec) -> dict[str, int]:
    """Everything that can be said of a stage's settings without data. Returns k per constrained tensor.

    Raises SpecError. The network is built without memory for its weights.
    """
    model = build_model(spec.model, device="meta")
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return {name: constraint.k for name, constraint in constraints(spec, shapes).items()}  # type: ignore[attr-defined]
