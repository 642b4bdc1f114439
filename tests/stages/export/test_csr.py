"""Sparse rows: the same outputs, only where they are faster, and a file that plain torch loads."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.export import csr, timing
from dualprune.stages.export.csr import SparseLinear, save, with_csr
from tests.stages.export.common import layers, zeroed


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer that may be sparse is."""
    monkeypatch.setattr(csr, "WORTH", float("inf"))
    monkeypatch.setattr(csr, "TRIED", csr.Effort(repeats=1))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("shape", [(1, 32), (2, 32), (9, 32), (1, 1, 32), (2, 5, 32)])
def test_outputs_are_those_of_the_dense_network(shape: tuple[int, ...]) -> None:
    network, x = zeroed(layers(), 0.9), torch.randn(shape)
    changed, found = with_csr(network, (x,))
    assert list(found) == ["0", "2", "4"]
    assert all(isinstance(changed[n], SparseLinear) for n in (0, 2, 4))
    with torch.inference_mode():
        torch.testing.assert_close(changed(x), network(x))
    assert not any(isinstance(one, SparseLinear) for one in network), "the network itself stays as it was"


@pytest.mark.usefixtures("always")
def test_only_layers_that_are_half_zeros_are_tried() -> None:
    network = layers()
    zeroed(network[2], 0.6)
    assert list(with_csr(network, (torch.randn(2, 32),))[1]) == ["2"]
    assert with_csr(zeroed(layers(), 0.3), (torch.randn(2, 32),))[1] == {}


class Tied(nn.Module):
    """Two layers with one weight, and one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.idle, self.c = (nn.Linear(8, 8) for _ in range(4))
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        """All of them but one."""
        return self.c(self.b(self.a(x)))


@pytest.mark.usefixtures("always")
def test_tied_layers_and_those_that_are_not_called_stay() -> None:
    assert list(with_csr(zeroed(Tied(), 0.9), (torch.randn(2, 8),))[1]) == ["c"]


@pytest.mark.usefixtures("always")
def test_an_attention_that_takes_its_weights_itself_stays() -> None:
    network = zeroed(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 0.9)
    x = torch.randn(2, 3, 16)
    changed, _ = with_csr(network, (x,))
    with torch.no_grad():
        torch.testing.assert_close(changed(x), network(x))


def test_a_layer_is_sparse_only_if_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = zeroed(layers(), 0.9), torch.randn(2, 32)
    for sparse, expected in ((0.96, []), (0.94, ["0", "2", "4"])):
        monkeypatch.setattr(csr, "_timed", lambda *_, sparse=sparse: csr.Timed(1.0, sparse))
        assert list(with_csr(network, (x,))[1]) == expected


@pytest.mark.slow
def test_a_large_layer_with_few_weights_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """By processor time, which stands still while others have the core."""
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=time.process_time))
    network, x = zeroed(nn.Sequential(nn.Linear(1024, 4096)), 0.95), torch.randn(8, 1024)
    _, found = with_csr(network, (x,))
    assert found["0"].sparse < found["0"].dense / 1.5


LOAD = """
import sys, torch
from torch import nn
network = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 10))
network.load_state_dict(torch.load(sys.argv[1], weights_only=True), assign=True)
inputs, outputs = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    torch.testing.assert_close(network(inputs), outputs)
print(network[0].weight.layout, [name for name in sys.modules if "dualprune" in name])
"""


@pytest.mark.usefixtures("always")
def test_the_file_loads_in_plain_torch(tmp_path: Path) -> None:
    network, x = zeroed(layers(), 0.9), torch.randn(3, 32)
    changed, _ = with_csr(network, (x,))
    save(changed, str(tmp_path / "weights.pt"))
    with torch.no_grad():
        torch.save((x, network(x)), tmp_path / "calls.pt")
    command = [sys.executable, "-W", "ignore", "-c", LOAD, str(tmp_path / "weights.pt"), str(tmp_path / "calls.pt")]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.stdout == "torch.sparse_csr []\n", found.stderr


@pytest.mark.usefixtures("always")
def test_a_copy_that_computes_something_else_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    before = csr._sparse

    def wrong(layer: nn.Linear) -> SparseLinear:
        other = copy.deepcopy(layer)
        with torch.no_grad():
            other.weight.mul_(1.1)
        return before(other)

    monkeypatch.setattr(csr, "_sparse", wrong)
    with pytest.raises(ArithmeticError, match="other outputs"):
        with_csr(zeroed(layers(), 0.9), (torch.randn(3, 32),))
