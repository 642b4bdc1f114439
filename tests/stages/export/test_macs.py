"""MACs against hand counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from dualprune.stages.export.inputs import noise
from dualprune.stages.export.macs import cost
from dualprune.stages.networks.builtin import MODELS


def test_linear_layers() -> None:
    found = cost(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)), (torch.randn(4, 32),))
    assert found.macs == 32 * 64 + 64 * 10
    assert found.activations == 64 + 64 + 10
    assert found.layers == 3


def test_convolutions_with_groups_and_strides() -> None:
    network = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4), nn.Conv2d(16, 6, 1))
    assert cost(network, noise((8, 10, 10))).macs == 25 * 16 * 2 * 9 + 25 * 16 * 6


def test_the_digits_network() -> None:
    macs = 8 * 8 * 16 * 9 + 8 * 8 * 32 * 16 * 9 + 512 * 128 + 128 * 10
    assert cost(MODELS["digits_cnn"](10).eval(), noise((1, 8, 8))).macs == macs


def test_resnet_18() -> None:
    """As its paper and torchvision's table have it: 1.8 G."""
    assert cost(resnet18().eval(), noise((3, 224, 224), 1)).macs == 1_814_073_344


@pytest.mark.parametrize("training", [False, True])
def test_attention(training: bool) -> None:
    """The same in one piece, which torch's counter does not see, and in pieces."""
    tokens, width = 5, 16
    layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True).train(training)
    linear = tokens * (4 * width * width + 2 * width * 32)
    assert cost(layer, (torch.randn(2, tokens, width),)).macs == linear + 2 * tokens * tokens * width
    assert torch.backends.mha.get_fastpath_enabled()
