"""Convolutions whose gradient oneDNN spoils get pictures in plain order, and those alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from dualprune.stages.engine.strided import avoid
from dualprune.stages.objectives.fields import channels_last
from tests.processes import PATH

TRAINED = """
import torch
from torch import nn
from dualprune.stages.engine.strided import avoid
from dualprune.stages.objectives.fields import channels_last

torch.manual_seed(0)
network = nn.Conv2d(8, 24, 1, stride=2)
avoid(network)
for _ in range(8):
    x = torch.randn(4, 8, 224, 224)
    outputs = network(channels_last(x))
    given = torch.randn_like(outputs)
    network.zero_grad()
    outputs.backward(given)
    wanted = torch.einsum("nohw,nihw->oi", given, x[:, :, ::2, ::2])
    torch.testing.assert_close(network.weight.grad[:, :, 0, 0], wanted, rtol=1e-3, atol=1e-2)
"""


@pytest.mark.parametrize(
    ("convolution", "plain"),
    [
        (nn.Conv2d(3, 8, 1, stride=2), True),
        (nn.Conv2d(1, 8, 1, stride=2), True),
        (nn.Conv2d(32, 8, 1, stride=(1, 2), groups=4), True),
        (nn.Conv2d(3, 8, 1), False),
        (nn.Conv2d(3, 8, 3, stride=2), False),
        (nn.Conv2d(16, 8, 1, stride=2), False),
    ],
)
def test_which(convolution: nn.Conv2d, plain: bool) -> None:
    network = nn.Sequential(convolution)
    avoid(network)
    seen = []
    convolution.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = channels_last(torch.randn(2, convolution.in_channels, 6, 6))
    network(x)
    assert torch.equal(seen[0], x)
    assert (seen[0].stride() == torch.empty(x.shape).stride()) == plain
    assert (seen[0] is x) != plain


def test_its_gradient() -> None:
    """In a process of its own, which would not outlive it: torch 2.14 under AVX-512 ended here without `avoid`."""
    done = subprocess.run([sys.executable, "-c", TRAINED], env={"PYTHONPATH": PATH}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
