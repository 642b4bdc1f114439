"""Batch normalisation's statistics taken anew: weights that were projected, or averaged, give layers other inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from dualprune.stages.data.order import Indices
from dualprune.stages.engine.ranks import here, summed
from dualprune.stages.networks.normalisation import Norm, norms
from dualprune.stages.objectives.base import StandIn
from dualprune.stages.training.run import Run


@torch.no_grad()
def recalibrate(run: Run[Any]) -> None:
    """Take all statistics anew, if the stage asks for that: on all ranks together, which all have the same then.

    They are means over whole batches of the statistics of each, as torch's `update_bn` takes them: of pictures as they
    are evaluated, the first ones of the first epoch's order. A batch is of as many samples whatever the number of
    ranks, which take turns, so that statistics are the same but for the order of sums. All but batch normalisation is
    as in evaluation.
    """
    layers = norms(run.engine.module)
    if run.spec.recalibrate is None or not layers:
        return
    parts = _parts(run)
    own = parts[run.rank :: run.world]
    spare = [parts[0]] * (-(-len(parts) // run.world) - len(own))  # a sharded network is run on all ranks together
    run.engine.module.eval()
    count = 0
    compiled = run.job.engine.compile and not run.kind.veils
    with _anew(layers), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        for number, batch in enumerate(run.splits["train"].evaluation([*own, *spare])):
            counts = number < len(own) and not isinstance(batch, StandIn)
            for one in layers:
                one.train(counts)
            run.objective.call(run.engine.forward, batch)
            count += counts
        _shared(run, layers, count)


def _parts(run: Run[Any]) -> list[Indices]:
    """Whole batches; one, where samples asked for are fewer."""
    split, size = run.splits["train"], run.spec.batch
    samples = split.order(0)[: max(size, run.spec.recalibrate or 0)]
    return [samples[at : at + size] for at in range(0, len(samples) - size + 1, size)]


@contextmanager
def _anew(layers: list[Norm]) -> Iterator[None]:
    """Have layers average over all batches that they are trained on within, and be as they were otherwise."""
    momenta = [one.momentum for one in layers]
    for one in layers:
        one.reset_running_stats()
        one.momentum = None
    try:
        yield
    finally:
        for one, momentum in zip(layers, momenta, strict=True):
            one.momentum = momentum
            one.eval()


def _shared(run: Run[Any], layers: list[Norm], count: int) -> None:
    """Average over the ranks, each by how many batches it has seen; the same bits everywhere."""
    if run.world == 1:
        return
    seen = summed(torch.tensor(float(count), dtype=torch.float64, device=here()))
    for one in layers:
        for statistic in (one.running_mean, one.running_var):
            assert statistic is not None
            statistic.copy_(summed(statistic.double() * count) / seen)
        assert one.num_batches_tracked is not None
        one.num_batches_tracked.fill_(int(seen))
