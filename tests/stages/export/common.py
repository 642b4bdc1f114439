"""Small networks to be timed: linear layers with zeros in several places."""

from __future__ import annotations

import torch
from torch import nn

from dualprune.stages.export.inputs import noise
from dualprune.stages.export.speed import Subject
from dualprune.stages.export.subjects import seeded


def zeroed(network: nn.Module, share: float) -> nn.Module:
    """A network with this share of the weights of its linear layers at zero, scattered."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.weight[torch.rand(layer.weight.shape, generator=generator) < share] = 0
    return network.eval()


def layers(width: int = 64, inputs: int = 32) -> nn.Module:
    """Three linear layers, the last of ten outputs."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width, bias=False), nn.ReLU(), nn.Linear(width, 10)
    ).eval()


def subjects(width: int = 64) -> list[Subject]:
    """A dense network, one with scattered zeros, and one of half the width."""
    return [
        seeded(layers(width), noise((32,)), "dense", None),
        seeded(zeroed(layers(width), 0.9), noise((32,)), "sparse", "dense"),
        seeded(layers(width // 2), noise((32,)), "half", "dense"),
    ]
