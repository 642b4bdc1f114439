"""Networks side by side: what is timed where, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision import models

from dualprune.stages.export import backends, csr, speed, timing
from dualprune.stages.export.inputs import noise
from dualprune.stages.export.speed import Speed, judged, speeds
from dualprune.stages.export.subjects import seeded
from dualprune.stages.export.timing import Effort, Spread
from tests.bench.speed import halved
from tests.stages.export.common import layers, subjects, zeroed

QUICK = Effort(repeats=7)


def timed(*backends: str, batches: tuple[int, ...] = (1, 4)) -> dict[tuple[str, str, int], Speed]:
    """Small networks, by name, backend and batch."""
    found = speeds(subjects(), backends, batches, ["cpu"], 1, QUICK)
    return {(one.name, one.place.backend, one.place.batch): one for one in found}


def test_each_network_is_timed_in_each_place() -> None:
    found = timed("torch", batches=(1, 4))
    assert list(found) == [(name, "torch", batch) for batch in (1, 4) for name in ("dense", "sparse", "half")]
    for (_, _, batch), one in found.items():
        assert one.latency is not None
        assert one.ratio is not None
        assert 0 < one.latency.low <= one.latency.middle <= one.latency.high
        assert one.throughput == batch / one.latency.middle
        assert one.rounds == 7
    dense, half = found["dense", "torch", 1], found["half", "torch", 1]
    assert (dense.verdict, dense.ratio, dense.of_macs) == ("dense", Spread(1, 1, 1), 1)
    assert half.ratio is not None
    macs = (32 * 64 + 64 * 64 + 640) / (32 * 32 + 32 * 32 + 320)
    assert half.of_macs == pytest.approx(half.ratio.middle / macs)


def test_scattered_zeros_gain_nothing_and_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without any noise."""
    _steady(monkeypatch, {"dense": 2.0, "sparse": 2.0, "half": 1.0})
    found = timed("torch", batches=(1,))
    assert found["sparse", "torch", 1].verdict == "no gain"
    assert "scattered zeros (90 %" in found["sparse", "torch", 1].why[0]
    assert found["half", "torch", 1].verdict == "gain"


def test_a_gain_that_falls_short_of_the_macs_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    _steady(monkeypatch, {"dense": 2.0, "sparse": 2.0, "half": 1.0})
    (why,) = timed("torch", batches=(1,))["half", "torch", 1].why
    assert why.startswith("few MACs")


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (Spread(1.01, 1.2, 1.3), "gain"),
        (Spread(0.99, 1.2, 1.3), "no gain"),
        (Spread(1.01, 1.04, 1.06), "no gain"),
        (Spread(0.9, 0.97, 0.99), "no gain"),
        (Spread(0.7, 0.8, 0.99), "slower"),
        (Spread(0.7, 0.8, 1.01), "no gain"),
    ],
)
def test_verdicts(ratio: Spread, expected: str) -> None:
    assert judged(ratio) == expected


def test_sparse_rows_are_timed_where_a_layer_is_faster_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csr, "_timed", lambda *_: csr.Timed(1.0, 0.5))
    _steady(monkeypatch, {"dense": 2.0, "sparse": 1.0})
    found = timed("csr", batches=(4,))
    assert found["sparse", "csr", 4].sparse == ("0", "2", "4")
    assert found["sparse", "csr", 4].verdict == "gain"
    assert found["half", "csr", 4].latency is None
    assert found["half", "csr", 4].why == ("no linear layer is faster with sparse rows",)


def test_without_any_faster_layer_sparse_rows_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csr, "_timed", lambda *_: csr.Timed(1.0, 1.0))
    assert [key[0] for key in timed("csr", batches=(4,))] == ["sparse", "half"]


def test_onnx_is_exported_once_for_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    written = []
    before = backends.to_onnx
    monkeypatch.setattr(backends, "to_onnx", lambda *args: written.append(before(*args)))
    assert all(one.latency for one in timed("onnx", batches=(1, 4)).values())
    assert len(written) == 3


@pytest.mark.slow
def test_compiled() -> None:
    assert all(one.latency for one in timed("compile").values())


class Refused(nn.Module):
    """Goes by its values, which neither torch.export nor ONNX can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Something."""
        return x * 2 if float(x.sum()) > 0 else x


def test_what_a_backend_cannot_run_is_told_and_the_rest_is_timed() -> None:
    pytest.importorskip("onnxruntime")
    networks = [seeded(layers(), noise((32,)), "dense", None), seeded(Refused(), noise((32,)), "other", "dense")]
    dense, other = speeds(networks, ["onnx"], [2], ["cpu"], 1, QUICK)
    assert dense.latency is not None
    assert other.latency is None
    assert "can't be traced" in other.why[0]


def test_more_networks_than_torch_keeps_compiled() -> None:
    networks = [seeded(layers(), noise((32,)), f"{n}", None) for n in range(9)]
    found = list(speeds(networks, ["compile"], [2], ["cpu"], 1, QUICK))
    assert {one.why for one in found} == {("torch keeps 8 networks compiled at once, and these are 9",)}


def test_the_number_of_threads_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(speed, "interleaved", lambda calls, effort: seen.append(torch.get_num_threads()) or _run(calls))
    list(speeds(subjects(), ["torch"], [1], ["cpu"], 2, QUICK))
    assert seen == [2]


def _run(calls: Mapping[str, object]) -> dict[str, list[float]]:
    return {name: [1.0] * 7 for name in calls}


def _steady(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, float]) -> None:
    monkeypatch.setattr(speed, "interleaved", lambda calls, effort: {name: [seconds[name]] * 7 for name in calls})


@pytest.mark.slow
def test_a_compact_resnet_is_faster_and_a_sparse_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 at 64 x 64 with half the MACs, in torch and, if it is there, ONNX Runtime; by processor time,
    which stands still while others have the core."""
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=time.process_time))
    torch.manual_seed(0)
    dense, half, sparse = (models.resnet18(weights=None).eval() for _ in range(3))
    with torch.no_grad():
        for layer in sparse.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight[torch.rand_like(layer.weight) < 0.9] = 0
    networks = [
        seeded(dense, noise((3, 64, 64)), "dense", None),
        seeded(halved(half), noise((3, 64, 64)), "compact", "dense"),
        seeded(zeroed(sparse, 0.9), noise((3, 64, 64)), "sparse", "dense"),
    ]
    names = ["torch"] if speed.BACKENDS["onnx"].missing() else ["torch", "onnx"]
    for one in speeds(networks, names, [8], ["cpu"], 1, Effort(1.5)):
        expected = {"dense": ["dense"], "compact": ["gain"], "sparse": ["no gain", "slower"]}[one.name]
        assert one.verdict in expected, one
