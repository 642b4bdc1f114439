"""What ADMM adds to a training step: the proximal wrapper, against a dense step and against a term in the loss.

All run through `stages.engine.engine.Engine` (DeepSpeed) on one CPU thread a rank, with momentum SGD as the
optimizer: it is the cheapest, so what is added to it weighs most. Every weight of two or more
dimensions is penalised. The wrapper and the term in the loss are the same mathematics, which is
checked on the first steps before anything is timed; it is left out on two ranks, and under ZeRO 3 it would be
wrong. Times are processor time of a rank: on cores that others use too, and where ranks wait for each other,
they vary far less than times by the wall clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.objectives.fields import channels_last
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Optimizer as OptimizerSettings
from dualprune.stages.solver import admm
from dualprune.stages.solver.targets import Targets
from tests.bench.common import Row, interleaved, options, ratios, report
from tests.ranks import on_ranks

RHO = 1.0
LR = 1e-4
CLASSES = 10
KEEP = 0.1


@dataclass(frozen=True)
class Case:
    """A network and its batch on each rank; `rounds` and `block` are of a full run, `quick` those of a quick one."""

    model: str
    batch: tuple[int, int, int, int]
    rounds: int
    block: int
    quick: tuple[int, int]


ALONE = (
    Case("lenet5", (64, 1, 28, 28), rounds=60, block=12, quick=(9, 6)),
    Case("resnet18", (16, 3, 64, 64), rounds=30, block=3, quick=(6, 1)),
    Case("resnet50", (16, 3, 64, 64), rounds=30, block=2, quick=(6, 1)),
)
"""On one rank, where stages run without ZeRO."""
TOGETHER = Case("resnet18", (16, 3, 64, 64), rounds=20, block=3, quick=(4, 1))
"""On two ranks under ZeRO 1, 2 and 3."""


def build(case: Case, penalised: bool, zero: int, weighed: str | None = None) -> Engine:
    """An engine on the same initial weights each time, with or without ADMM on its weights, and what weighs these."""
    torch.manual_seed(0)
    model = MODELS[case.model](CLASSES)
    names = {name for name, p in model.named_parameters() if p.ndim > 1} if penalised else set()
    settings = EngineSettings(zero=zero)
    engine = Engine(model, names, set(), OptimizerSettings(name="sgd"), "fp32", settings, weighed=weighed)
    engine.weigh(weighed is not None)
    engine.module.train()
    return engine


def build_both(case: Case, zero: int) -> tuple[Engine, Engine, dict[str, Tensor]]:
    """A dense engine, one in the middle of ADMM, and the duals of that."""
    dense, ours = build(case, False, zero), build(case, True, zero)
    sets = {name: Cardinality(max(1, int(KEEP * ours.shape(name).numel()))) for name in sorted(ours.masked)}
    # Duals that are not zero, as they are after the first update.
    duals = {name: 0.1 * ours.get(name) for name in sets}
    admm.start(ours, Targets(sets, (), dict.fromkeys(sets, ("cardinality",))), duals)
    ours.optimizer.rho = RHO
    return dense, ours, duals


def step(engine: Engine, pictures: Tensor, labels: Tensor, penalty: Callable[[], Tensor] | None = None) -> None:
    """One training step, with `penalty` as a term of the loss if there is one."""
    loss = F.cross_entropy(engine.forward(channels_last(pictures)), labels)
    if penalty is not None:
        loss = loss + penalty()
    engine.backward(loss)
    engine.step(LR)


def loss_term(engine: Engine, z: Mapping[str, Tensor], u: Mapping[str, Tensor]) -> Callable[[], Tensor]:
    """rho/2 |W - Z + U|^2 for autograd, as it is usually written."""

    def penalty() -> Tensor:
        terms = [(engine.parameters[name] - z[name] + u[name]).square().sum() for name in z]
        return RHO / 2 * torch.stack(terms).sum()

    return penalty


def alone(case: Case, quick: bool) -> Row:
    """One row: a network's three steps, timed side by side."""
    dense, ours, duals = build_both(case, zero=0)
    usual = build(case, False, zero=0)
    penalty = loss_term(usual, {name: ours.get(name, "target") + u for name, u in duals.items()}, duals)
    pictures, labels = torch.randn(case.batch), torch.randint(CLASSES, case.batch[:1])
    variants: dict[str, Callable[[], None]] = {
        "dense": lambda: step(dense, pictures, labels),
        "admm": lambda: step(ours, pictures, labels),
        "loss_term": lambda: step(usual, pictures, labels, penalty),
    }
    check_same(ours, usual, dense, variants)
    times = interleaved(variants, *(case.quick if quick else (case.rounds, case.block)), clock=time.process_time)
    for engine in (dense, ours, usual):
        engine.close()
    return row(case, 1, 0, times)


def together(case: Case, quick: bool) -> list[Row]:
    """On one of several ranks: a row of each ZeRO stage."""
    join(threads=1)
    rows = []
    for zero in (1, 2, 3):
        dense, ours, _ = build_both(case, zero)
        pictures, labels = torch.randn(case.batch), torch.randint(CLASSES, case.batch[:1])
        variants: dict[str, Callable[[], None]] = {
            "dense": partial(step, dense, pictures, labels),
            "admm": partial(step, ours, pictures, labels),
        }
        times = interleaved(variants, *(case.quick if quick else (case.rounds, case.block)), clock=time.process_time)
        dense.close()
        ours.close()
        rows.append(row(case, dist.get_world_size(), zero, times))
    return rows


def row(case: Case, ranks: int, zero: int, times: Mapping[str, list[float]]) -> Row:
    """What is said of one case."""
    found: Row = {"model": case.model, "batch": case.batch[0], "ranks": ranks, "zero": zero}
    found["dense_ms"] = median(times["dense"])
    for name in ("admm", "loss_term"):
        low, middle, high = ratios(times[name], times["dense"]) if name in times else ("", "-", "")
        found |= {f"{name}_ratio": middle, f"{name}_quartiles": [low, high] if name in times else "-"}
    return found


def check_same(ours: Engine, usual: Engine, dense: Engine, variants: Mapping[str, Callable[[], None]]) -> None:
    """Two steps of each: the wrapper and the term in the loss must agree, and differ from the dense step."""
    for call in variants.values():
        call()
        call()

    def distance(engine: Engine) -> float:
        return max(float((ours.get(name) - engine.get(name)).abs().max()) for name in ours.masked)

    apart, moved = distance(usual), distance(dense)
    if not apart < 0.1 * moved:
        raise RuntimeError(f"the wrapper is {apart:.2g} from the term in the loss, and {moved:.2g} from the dense step")


def main() -> None:
    """Measure all cases and report them."""
    asked = options(__doc__.splitlines()[0])
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # The engine would take an accelerator if it saw one.
    # Of two ranks, the one whose step grew more.
    pairs = zip(*on_ranks(2, together, TOGETHER, asked.quick), strict=True)
    shared = [max(pair, key=lambda found: float(found["admm_ratio"])) for pair in pairs]
    join(threads=1)
    rows = [alone(case, asked.quick) for case in ALONE]
    report("A training step, dense and under the ADMM penalty (processor time)", [*rows, *shared], asked)


if __name__ == "__main__":
    main()
