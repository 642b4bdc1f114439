"""What sharpness-aware steps take, and what weighs projections: plain, with two passes, three, and each way to weigh.

All are steps of ADMM through `stages.engine.engine.Engine`, on one rank and one CPU thread, with momentum SGD; what
training adds around each pass (seeds, buffers that are put back) is in them. Times are processor time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.engine.weighing import WAYS
from dualprune.stages.settings.training import Sam
from dualprune.stages.solver import admm
from dualprune.stages.solver.targets import Targets
from dualprune.stages.training.passes import unchanged
from tests.bench.common import Row, interleaved, options, ratios, report
from tests.bench.step_overhead import CLASSES, KEEP, LR, RHO, Case, build

CASES = (
    Case("lenet5", (64, 1, 28, 28), rounds=24, block=8, quick=(8, 3)),
    Case("resnet20", (64, 3, 32, 32), rounds=12, block=2, quick=(4, 1)),
)
SAM = Sam(radius=0.05)


def step(engine: Engine, batch: tuple[Tensor, Tensor], sam: Sam | None, projected: Targets | None) -> None:
    """One optimizer step, as `stages.training.passes` has it."""

    def once(close: Callable[[], bool], counts: bool = False) -> None:
        with engine.inputs.looking(counts):
            loss = F.cross_entropy(engine.forward(batch[0]), batch[1])
        engine.backward(loss)
        close()

    if projected is not None:
        with unchanged(engine.module):
            engine.leave()
            admm.put(engine, projected)
            once(engine.keep)
    if sam is None:
        once(lambda: engine.step(LR), counts=True)
        return
    once(lambda: engine.ascend(sam))
    with unchanged(engine.module):
        once(lambda: engine.step(LR))


def measured(case: Case, quick: bool) -> Row:
    """One network's steps, timed side by side."""
    engine = build(case, True, 0)
    sets = {name: Cardinality(max(1, int(KEEP * engine.shape(name).numel()))) for name in sorted(engine.masked)}
    targets = Targets(sets, (), dict.fromkeys(sets, ("cardinality",)))
    ways = {name: build(case, True, 0, name) for name in WAYS}
    for one in (engine, *ways.values()):
        admm.start(one, targets, {})
        one.optimizer.rho = RHO
    batch = torch.randn(case.batch), torch.randint(CLASSES, case.batch[:1])
    times = interleaved(
        {
            "plain": lambda: step(engine, batch, None, None),
            "sam": lambda: step(engine, batch, SAM, None),
            "adaptive": lambda: step(engine, batch, Sam(radius=0.5, adaptive=True), None),
            "sam_sg": lambda: step(engine, batch, SAM, targets),
            **{name: partial(step, one, batch, None, None) for name, one in ways.items()},
        },
        *(case.quick if quick else (case.rounds, case.block)),
        clock=time.process_time,
    )
    for one in (engine, *ways.values()):
        one.close()
    found: Row = {"model": case.model, "batch": case.batch[0], "plain_ms": median(times["plain"])}
    for name in ("sam", "adaptive", "sam_sg", *WAYS):
        low, middle, high = ratios(times[name], times["plain"])
        found |= {f"{name}_ratio": middle, f"{name}_quartiles": [low, high]}
    return found


def main() -> None:
    """Measure all cases and report them."""
    asked = options(__doc__.splitlines()[0])
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # The engine would take an accelerator if it saw one.
    join(threads=1)
    rows = [measured(case, asked.quick) for case in CASES]
    report("A step of ADMM, plain, sharpness-aware, and with what weighs projections (processor time)", rows, asked)


if __name__ == "__main__":
    main()
