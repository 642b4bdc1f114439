"""A pruned network made physically smaller, and how a user's own network is called where it has to be followed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from dualprune.stages.coupling.cut import Cut, cut
from dualprune.stages.library.wrappers import plain
from dualprune.stages.networks.structure import Structure
from dualprune.stages.settings.base import SpecError
from dualprune.stages.solver.shrinking import Before, Inputs, smaller


def shrink(model: nn.Module, inputs: Any, *, multiple: int = 1) -> tuple[nn.Module, Structure]:
    """A copy of a network without the channels and heads that are zero, and the edits that make one of it.

    Taken out is what is zero in all weights that make it, or in all that read it. That changes nothing after a prune
    with `coupled=True`. `inputs` is what the network is called with: a tensor, a tuple of arguments, or a mapping of
    named ones, of real shapes. With `multiple`, some units that are zero stay, up to a multiple.

    `structure.apply(network)` makes the same of another such network, whose weights may be those of the copy then;
    `structure.model_dump_json()` and `Structure.model_validate_json(text)` keep it. Raises SpecError (a ValueError)
    for a network that can't be followed, and where nothing is zero.
    """
    model = plain(model)
    _check_whole(model)
    on_cpu = copy.deepcopy(model).cpu().eval()
    args, kwargs = given(inputs)
    before = Before(on_cpu, (args, kwargs), lambda network: cut(network, args, kwargs), _no_loss)
    found = smaller(before, (), multiple, 0, 1, None)
    structure = Structure(edits=list(found.edits))
    return structure.apply(copy.deepcopy(model)), structure


def cut_of(model: nn.Module, inputs: Any) -> Cut:
    """What goes together in a network. Raises SpecError without inputs, and for one that can't be followed."""
    if inputs is None:
        text = "`coupled` sets need `inputs`, what the model is called with: a tensor, a tuple or a mapping of them"
        raise SpecError([(("constraints",), text)])
    _check_whole(model)
    return cut(model, *given(inputs))


def given(inputs: Any) -> Inputs:
    """Arguments and named arguments of a call, on the CPU."""
    here = pytree.tree_map(lambda one: one.detach().cpu() if isinstance(one, Tensor) else one, inputs)
    if isinstance(here, Mapping):
        return (), dict(here)
    return tuple(here) if isinstance(here, tuple | list) else (here,), {}


def _check_whole(model: nn.Module) -> None:
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        text = "its tensors are sharded, and what goes together in it is found of whole ones alone"
        raise SpecError([(("model",), text)])


def _no_loss(network: nn.Module, samples: int) -> float:
    """Of a network of which no block is taken out."""
    return float(torch.nan)
