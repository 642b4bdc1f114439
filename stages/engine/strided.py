"""Convolutions whose gradient oneDNN spoils.

The gradient of a 1 x 1 convolution's weights with a stride, of fewer input channels than oneDNN's block (16 under
AVX-512), is computed past the end of its workspace where pictures lie in channels_last order: crashes, or wrong numbers
(oneDNN issue 6035, in torch 2.14). Reparametrised stems are such (MobileOne, FastViT, RepVGG), and what a shrink stage
leaves of a ResNet's shortcut may be.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 16
"""Channels that oneDNN takes at once, at most."""


def avoid(network: nn.Module) -> None:
    """Give such convolutions of a network their input in torch's plain order, in which nothing is spoilt."""
    for module in network.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        strided = max(module.kernel_size) == 1 and max(module.stride) > 1
        if strided and module.in_channels // module.groups < BLOCK:
            module.register_forward_pre_hook(_plain)


def _plain(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    # Of one channel `contiguous` would leave the strides as they are.
    return tuple(one.clone(memory_format=torch.contiguous_format) for one in inputs)
