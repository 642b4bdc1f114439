"""How long one call of a network takes on a backend: what budgets in milliseconds are held against."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dualprune.stages.export.backends import Bound, Unavailable, known
from dualprune.stages.export.inputs import Inputs, batched
from dualprune.stages.export.timing import Effort, interleaved


def latency(
    network: nn.Module,
    inputs: Inputs,
    backend: str = "torch",
    batch: int = 1,
    threads: int = 1,
    device: str = "cpu",
    effort: Effort | None = None,
) -> float:
    """Seconds that one call with so many samples takes: the median over rounds.

    The network is in evaluation mode, on the CPU, and takes the inputs in their order. Raises ValueError for a backend
    that there is not, and Unavailable for one that is not installed or can't run the network.
    """
    with used(threads):
        bound = prepared(network, inputs, backend, threads, torch.device(device), batch)
        times = interleaved({"it": bound.call}, effort or Effort())
    return statistics.median(times["it"])


def prepared(network: nn.Module, inputs: Inputs, backend: str, threads: int, device: torch.device, batch: int) -> Bound:
    """A network ready to be called with so many samples. Raises as `latency` does."""
    (found,) = known([backend])
    if (missing := found.missing()) is not None:
        raise Unavailable(missing)
    return found.prepare(network, inputs, device, threads)(batched(inputs, batch))


@contextmanager
def used(threads: int) -> Iterator[None]:
    """So many of torch's threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
