"""What only a GPU shows: `pytest -m gpu`, on a machine that has one. All other tests run on CPUs, whatever there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from torch import Tensor, multiprocessing, nn

from dualprune.stages.constraints import SETS, Constraint
from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.data.read.stream import IGNORED, Stream
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.export.backends import BACKENDS, check
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.sets import NM
from dualprune.stages.settings.training import Optimizer
from dualprune.stages.solver.budget import Budget, allocate
from tests.stages.conftest import PLACES, MakeEngine, jpeg, jpegs, pairs
from tests.stages.constraints.test_constraints import EVERY, cases_with_weights, close, few
from tests.stages.data.test_stream import settings, written
from tests.stages.engine.test_zero import (
    NAMES,
    TARGETS,
    WAYS,
    agreeing,
    cluster,
    nearly_same,
    net,
    optimizer,
    same,
    solve,
    solve_wide,
    wide,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or not asked for with -m gpu"),
]
GPU = torch.device("cuda", 0)


@EVERY
def test_a_set_projects_as_on_a_cpu(name: str) -> None:
    """To the bit where entries are chosen, to rounding where values are fitted."""

    @few
    @given(cases_with_weights(name))
    def holds(case: tuple[Constraint, Tensor]) -> None:
        constraint, w = case
        w = w.float()
        z = constraint.project(w.to(GPU))
        assert z.device == GPU
        assert constraint.contains(z)
        expected = constraint.project(w)
        # Of equally near points a fit may take another one.
        near = float((z.cpu() - w).norm()) - float((expected - w).norm())
        assert close(z.cpu(), expected) or abs(near) <= 1e-5 * float(w.norm())
        assert constraint.mask(z).device == GPU

    holds()


def test_a_budget_is_shared_out_as_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {"a": 1_000_000, "b": 77, "c": 5000}
    tensors = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    for scale in ("none", "rms"):
        budget = Budget(tuple(tensors), 20_000, 5, scale)
        on_gpu = allocate(budget, lambda name: tensors[name].to(GPU)).kept
        assert sum(on_gpu.values()) == 20_000
        assert on_gpu == allocate(budget, tensors.__getitem__).kept


def on_a_cpu(_: int, folder: str) -> None:
    """In a process that sees no GPU: what is found there."""
    join(threads=1)
    ways: dict[str, tuple[nn.Module, Optimizer, Callable[[Engine], dict[str, Tensor]]]] = {
        f"{name}-{clip}-{scope}": (net(), optimizer(name, clip), partial(solve, targets=TARGETS[scope]))
        for name, clip, scope in WAYS
    }
    ways |= {"clusters": (net(), optimizer("adamw"), cluster), "wide": (wide(), optimizer("sgd"), solve_wide)}
    for way, (network, inner, find) in ways.items():
        engine = Engine(network, set(NAMES), set(), inner, "fp32", EngineSettings(zero=0))
        found = {key: value.contiguous() for key, value in find(engine).items()}
        safetensors.torch.save_file(found, f"{folder}/{way}")
        engine.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what a CPU finds."""
    folder = tmp_path_factory.mktemp("cpu")
    with patch.dict(os.environ, CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu"):
        multiprocessing.spawn(on_a_cpu, (str(folder),), nprocs=1)
    return folder


@pytest.mark.parametrize(("zero", "offload"), PLACES)
def test_what_is_found_is_what_a_cpu_finds(make_engine: MakeEngine, expected: Path, zero: int, offload: bool) -> None:
    """W, Z, U, masks, and values that are shared."""
    placed = {"zero": zero, "offload": offload}
    for accumulate in (1, 2):
        for name, clip, scope in WAYS:
            engine = make_engine(net(), set(NAMES), optimizer=optimizer(name, clip), accumulate=accumulate, **placed)
            assert engine.engine.device == GPU
            found = {key: value.cpu() for key, value in solve(engine, TARGETS[scope]).items()}
            same(found, safetensors.torch.load_file(expected / f"{name}-{clip}-{scope}"), (placed, name, clip, scope))
    engine = make_engine(net(), set(NAMES), optimizer=optimizer("adamw"), **placed)
    found = {key: value.cpu() for key, value in cluster(engine).items()}
    same(found, safetensors.torch.load_file(expected / "clusters"), placed)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_bf16_finds_nearly_the_same_masks(make_engine: MakeEngine, expected: Path, zero: int) -> None:
    exact = safetensors.torch.load_file(expected / "wide")
    for precision in ("fp32", "bf16"):
        engine = make_engine(wide(), set(NAMES), optimizer=optimizer("sgd"), precision=precision, zero=zero)
        found = {key: value.cpu() for key, value in solve_wide(engine).items()}
        assert all(agreeing(found[f"mask/{name}"], exact[f"mask/{name}"]) > 0.99 for name in NAMES)
        if precision == "fp32":
            nearly_same(found, exact)


def test_two_of_every_four_by_sparse_kernels() -> None:
    """A dense layer, one in the pattern and one of odd sides: only the second is sparse, and outputs are a CPU's."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    weight = network[2].weight
    settings = NM(set="nm", tensors="*", n=2, m=4)
    weight.data = SETS["nm"].make(settings, tuple(weight.shape)).project(weight.detach())
    inputs = (torch.randn(24, 128),)
    backend = BACKENDS["2:4"]
    bound = backend.prepare(network, inputs, GPU, 1)(inputs)
    assert bound.sparse == ("2",)
    check(network, inputs, bound, backend.tolerance)


@pytest.mark.parametrize("workers", [0, 2])
def test_jpegs_decoded_on_the_gpu_are_those_of_the_cpu(tmp_path: Path, workers: int) -> None:
    """But for how colours are brought to full size; PNG and CMYK are decoded as without the device."""
    samples = [*jpegs(40), (jpeg(90, 70, 6, "CMYK"), 0), (jpeg(90, 71, 7, "RGBA", "PNG"), 1), (jpeg(80, 90, 8, "L"), 2)]
    samples[7] = (samples[7][0][:200], 0)
    url = written(tmp_path, samples)
    streams = []
    for decode in ("cpu", "device"):
        wanted = settings(crop=100, resize=120, decode=decode, workers=workers, bad=0.1)
        stream = open_split(url, "train", digest(read_manifest(url)), wanted, 3, GPU, 3)
        assert isinstance(stream, Stream)
        streams.append(stream)
    halves = [np.arange(22), np.arange(22, len(samples))]
    for (x, labels), (y, same_labels) in zip(*(pairs(stream.epoch(halves, 1)) for stream in streams), strict=True):
        assert x.device == y.device == GPU
        assert torch.equal(labels, same_labels)
        assert float((x - y).abs().mean()) <= 5 / 255
    assert set(streams[0].bad) == set(streams[1].bad) == {7}
    assert IGNORED in next(iter(pairs(streams[1].epoch(halves, 1))))[1]
