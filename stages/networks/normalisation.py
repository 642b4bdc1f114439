"""Layers of batch normalisation: those that keep statistics of what they were trained on."""

from __future__ import annotations

from torch import nn

Norm = nn.modules.batchnorm._BatchNorm


def norms(network: nn.Module) -> list[Norm]:
    """Those whose statistics evaluation goes by."""
    return [one for one in network.modules() if isinstance(one, Norm) and one.running_mean is not None]
