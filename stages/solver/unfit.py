"""Which tensors can't be pruned by what their layers are given, and why: for plans, and before a stage begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from dualprune.stages.engine import inputs
from dualprune.stages.networks.parameters import Parameter, Parameters


def by_moments(network: nn.Module, names: Iterable[str], parameters: Parameters) -> list[str]:
    """Of those of a network that are named, those that second moments of their inputs [inputs, inputs] are no help for
    (`kind: layerwise`); nothing of layers that it has not."""
    return _unfit(network, names, parameters, _whole)


def by_squares(network: nn.Module, names: Iterable[str], parameters: Parameters) -> list[str]:
    """The same of those that have no mean square of their input for each entry (`weigh: activation`)."""
    return _unfit(network, names, parameters, lambda layer, _: inputs.refusal(layer))


def _whole(layer: nn.Module, weight: Parameter) -> str | None:
    """Why a layer can't be pruned as one matrix that its inputs are multiplied by, or None if it can."""
    if weight.turned:
        return None
    if isinstance(layer, nn.Conv1d | nn.Conv3d):
        return f"type {type(layer).__name__}"
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1:
            return f"a convolution in {layer.groups} groups"
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return f"a convolution with `padding_mode` {layer.padding_mode!r} and `padding` {layer.padding!r}"
    return inputs.refusal(layer)


def _unfit(
    network: nn.Module,
    names: Iterable[str],
    parameters: Parameters,
    refusal: Callable[[nn.Module, Parameter], str | None],
) -> list[str]:
    found = []
    modules = dict(network.named_modules())
    for name in names:
        module = modules.get(name.rpartition(".")[0])
        reason = None if module is None else refusal(module, parameters[name])
        if reason is None and len(parameters[name].names) > 1:
            reason = f"{' and '.join(parameters[name].names)} together"
        if reason is not None:
            found.append(
                f"{name} is of {reason}: only linear layers and convolutions are pruned by their inputs; leave it out"
            )
    return found
