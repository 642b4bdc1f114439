"""Linear layers with two of every four weights at zero, by sparse tensor cores: in half precision, on a GPU."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from dualprune.stages.export.inputs import Inputs

ROWS, COLUMNS = 32, 64
"""Of what a weight's sides have to be multiples: what the stricter of torch's two libraries of kernels asks for."""


def is_two_four(weight: Tensor) -> bool:
    """Whether a weight, [out, in], has at most two of every four consecutive inputs, and sides that kernels take."""
    if weight.ndim != 2 or weight.shape[0] % ROWS or weight.shape[1] % COLUMNS:
        return False
    return bool(((weight.detach().unflatten(1, (-1, 4)) != 0).sum(2) <= 2).all())


def two_four(network: nn.Module) -> tuple[str, ...]:
    """The names of its linear layers that sparse tensor cores could compute."""
    found = (name for name, layer in network.named_modules() if type(layer) is nn.Linear and is_two_four(layer.weight))
    return tuple(found)


def in_halves(network: nn.Module, device: torch.device) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of a network in half precision on a GPU, and its layers that are computed by sparse kernels there.

    Their weights are torch's semi-structured sparse tensors (Mishra et al. 2021): values and two bits for each place.
    """
    chosen = two_four(network)
    found = copy.deepcopy(network).to(device, torch.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such tensors are a prototype
        for name in chosen:
            layer = found.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            weight = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
            layer.weight = nn.Parameter(weight, requires_grad=False)
    return found, chosen


def halved(inputs: Inputs) -> Inputs:
    """Inputs whose floating-point numbers are in half precision."""
    return tuple(one.half() if one.is_floating_point() else one for one in inputs)
