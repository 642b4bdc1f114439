"""Training on one GPU: images per second of ResNet-50, LeNet-5 and ResNet-20, dense, under ADMM, and in plain torch.

`python -m tests.bench.gpu [--quick] [--json PATH]`, on a machine with a GPU, with DUALPRUNE_DATA naming a folder that
holds imagenet_sample/ if ResNet-50 is to read pictures too.

A step is what stages.training.step does: forward, a look at the loss, backward, optimizer. The first rows' batches lie
on the GPU: dense and ADMM as stages run them, and the loop that one writes by hand in torch, in turns. Then ResNet-50
under ADMM trains on JPEGs, decoded by worker processes or by the GPU; the share by which that is slower than without a
loader is what the GPU waits for data. bf16, channels_last, momentum SGD.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.data.make.index import index
from dualprune.stages.data.read.reading import AHEAD
from dualprune.stages.data.read.stream import Shards, Stream
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.objectives.fields import channels_last
from dualprune.stages.settings.data import Data
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Optimizer as OptimizerSettings
from dualprune.stages.solver import admm
from dualprune.stages.solver.targets import Targets
from tests.bench.common import Row, interleaved, options, ratios, report

LR, RHO, KEEP = 1e-4, 1e-3, 0.1
Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Case:
    """A network, its classes, its batch, and steps of a block."""

    model: str
    classes: int
    batch: tuple[int, int, int, int]
    block: int
    compiled: bool = False


CASES = (
    Case("lenet5", 10, (128, 1, 28, 28), 50),
    Case("resnet20", 10, (128, 3, 32, 32), 20),
    Case("resnet50", 1000, (256, 3, 224, 224), 5),
    Case("resnet50", 1000, (256, 3, 224, 224), 5, compiled=True),
)


def ours(case: Case, penalised: bool) -> Step:
    """A step of a stage, dense or in the middle of ADMM."""
    torch.manual_seed(0)
    model = MODELS[case.model](case.classes)
    names = {name for name, p in model.named_parameters() if p.ndim > 1} if penalised else set()
    settings = EngineSettings(compile=case.compiled)
    engine = Engine(model, names, set(), OptimizerSettings(name="sgd"), "bf16", settings)
    engine.module.train()
    if penalised:
        sets = {name: Cardinality(max(1, int(KEEP * engine.shape(name).numel()))) for name in sorted(names)}
        admm.start(engine, Targets(sets, (), dict.fromkeys(sets, ("cardinality",))), {})
        engine.optimizer.rho = RHO

    def step(pictures: Tensor, labels: Tensor) -> None:
        loss = F.cross_entropy(engine.forward(channels_last(pictures)).float(), labels, reduction="sum")
        float(loss.detach())
        engine.backward(loss / len(labels))
        engine.step(LR)

    return step


def plain(case: Case) -> Step:
    """The same by hand, without DeepSpeed."""
    torch.manual_seed(0)
    model: nn.Module = MODELS[case.model](case.classes).cuda().to(memory_format=torch.channels_last)
    if case.compiled:
        model.compile()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, foreach=True)

    def step(pictures: Tensor, labels: Tensor) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(channels_last(pictures)), labels)
        float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def steps(step: Step, pictures: Tensor, labels: Tensor, count: int) -> None:
    """So many steps on one batch, to their end on the GPU."""
    for _ in range(count):
        step(pictures, labels)
    torch.cuda.synchronize()


def resident(case: Case, rounds: int) -> tuple[list[Row], Step]:
    """Rows of batches that lie on the GPU, and the step under ADMM."""
    pictures = torch.randn(case.batch, device="cuda")
    labels = torch.randint(case.classes, case.batch[:1], device="cuda")
    variants = {"plain": plain(case), "dense": ours(case, False), "ADMM": ours(case, True)}
    for step in variants.values():
        steps(step, pictures, labels, 2 * case.block)
    calls = {name: partial(steps, step, pictures, labels, case.block) for name, step in variants.items()}
    times = interleaved(calls, rounds, block=1)
    rows = []
    for name, found in times.items():
        rate = 1000 * case.block * case.batch[0] / statistics.median(found)
        others = {f"of_{base}": ratios(found, times[base])[1] for base in ("plain", "dense")}
        rows.append(row(case, name, "on the GPU", rate) | others)
    return rows, variants["ADMM"]


def row(case: Case, step: str, data: str, rate: float) -> Row:
    """What is said of one variant; `of_plain` and `of_dense` are its time over those of others."""
    network = case.model + (", compiled" if case.compiled else "")
    found: Row = {"network": network, "step": step, "data": data, "images_s": rate}
    return found | {"ms": 1000 * case.batch[0] / rate, "of_plain": "", "of_dense": "", "gpu_waits": ""}


def read(case: Case, step: Step, folder: str, decode: str, quick: bool) -> float:
    """Images per second of training on the sample's JPEGs, over and over, once the workers are at speed.

    Several times as many steps as the batches that workers may have had ready when the clock began.
    """
    manifest = index(folder, "sample", dict.fromkeys(("train", "val", "test"), f"{root()}/imagenet_sample/*.tar"))
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    settings = Data.model_validate(
        {"shards": ".", "mean": mean, "std": std, "flip": True, "workers": workers, "decode": decode}
    )
    shards = Shards(folder, manifest, "train", settings, 0, case.classes)
    stream, size = Stream(shards, torch.device("cuda", 0)), case.batch[0]
    warm, count = 2 * AHEAD * workers, (2 if quick else 8) * AHEAD * workers

    def parts() -> Iterator[np.ndarray]:
        generator = np.random.default_rng(0)
        for _ in range(warm + count):
            yield generator.choice(len(stream), size, replace=False)

    batches = stream.epoch(parts(), 0)
    for batch in islice(batches, warm):
        step(batch["image"], batch["label"])
    torch.cuda.synchronize()
    began = time.perf_counter()
    for batch in batches:
        step(batch["image"], batch["label"])
    torch.cuda.synchronize()
    return count * size / (time.perf_counter() - began)


def root() -> str | None:
    """Where the pictures are, if they are."""
    return os.environ.get("DUALPRUNE_DATA")


def main() -> None:
    """Measure all cases and report them."""
    asked = options(__doc__ or "")
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here")
    join()
    rows: list[Row] = []
    for case in CASES:
        if asked.quick and case.compiled:
            continue  # three compilations take minutes
        found, step = resident(case, rounds=3 if asked.quick else 9)
        rows += found
        if case.model == "resnet50" and root():
            for decode, where in (("cpu", "JPEGs, by processes"), ("device", "JPEGs, by the GPU")):
                with tempfile.TemporaryDirectory() as folder:
                    rate = read(case, step, folder, decode, asked.quick)
                rows.append(row(case, "ADMM", where, rate) | {"gpu_waits": 1 - rate / found[-1]["images_s"]})
        del step
        torch.cuda.empty_cache()
    report(f"A training step in bf16 on {torch.cuda.get_device_name()}", rows, asked)


if __name__ == "__main__":
    main()
