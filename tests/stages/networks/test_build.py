"""Networks as they are built, and what they are called with to be tried."""

from __future__ import annotations

import torch
from torch import nn

from dualprune.stages.networks.build import filled


def test_a_network_that_is_tried_has_numbers_that_stay_finite() -> None:
    """Not what is in memory; integers may be indices."""
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm2d(2))
    network.register_buffer("order", torch.arange(4))
    network.register_buffer("kept", torch.ones(2, dtype=torch.bool))
    network.register_buffer("turns", torch.ones(2, dtype=torch.complex64))
    found = filled(network)
    assert found.keys() == network.state_dict().keys()
    for name, tensor in found.items():
        there = network.state_dict()[name]
        assert (tensor.shape, tensor.dtype) == (there.shape, there.dtype)
        assert bool((tensor == (0.01 if there.is_floating_point() or there.is_complex() else 0)).all()), name
