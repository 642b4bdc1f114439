"""What one call of a network costs: multiplications, and the numbers that are moved for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from dualprune.stages.export.calls import leaves
from dualprune.stages.export.inputs import Inputs, batched
from dualprune.stages.networks.counting import counted


@dataclass(frozen=True)
class Cost:
    """Of one sample."""

    macs: int
    """As `stages.networks.counting` has them."""
    activations: int
    """Numbers that layers give."""
    layers: int
    """Calls of layers without layers in them."""


def cost(network: nn.Module, inputs: Inputs) -> Cost:
    """What a call with one sample costs. The network is run once, where it is."""
    layers = activations = 0

    def called(_: nn.Module, __: Any, outputs: Any) -> None:
        nonlocal layers, activations
        layers += 1
        activations += sum(tensor.numel() for _, tensor in leaves(outputs))

    one = batched(inputs, 1)
    hooks = [layer.register_forward_hook(called) for layer in network.modules() if not list(layer.children())]
    try:
        with counted() as found:
            network(*one)
    finally:
        for hook in hooks:
            hook.remove()
    return Cost(found.macs, activations, layers)
