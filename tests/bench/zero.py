"""Steps on two CPU workers under each ZeRO stage, against DistributedDataParallel, in turns in one run.

    python -m tests.bench.zero [--quick] [--json PATH]

Nothing but steps: forward, backward, optimizer, on the same batch again and again. Beside ZeRO 1 and 2 as we set them
up (`stages.engine.zero.lean`) stand those of DeepSpeed's own settings; that these end at the same bits is checked.
Processor time, the mean of two workers of one thread each, medians of rounds.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from dualprune.stages.engine import zero
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.networks.build import build_model
from dualprune.stages.objectives.fields import channels_last
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Model, Optimizer
from tests.bench.common import Row, options, ratios, report
from tests.ranks import on_ranks

SHAPES = {"lenet5": (64, 1, 28, 28), "resnet18": (16, 3, 32, 32)}
BLOCK, LR, CLASSES = 4, 0.01, 10
Times = dict[str, list[float]]


def network(name: str) -> torch.nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    return build_model(Model(name=name, classes=CLASSES))


def engine(name: str, stage: int, defaults: bool) -> Engine:
    """Ours, dense, or with what is DeepSpeed's default."""
    with patch.object(zero, "lean", lambda *_: {}) if defaults else patch.object(zero, "lean", zero.lean):
        return Engine(network(name), set(), set(), Optimizer(name="sgd"), "fp32", EngineSettings(zero=stage))


def plain(name: str, inputs: Tensor, labels: Tensor) -> Callable[[], None]:
    """A step as DistributedDataParallel's users write it."""
    model = DistributedDataParallel(network(name))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, foreach=True)

    def step() -> None:
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ours(one: Engine, inputs: Tensor, labels: Tensor) -> Callable[[], None]:
    """A step of an engine's."""

    def step() -> None:
        one.backward(F.cross_entropy(one.forward(inputs), labels))
        assert one.step(LR)

    return step


def measured(name: str, rounds: int) -> Times:
    """Processor milliseconds a step of each variant on this rank, by rounds."""
    join(threads=1)
    inputs = channels_last(torch.randn(*SHAPES[name], generator=torch.Generator().manual_seed(dist.get_rank())))
    labels = torch.arange(len(inputs)) % CLASSES
    engines = {"ZeRO 0": engine(name, 0, False)}
    for stage, defaults in itertools.product((1, 2), (False, True)):
        engines[f"ZeRO {stage}{', defaults' if defaults else ''}"] = engine(name, stage, defaults)
    variants = {"DDP": plain(name, inputs, labels)} | {key: ours(one, inputs, labels) for key, one in engines.items()}
    times: Times = {key: [] for key in variants}
    for number in range(-1, rounds):
        turn = number % len(variants)
        for key in (*variants, *variants)[turn : turn + len(variants)]:
            dist.barrier()
            variants[key]()
            began = time.process_time()
            for _ in range(BLOCK):
                variants[key]()
            if number >= 0:
                times[key].append(1000 * (time.process_time() - began) / BLOCK)
    for stage, parameter in itertools.product((1, 2), engines["ZeRO 0"].parameters):
        assert torch.equal(*(engines[f"ZeRO {stage}{way}"].get(parameter) for way in ("", ", defaults"))), parameter
    for one in engines.values():
        one.close()
    return times


def rows(name: str, found: list[Times]) -> list[Row]:
    """A variant's times and ratios to DDP's of the same round: quartiles, with the median between."""
    mean = {key: [statistics.mean(pair) for pair in zip(*(t[key] for t in found), strict=True)] for key in found[0]}
    return [
        {"network": name, "variant": key, "ms": statistics.median(own), "over DDP": list(ratios(own, mean["DDP"]))}
        for key, own in mean.items()
    ]


def main() -> None:
    """Measure both networks, and report."""
    asked = options(__doc__.splitlines()[0])
    rounds = 4 if asked.quick else 12
    found = [row for name in SHAPES for row in rows(name, on_ranks(2, measured, name, rounds))]
    report("Processor time of a step on two CPU workers", found, asked)


if __name__ == "__main__":
    main()
