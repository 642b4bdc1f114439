"""What one call of a network costs: multiplications, and the numbers that are moved for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dualprune.stages.export.calls import leaves
from dualprune.stages.export.inputs import Inputs, batched


@dataclass(frozen=True)
class Cost:
    """Of one sample."""

    macs: int
    """Multiplications with additions of matrix products, convolutions and attention, as torch's own counter has them:
    those with zeros too. Recurrent layers are not counted, which torch runs as a whole."""
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
    fast = torch.backends.mha.get_fastpath_enabled()
    # Attention in one piece is no product that torch counts.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(*one)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return Cost(counter.get_total_flops() // 2, activations, layers)
