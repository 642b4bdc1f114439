"""The backends: networks called on each, what is noticed of them, and what they are given."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import nn

from dualprune.stages.constraints import SETS
from dualprune.stages.export import backends
from dualprune.stages.export.backends import BACKENDS, Bound, Unavailable, check, known
from dualprune.stages.export.inputs import batched, noise
from dualprune.stages.export.speed import used
from dualprune.stages.export.timing import Effort, interleaved
from dualprune.stages.settings.sets import NM
from tests.stages.export.common import layers, zeroed

QUICK = Effort(repeats=3)


def seconds(network: nn.Module, backend: str, batch: int) -> float:
    """What one call takes."""
    inputs = noise((32,))
    bound = BACKENDS[backend].prepare(network, inputs, torch.device("cpu"), 1)(batched(inputs, batch))
    return statistics.median(interleaved({"it": bound.call}, QUICK)["it"])


@pytest.mark.parametrize("backend", ["torch", "csr"])
def test_more_samples_take_longer(backend: str) -> None:
    network = zeroed(layers(256), 0.9)
    one, many = (seconds(network, backend, batch) for batch in (1, 512))
    assert 0 < one < many


def test_onnx() -> None:
    pytest.importorskip("onnxruntime")
    assert seconds(layers(), "onnx", 3) > 0


@pytest.mark.parametrize(("norm", "without"), [(nn.LayerNorm, ("SkipLayerNormFusion",)), (nn.BatchNorm1d, ())])
def test_onnx_runtime_is_told_what_makes_it_slower(
    norm: type[nn.Module], without: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    told = []
    session = runtime.InferenceSession
    monkeypatch.setattr(
        runtime,
        "InferenceSession",
        lambda *args, **more: told.append(more["disabled_optimizers"]) or session(*args, **more),
    )
    assert seconds(nn.Sequential(nn.Linear(32, 64), norm(64)).eval(), "onnx", 3) > 0
    assert told == [without]


@pytest.mark.slow
def test_compiled() -> None:
    assert seconds(layers(), "compile", 3) > 0


def test_a_backend_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="no backend 'tensorrt'; there are torch, compile, csr, 2:4, onnx"):
        known(["tensorrt"])


def test_a_backend_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else name)
    assert "ONNX Runtime needs onnxruntime: pip install 'dualprune[onnx]'" in (BACKENDS["onnx"].missing() or "")


def test_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    with used(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_other_outputs_are_noticed() -> None:
    network, (x,) = layers(), noise((32,), 2)
    y = network(x).detach()
    check(network, (x,), Bound(lambda: y + 1e-6, lambda outputs: [outputs]))
    for wrong, said in ((y + 0.01, "its outputs are 0.01 from"), (y[:1], "inf from"), (y * float("nan"), "nan from")):
        with pytest.raises(Unavailable, match=said):
            check(network, (x,), Bound(lambda wrong=wrong: wrong, lambda outputs: [outputs]))
    with pytest.raises(Unavailable, match="0 outputs, and torch 1"):
        check(network, (x,), Bound(lambda: None, lambda outputs: []))


def test_batches_repeat_samples_and_keep_pictures_channels_last() -> None:
    (x,) = noise((3, 4, 4), 2)
    (found,) = batched((x,), 5)
    assert torch.equal(found, x[[0, 1, 0, 1, 0]])
    assert found.is_contiguous(memory_format=torch.channels_last)
    table, same = batched((x, nn.Parameter(torch.zeros(7))), 1)
    assert (len(table), len(same)) == (1, 7), "what has no samples stays"


def test_a_device_without_sparse_kernels_is_named() -> None:
    """A CPU has none: what torch says of the first weight is handed on."""
    network = zeroed(layers(256), 0.9)
    network[2].weight.data = SETS["nm"].make(NM(set="nm", tensors="*", n=2, m=4), (256, 256)).project(network[2].weight)
    with pytest.raises(Unavailable, match=r"half precision with 2:4 kernels can't: .*cpu is not supported"):
        BACKENDS["2:4"].prepare(network, noise((32,)), torch.device("cpu"), 1)
