"""What truncating the layers of a network takes, of training with trained rank pruning (`kind: trp`) at m = 20.

ResNet-20 and ResNet-56 for CIFAR-10 in batches of 128, all convolutions but the first, on one CPU thread: a training
step, and a truncation of all layers with U V^T of each, as the nuclear norm needs it. Times are processor time.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Literal

import torch
from torch.nn import functional as F

from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.sets import LowRank
from dualprune.stages.settings.training import Optimizer
from dualprune.stages.solver.truncating import truncate
from tests.bench.common import Row, interleaved, options, report

INTERVAL = 20
VIEWS: tuple[Literal["channel", "spatial"], ...] = ("channel", "spatial")


NETWORKS = ("resnet20", "resnet56")
BATCH = (128, 3, 32, 32)


def measured(model: str, view: Literal["channel", "spatial"], rounds: int) -> Row:
    """A row of the table."""
    torch.manual_seed(0)
    network = MODELS[model](10)
    shapes = parameters(network)
    held = LowRank(set="lowrank", layers="Conv2d", tensors=["*", "!conv1.weight"], energy=0.02, view=view)
    names = {name for name, one in shapes.items() if one.of_types(["Conv2d"]) and name != "conv1.weight"}
    engine = Engine(network, names, set(), Optimizer(name="sgd"), "fp32", EngineSettings(zero=0))
    engine.module.train()
    x, y = torch.randn(BATCH), torch.randint(10, BATCH[:1])

    def step() -> None:
        engine.backward(F.cross_entropy(engine.forward(x), y))
        engine.step(1e-3)

    def cut() -> None:
        truncate(engine, [held], shapes, slopes=True)

    times = interleaved({"step": step, "truncation": cut}, rounds, 1, time.process_time)
    found = {name: median(values) for name, values in times.items()}
    share = 100 * found["truncation"] / (INTERVAL * found["step"] + found["truncation"])
    engine.close()
    row: Row = {"network": model, "view": view, "layers": len(names), "ms_a_step": found["step"]}
    return row | {"ms_a_truncation": found["truncation"], "percent_at_m_20": share}


def main() -> None:
    """Measure all and report it."""
    asked = options(__doc__.splitlines()[0])
    join(threads=1)
    rounds = 3 if asked.quick else 11
    rows = [measured(model, view, rounds) for model in NETWORKS for view in VIEWS]
    report("Truncation while training", rows, asked)


if __name__ == "__main__":
    main()
