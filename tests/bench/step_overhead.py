"""What ADMM adds to a training step: the proximal wrapper, against a dense step and against a term in the loss.

All three run through `stages.engine.Engine` (DeepSpeed, ZeRO 1) on one CPU thread, with momentum SGD
as the optimizer: it is the cheapest, so what is added to it weighs most. Every weight of two or more
dimensions is penalised. The wrapper and the term in the loss are the same mathematics, which is
checked on the first steps before anything is timed. Times are processor time of the one thread: on a
core that others use too, they vary far less than times by the wall clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from stages import admm
from stages.constraints.cardinality import Cardinality
from stages.engine import Engine, join
from stages.models import MODELS
from stages.spec import Engine as EngineSettings
from stages.spec import Optimizer as OptimizerSettings
from stages.targets import Targets
from tests.bench.common import Row, interleaved, options, ratios, report

RHO = 1e-2
LR = 1e-4
CLASSES = 10
KEEP = 0.1


@dataclass(frozen=True)
class Case:
    """A network and its batch; `rounds` and `block` are of a full run, `quick` those of a quick one."""

    model: str
    batch: tuple[int, int, int, int]
    rounds: int
    block: int
    quick: tuple[int, int]


CASES = (
    Case("lenet5", (64, 1, 28, 28), rounds=60, block=12, quick=(12, 6)),
    Case("resnet18", (16, 3, 64, 64), rounds=30, block=3, quick=(6, 1)),
)


def build(case: Case, penalised: bool) -> Engine:
    """An engine on the same initial weights each time, with or without ADMM on its weights."""
    torch.manual_seed(0)
    model = MODELS[case.model](CLASSES)
    names = {name for name, p in model.named_parameters() if p.ndim > 1} if penalised else set()
    engine = Engine(model, names, set(), OptimizerSettings(name="sgd"), "fp32", EngineSettings(zero=1))
    engine.module.train()
    return engine


def step(engine: Engine, pictures: Tensor, labels: Tensor, penalty: Callable[[], Tensor] | None = None) -> None:
    """One training step, with `penalty` as a term of the loss if there is one."""
    loss = F.cross_entropy(engine.forward(pictures), labels)
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


def measure(case: Case, quick: bool) -> Row:
    """One row: a network's three steps, timed side by side."""
    dense, ours, usual = build(case, False), build(case, True), build(case, False)
    sets = {name: Cardinality(max(1, int(KEEP * ours.parameters[name].numel()))) for name in sorted(ours.held)}
    # Duals that are not zero, as they are after the first update.
    duals = {name: 0.1 * ours.get(name) for name in sets}
    admm.start(ours, Targets(sets, (), dict.fromkeys(sets, ("cardinality",))), duals)
    ours.optimizer.rho = RHO
    penalty = loss_term(usual, {name: ours.get(name, "target") + duals[name] for name in sets}, duals)

    pictures = torch.randn(case.batch)
    labels = torch.randint(CLASSES, case.batch[:1])
    variants: dict[str, Callable[[], None]] = {
        "dense": lambda: step(dense, pictures, labels),
        "admm": lambda: step(ours, pictures, labels),
        "loss_term": lambda: step(usual, pictures, labels, penalty),
    }
    check_same(ours, usual, dense, variants)
    rounds, block = case.quick if quick else (case.rounds, case.block)
    times = interleaved(variants, rounds, block, clock=time.process_time)
    for engine in (dense, ours, usual):
        engine.close()
    row: Row = {"model": case.model, "batch": case.batch[0], "steps": rounds * block}
    row |= {f"{name}_ms": median(values) for name, values in times.items()}
    for name in ("admm", "loss_term"):
        low, middle, high = ratios(times[name], times["dense"])
        row |= {f"{name}_ratio": middle, f"{name}_quartiles": [low, high]}
    return row


def check_same(ours: Engine, usual: Engine, dense: Engine, variants: Mapping[str, Callable[[], None]]) -> None:
    """Two steps of each: the wrapper and the term in the loss must agree, and differ from the dense step."""
    for call in variants.values():
        call()
        call()

    def distance(engine: Engine) -> float:
        return max(float((ours.get(name) - engine.get(name)).abs().max()) for name in ours.held)

    apart, moved = distance(usual), distance(dense)
    if not apart < 0.1 * moved:
        raise RuntimeError(f"the wrapper is {apart:.2g} from the term in the loss, and {moved:.2g} from the dense step")


def main() -> None:
    """Measure all cases and report them."""
    asked = options(__doc__.splitlines()[0])
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # The engine would take an accelerator if it saw one.
    join(threads=1)
    rows = [measure(case, asked.quick) for case in CASES]
    report("A training step, dense and under the ADMM penalty (processor time)", rows, asked)


if __name__ == "__main__":
    main()
