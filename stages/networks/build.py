"""A network from its settings: built, without memory for its weights too, and what it is called with to be tried."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor, nn

from dualprune.stages.networks.parameters import Parameters, parameters
from dualprune.stages.networks.weightsfile import some
from dualprune.stages.networks.zoo import maker
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import Model

SMALL = 0.01
"""What floating-point numbers of a network that is tried are: finite on the way, and no variance is zero."""

UNSAVED = (torch.complex128, torch.complex32)
"""Types that safetensors does not have."""


def build_model(settings: Model, device: str = "cpu") -> nn.Module:
    """The network that the settings name. Raises SpecError for one that there is not, that can't be built, or whose
    parameters can't be trained."""
    make = maker(settings)
    try:
        network = _made(make, device)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]  # torch adds where in its sources it was raised
        text = f"{settings.name} can't be built: {type(error).__name__}: {reason}"
        raise SpecError([(("model",), text)]) from error
    wrong = [name for name, one in network.named_parameters() if one.is_complex() and one.requires_grad]
    if wrong:
        text = f"{settings.name} has complex parameters, which are not trained: {some(wrong)}; keep each as a real one "
        text += "of a last axis of 2, and take torch.view_as_complex of it in forward"
        raise SpecError([(("model",), text)])
    wide = [name for name, one in network.state_dict().items() if isinstance(one, Tensor) and one.dtype in UNSAVED]
    if wide:
        text = (
            f"{settings.name} has complex numbers of a type that can't be saved: {some(wide)}; keep them as complex64"
        )
        raise SpecError([(("model",), f"{text}, or register them with persistent=False and compute them anew")])
    return network


def _made(make: Callable[[], nn.Module], device: str) -> nn.Module:
    """A network on a device. One that computes with tensors as it is built can't be built on `meta`, and is moved."""
    try:
        with torch.device(device):
            return make()
    except Exception:
        if device != "meta":
            raise
        return make().to(device)


def sketch(settings: Model) -> nn.Module:
    """A network without memory for its weights, on the device `meta`: built once, whatever it starts from.

    All who ask have the same one: it is looked at, and not changed or called. Raises SpecError.
    """
    return _built(settings.model_copy(update={"weights": None, "sha256": None}))


@cache
def _built(settings: Model) -> nn.Module:
    return build_model(settings, device="meta")


def own_sketch(settings: Model) -> nn.Module:
    """A sketch of one's own, which may be changed and called. Raises SpecError."""
    try:
        return deepcopy(sketch(settings))
    except SpecError:
        raise
    except Exception:  # noqa: BLE001 - some networks can't be copied, such as those with torch's weight_norm
        return build_model(settings, device="meta")


@cache
def parameters_of(settings: Model) -> Parameters:
    """What a network's parameters are, found without memory for them. Raises SpecError."""
    return parameters(sketch(settings))


def filled(network: nn.Module) -> dict[str, Tensor]:
    """Tensors to call a network with in place of its own, on the current device: integers, which may be indices, and
    truths are zero, all others SMALL.

    `network.to_empty` makes such from the device `meta` too, but imports SymPy for it: a third of a second.
    """
    own = (*network.named_parameters(), *network.named_buffers())
    return {
        name: torch.full(
            tensor.shape,
            SMALL if tensor.is_floating_point() or tensor.is_complex() else 0,
            dtype=tensor.dtype,
        )
        for name, tensor in own
    }
