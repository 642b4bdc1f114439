"""Whether a batch passes: a stage's network and objective tried on one, before anything is trained or read.

The batch has the fields of the data, of the shapes and types that its manifest says: numbers are zero, and labels the
largest there is. Networks of few weights are run, with small numbers as these; larger ones on the device `meta` (whose
imports take two seconds), where nothing is computed, and what depends on values is let pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from dualprune.stages.data.fields import MASK
from dualprune.stages.data.format import has_fields, labels, pictures
from dualprune.stages.files import source
from dualprune.stages.networks.build import filled, own_sketch, sketch
from dualprune.stages.objectives.base import Batch, Objective, sums
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import Model, StageSpec

SAMPLES = 2
"""Of the batch: normalisation over a batch needs more than one."""
FEW = 50_000_000
"""Weights up to which a network is really run."""
LABEL = "label"
"""The field whose values a manifest counts as classes; of others there is no telling."""
LONGEST = 512
"""Values of a padded field, at most."""


def probe(spec: StageSpec, manifest: Mapping[str, Any]) -> None:
    """Raise SpecError for a network that can't take the data, or an objective that can't take its outputs.

    An error of a user's own code is the cause of it.
    """
    _classes(spec, labels(manifest))
    batch = batch_of(manifest, spec)
    try:
        _passed(spec.model, objective(spec), batch, attends(spec))
    except SpecError:
        raise
    except Exception as error:
        if not (_device(spec.model) == "meta" and _of_values(error)):
            raise _refused(spec, batch, pictures(manifest, spec.data), error) from error


def attends(spec: StageSpec) -> bool:
    """Whether a stage compares attention's maps, which its network has to have then."""
    distill = getattr(spec, "distill", None)
    return distill is not None and distill.maps is not None


def _classes(spec: StageSpec, there: int | None) -> None:
    """Raise SpecError for a network that has an output for each of `classes`, where the data has more of them."""
    has, target = spec.model.classes, spec.objective.args.get("target", LABEL)
    if spec.objective.name != "classify" or spec.model.own is not None or target != LABEL:
        return
    if there is not None and there > has:
        text = f"the data has {there} classes, and {spec.model.name} {has}; set model.classes to {there}"
        raise SpecError([(("model",), text)])


def _of_values(error: Exception) -> bool:
    """Whether it is torch's, of a value that was asked for on the device `meta`."""
    return isinstance(error, NotImplementedError) or "meta tensor" in str(error)


def _refused(spec: StageSpec, batch: Batch, shown: Collection[str], error: Exception) -> SpecError:
    """What is said of a batch that does not pass; fields that are `shown` are pictures."""
    given = [
        f"{name} {str(one.dtype).removeprefix('torch.')} {list(one.shape)}"
        + (" (samples, channels, height, width)" if name in shown else "")
        for name, one in batch.items()
    ]
    reason = str(error).strip().partition("\n")[0]
    where = source.line_of(error)
    text = f"{spec.model.name} with {spec.objective.name} fails on a batch of {', '.join(given)}: "
    text += f"{type(error).__name__}: {reason}" + (f" (at {where})" if where else "")
    return SpecError([(("model",), text)])


def _passed(model: Model, wanted: Objective, batch: Batch, maps: bool) -> None:
    """Run the network on a batch, and compute all that the objective adds up. Raises what they raise, and SpecError
    where attention's `maps` are wanted and there are none."""
    from dualprune.stages.training.teacher import MAPS, NO_MAPS, Attending

    shown: list[Tensor] = []
    device = _device(model)
    network = own_sketch(model).eval()
    with torch.no_grad(), torch.device(device):
        tensors = filled(network)
        here = {name: one.to(device) for name, one in batch.items()}

        def call(*given: Any, **named: Any) -> Any:
            return functional_call(network, tensors, given, named)

        with Attending(shown.append) if maps else nullcontext():
            outputs = wanted.call(call, here)
        if maps and not shown:
            raise SpecError([(("distill", MAPS), f"{model.name} {NO_MAPS}")])
        for one in sums(wanted, outputs, here):
            found = one.value
            if not isinstance(found, Tensor):
                raise TypeError(f"the objective's {one.name} is a {type(found).__name__}, and a tensor is needed")
            if one.function is wanted.loss and found.numel() != 1:
                text = f"the objective's loss is of shape {list(found.shape)}: the sum over samples is needed"
                raise ValueError(text)


def _device(model: Model) -> str:
    return "cpu" if sum(parameter.numel() for parameter in sketch(model).parameters()) <= FEW else "meta"


def batch_of(manifest: Mapping[str, Any], spec: StageSpec) -> dict[str, Tensor]:
    """A batch as readers give it, of zeros; labels are the largest that the data has."""
    most = (labels(manifest) or 1) - 1
    found = {name: torch.zeros(SAMPLES, *shape) for name, shape in pictures(manifest, spec.data).items()}
    if not has_fields(manifest):
        return found | {LABEL: torch.full((SAMPLES,), most)}
    for name, entry in manifest["splits"]["train"]["fields"].items():
        if name in found:
            continue
        dtype = torch.float32 if entry["dtype"].startswith("float") else torch.int64
        length = [min(entry["longest"], LONGEST)] if "longest" in entry else []
        value = most if name == LABEL and entry["kind"] == "cls" else 0
        found[name] = torch.full((SAMPLES, *length, *entry["shape"]), value, dtype=dtype)
        if length:
            found[f"{name}{MASK}"] = torch.ones(SAMPLES, *length, dtype=torch.bool)
    return found
