"""What the tests of `stages` share: this process as a group of one rank, real shards, engines that are closed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

from dualprune.stages.constraints import Constraint
from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.make.builtin import digits
from dualprune.stages.data.shards import write
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.objectives.base import Batch
from dualprune.stages.objectives.classify import classify
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Model, Optimizer
from dualprune.stages.solver.targets import Targets
from tests.processes import PATH, ROOT

MakeEngine = Callable[..., Engine]
MakeTask = Callable[..., StageJob]

PLACES = [(zero, offload) for zero in (0, 1, 2, 3) for offload in (False, True) if zero or not offload]
"""Every ZeRO stage, and whether its optimizer state is kept on the host."""


def small_net(seed: int = 0) -> nn.Module:
    """Two linear layers with batch normalisation between them: weights, biases and buffers.

    No bias before the normalisation: its gradient is rounding error, which Adam would blow up to full steps.
    """
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def noisy_net(classes: int) -> nn.Module:
    """For 8 x 8 pictures, with what makes a resumed run hard to get right: batch normalisation and dropout."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, classes)
    )


class Spike(nn.Module):
    """Passes numbers on; at the last rank's step 4 the first of two micro-batches gets a gradient that is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Told where it is by the number that torch's generator was seeded with, for seed 0 in epoch 0."""
        world = dist.get_world_size()
        if torch.initial_seed() != 3 * world + world - 1:
            return x
        self.calls += 1
        return x + (0 * x).sqrt() if self.calls % 2 else x


def spiky_net(classes: int) -> nn.Module:
    """For 8 x 8 pictures, with a gradient of its first layer that is not finite although the loss is."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), Spike(), nn.ReLU(), nn.Linear(24, classes))


def pairs(batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures and labels of batches."""
    return ((batch["image"], batch["label"]) for batch in batches)


CLASSIFY = classify(TrainSpec.model_construct(model=Model(name="any", classes=3), smoothing=0.0, mix=None))
"""The objective of three classes, without smoothed labels and mixed pictures."""


def held_to(sets: Mapping[str, Constraint]) -> Targets:
    """Targets with a set for each tensor and no budget."""
    return Targets(sets, (), {name: (type(constraint).__name__.lower(),) for name, constraint in sets.items()})


def random_pictures(n: int, shape: tuple[int, ...], seed: int) -> list[tuple[np.ndarray, int]]:
    """Pictures of uniformly random bytes, labelled 0, 1, 2, 0, 1, ..."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 256, shape, dtype=np.uint8), i % 3) for i in range(n)]


def jpeg(height: int, width: int, seed: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """An encoded picture of soft random blotches."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 8, len(mode)), dtype=np.uint8)
    picture = Image.fromarray(rough.squeeze(), mode).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def jpegs(n: int, seed: int = 0) -> list[tuple[bytes, int]]:
    """Encoded pictures of many sizes, labelled 0, 1, 2, 0, 1, ..."""
    sizes = np.random.default_rng(seed).integers(20, 200, (n, 2))
    return [(jpeg(int(h), int(w), 1000 * seed + i), i % 3) for i, (h, w) in enumerate(sizes)]


def step(engine: Engine, number: int, lr: float = 0.05, samples: int = 12) -> None:
    """One optimizer step on a batch that only `number` decides; micro-batches as the engine wants them."""
    generator = torch.Generator().manual_seed(number)
    x, y = torch.randn(samples, 6, generator=generator), torch.randint(0, 3, (samples,), generator=generator)
    for part, labels in zip(x.chunk(engine.accumulate), y.chunk(engine.accumulate), strict=True):
        loss = nn.functional.cross_entropy(engine.forward(part).float(), labels, reduction="sum")
        engine.backward(loss * engine.accumulate / samples)
        engine.step(lr)


@pytest.fixture(scope="session")
def one_rank() -> None:
    """This process is a process group of one rank with one thread."""
    join(threads=1)


@pytest.fixture
def make_engine(one_rank: None) -> Iterator[MakeEngine]:
    """A function that builds engines, by default of `small_net` with its weights penalised; all are closed after."""
    engines: list[Engine] = []

    def make(
        model: nn.Module | None = None,
        penalised: set[str] | None = None,
        masked: set[str] | None = None,
        optimizer: Optimizer | None = None,
        precision: str = "fp32",
        valued: Collection[str] = (),
        weighed: str | None = None,
        **settings: Any,
    ) -> Engine:
        names = {"0.weight", "3.weight"} if penalised is None else penalised
        engines.append(
            Engine(
                model or small_net(),
                names,
                masked or set(),
                optimizer or Optimizer(),
                precision,
                EngineSettings.model_validate(settings),
                valued,
                weighed=weighed,
            )
        )
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of shards of the handwritten digits: 320 to train on, 100 each to validate and test."""
    url = str(tmp_path_factory.mktemp("digits"))
    few = {"train": 320, "val": 100, "test": 100}
    write(url, "digits", {split: list(samples)[: few[split]] for split, samples in digits(None).items()})
    return url


@pytest.fixture
def make_task(shards: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> MakeTask:
    """A function that describes stages on those shards, in a store in tmp_path unless told. Models `noisy`, `spiky`."""
    monkeypatch.setitem(MODELS, "noisy", noisy_net)
    monkeypatch.setitem(MODELS, "spiky", spiky_net)
    data_digest = digest(read_manifest(shards))

    def make(
        spec: dict[str, Any],
        key: str = "key",
        parent: str | None = None,
        store: str = "store",
        model: str = "noisy",
        **engine: Any,
    ) -> StageJob:
        common = {
            "model": {"name": model},
            "data": {"source": "digits", "mean": [0.3], "std": [0.38], "shift": 1},
            "batch": 32,
        }
        Folder(str(tmp_path / store)).establish()
        return StageJob.model_validate(
            {
                "name": key,
                "key": key,
                "store": str(tmp_path / store),
                "spec": common | spec,
                "parent": {"name": parent, "key": parent} if parent else None,
                "shards": shards,
                "data_digest": data_digest,
                "engine": {"threads": 1} | engine,
            }
        )

    return make


@pytest.fixture
def dying() -> Iterator[Callable[[int, StageJob], int]]:
    """A function that runs a stage in a process that dies at its n-th call; gives the process's exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.stages.faults"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def run(n: int, task: StageJob) -> int:
        stdin.write(json.dumps([n, task.model_dump()]) + "\n")
        stdin.flush()
        while not (line := stdout.readline().strip()).lstrip("-").isdigit():
            assert process.poll() is None, line
        return int(line)

    yield run
    process.communicate()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were fetched, one after another."""
    names: list[str] = []
    plain = Folder.fetch

    def noted(self: Folder, path: str, target: str) -> None:
        names.append(path)
        plain(self, path, target)

    monkeypatch.setattr(Folder, "fetch", noted)
    return names
