"""Bytes of ADMM's state per constrained parameter and rank, under ZeRO 0 to 3, on one and on two ranks."""

from __future__ import annotations

import torch

from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.engine.state import STATE
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Optimizer as OptimizerSettings
from tests.bench.common import Row, options, report
from tests.ranks import on_ranks


def held(zero: int, model: str) -> tuple[int, int]:
    """Bytes of target, dual and hold that this rank keeps, and the number of constrained parameters."""
    join(threads=1)
    torch.manual_seed(0)
    network = MODELS[model](10)
    sizes = {name: p.numel() for name, p in network.named_parameters() if p.ndim > 1}
    engine = Engine(network, set(sizes), set(), OptimizerSettings(name="sgd"), "fp32", EngineSettings(zero=zero))
    state = sum(s[name].nbytes for s in engine.optimizer.state.values() for name in STATE if name in s)
    engine.close()
    return state, sum(sizes.values())


def main() -> None:
    """Measure all cases and report them."""
    asked = options(__doc__.splitlines()[0])
    model = "lenet5" if asked.quick else "resnet18"
    rows: list[Row] = []
    for zero in (0, 1, 2, 3):
        row: Row = {"model": model, "zero": zero}
        for world in (1, 2):
            found = on_ranks(world, held, zero, model)
            row[f"bytes_per_parameter_{world}_ranks"] = max(state / size for state, size in found)
        rows.append(row)
    report("ADMM state: bytes per constrained parameter on the fullest rank", rows, asked)


if __name__ == "__main__":
    main()
