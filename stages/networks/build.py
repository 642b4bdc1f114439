"""A network from its settings: built, without memory for its weights too, and given a picture to see what it takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dualprune.stages.networks.parameters import Parameters, parameters
from dualprune.stages.networks.zoo import maker
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import Model

FEW = 50_000_000
"""Weights up to which a network is really run to see what it takes."""


def build_model(settings: Model, device: str = "cpu") -> nn.Module:
    """The network that the settings name. Raises SpecError for one that there is not, or that can't be built."""
    make = maker(settings)
    try:
        return _made(make, device)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]  # torch adds where in its sources it was raised
        text = f"{settings.name} can't be built: {type(error).__name__}: {reason}"
        raise SpecError([(("model",), text)]) from error


def _made(make: Callable[[], nn.Module], device: str) -> nn.Module:
    """A network on a device. One that computes with tensors as it is built can't be built on `meta`, and is moved."""
    try:
        with torch.device(device):
            return make()
    except Exception:
        if device != "meta":
            raise
        return make().to(device)


@cache
def parameters_of(settings: Model) -> Parameters:
    """What a network's parameters are, found without memory for them. Raises SpecError."""
    return parameters(build_model(settings, device="meta"))


@cache
def check_pictures(settings: Model, shape: tuple[int, ...], labels: int | None) -> None:
    """Raise SpecError for a network that can't take pictures of a shape [channels, height, width], or all labels.

    It is given one: with whatever is in the memory that its weights get, if these are few, and zeros as its integers,
    which may be indices. One of more weights is given one on the device `meta`, where nothing is allocated or computed
    (and whose imports take two seconds); that can't follow a network whose shapes depend on values, which is let pass.
    """
    network = build_model(settings, device="meta").eval()
    device = "cpu" if sum(p.numel() for p in network.parameters()) <= FEW else "meta"
    pictures = f"pictures of {' x '.join(map(str, shape))} (channels, height, width)"
    try:
        with torch.no_grad(), torch.device(device):
            functional_call(network, empty(network), (torch.zeros(1, *shape),))
    except Exception as error:
        if device == "meta" and isinstance(error, NotImplementedError):
            return
        text = f"{settings.name} can't take {pictures}: {type(error).__name__}: {error}"
        raise SpecError([(("model",), text)]) from error
    if labels is not None and labels > settings.classes:
        text = f"the data has {labels} classes, and {settings.name} {settings.classes}; set model.classes to {labels}"
        raise SpecError([(("model",), text)])


def empty(network: nn.Module) -> dict[str, Tensor]:
    """Tensors to call a network with in place of its own, on the current device: integers, which may be
    indices, are zero, others whatever is in their memory.

    `network.to_empty` does the same from the device `meta`, but imports SymPy for it: a third of a second.
    """
    own = (*network.named_parameters(), *network.named_buffers())
    return {
        name: (torch.empty if tensor.is_floating_point() else torch.zeros)(tensor.shape, dtype=tensor.dtype)
        for name, tensor in own
    }
