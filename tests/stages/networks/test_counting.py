"""Multiplications with additions, of a network and of each of its modules."""

from __future__ import annotations

import torch

from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.counting import counted


def test_each_module_has_its_part() -> None:
    """By hand for a convolution and a linear layer; a module's are those of what is in it, the network's are all."""
    network = MODELS["resnet20"](10).eval()
    with counted() as found:
        network(torch.zeros(3, 3, 32, 32))
    assert found.modules["conv1"] == 3 * 32 * 32 * 16 * 3 * 9
    assert found.modules["linear"] == 3 * 64 * 10
    block = [found.modules[f"layer2.0.{name}"] for name in ("conv1", "conv2")]
    assert found.modules["layer2.0"] == sum(block)
    assert found.modules[""] == found.macs
    assert "bn1" not in found.modules
