"""Why a network is no faster, by what it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dualprune.stages.export.inputs import noise
from dualprune.stages.export.macs import cost
from dualprune.stages.export.reasons import Facts, facts, lanes, reasons
from tests.stages.export.common import layers, zeroed

CPU = torch.device("cpu")


def made(network: nn.Module, shape: tuple[int, ...] = (32,), *sets: str) -> Facts:
    """What a network is made of, whose tensors are held to sets."""
    manifest: dict[str, Any] = {"tensors": {"w": {"sets": list(sets)}}}
    return facts(network, cost(network, noise(shape)), manifest)


def told(network: nn.Module, *sets: str, device: str = "cpu") -> str:
    """Against the dense one."""
    return "; ".join(reasons(made(layers()), made(network, (32,), *sets), 1, torch.device(device)))


def test_scattered_zeros() -> None:
    assert told(zeroed(layers(), 0.9)).startswith("scattered zeros (90 % of the weights)")


def test_outputs_and_inputs_that_are_zero_could_be_taken_out() -> None:
    network = layers()
    with torch.no_grad():
        network[0].weight[:32] = 0
        network[2].weight[:, :32] = 0
        network[2].weight[0, 0] = 1
    found = made(network)
    assert found.zeros == 32 * 32 + 64 * 32 - 1
    assert found.idle == 32 * 32 + 64 * 31
    said = told(network, "row")
    assert "kind shrink" in said
    assert "scattered" not in said


def test_filters_that_are_zero() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3))
    with torch.no_grad():
        network[0].weight[2:4] = 0
        network[0].weight[:, 1] = 0
    assert made(network, (4, 8, 8)).idle == 8 * 4 * 9 - 6 * 3 * 9


@pytest.mark.parametrize(("device", "said"), [("cpu", "no kernels for them on CPUs"), ("cuda", "half precision")])
def test_two_of_four(device: str, said: str) -> None:
    assert said in told(zeroed(layers(), 0.5), "nm", device=device)


@pytest.mark.parametrize("kind", ["levels", "clusters"])
def test_shared_values(kind: str) -> None:
    assert told(layers(), kind) == "shared values, which are stored and multiplied as fp32"


def test_low_rank() -> None:
    assert "multiplied whole" in told(layers(), "lowrank")


def test_the_same_network() -> None:
    assert told(layers()) == "it is the dense network in all that takes time"


def test_few_macs() -> None:
    assert "few MACs (2,368 a call): calling 5 layers" in told(layers(32).eval())


def test_memory() -> None:
    """By a batch of one, each weight of a linear layer is used once."""
    dense, half = made(layers(8192)), made(layers(4096))
    assert any(one.startswith("memory-bound: 1.0 multiplications") for one in reasons(dense, half, 1, CPU))
    assert not any(one.startswith("memory-bound") for one in reasons(dense, half, 64, CPU))


def test_widths() -> None:
    said = told(layers(60))
    named = f"no multiples of {lanes(CPU)} (0.weight, 2.weight)"
    assert said.endswith(f"widths of 2 layers are {named}"), "the last has its own width"
    assert "multiples" not in told(layers(48))


def test_what_is_not_known() -> None:
    dense, less = (made(nn.Sequential(nn.Conv2d(64, width, 3)), (64, 34, 34)) for width in (64, 32))
    assert reasons(dense, less, 1, CPU) == ["its 2.00x fewer MACs are not what this backend spends its time on"]
