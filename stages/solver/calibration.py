"""What layers are given on calibration data: second moments of their inputs, added up over batches and ranks.

Inputs themselves are not kept. A batch holds the same samples whatever the number of ranks, so that what a network
makes of it is the same too; sums are fp64, and rounded to fp32 in the end, where their order counts no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.data.fields import mask_of
from dualprune.stages.data.order import Indices
from dualprune.stages.data.read.reading import Reader
from dualprune.stages.engine.ranks import summed
from dualprune.stages.objectives.base import Batch, Objective, StandIn
from dualprune.stages.settings.base import SpecError

TOGETHER = 16
"""Samples of a batch."""
FOLLOWED = 2
"""Samples that layers' order is found with."""


@dataclass(frozen=True)
class Calibration:
    """A network as it is called, and the samples that it is called with. All ranks call its methods together."""

    forward: Callable[..., Any]
    """The network, in whatever it is wrapped; in evaluation mode."""
    objective: Objective
    split: Reader
    samples: Indices
    """Numbers of those of the split that are used."""
    rank: int = 0
    world: int = 1
    compiled: bool = False
    """Whether the network is: it is called without that here, for it calls no hooks then."""

    def order(self, layers: Mapping[str, nn.Module]) -> list[list[str]]:
        """Names of layers in the order in which they are called; those that are given the same tensor are together.

        Raises SpecError for one that is not called.
        """
        places: dict[str, list[tuple[Any, ...]]] = {}
        alive: list[Tensor] = []  # or another one might get its place in memory

        def look(name: str, given: Tensor) -> None:
            alive.append(given)
            places.setdefault(name, []).append((id(given), given._version, *_geometry(layers[name])))

        with watched(layers, look):
            for batch in self.split.evaluation([self.samples[:FOLLOWED]]):
                self._call(batch)
        idle = [name for name in layers if name not in places]
        if idle:
            text = f"{', '.join(idle)}: never called on calibration data, so there are no inputs to go by; leave it out"
            raise SpecError([(("constraints",), text)])
        found: dict[tuple[Any, ...], list[str]] = {}
        for name, seen in places.items():
            found.setdefault(tuple(seen), []).append(name)
        return list(found.values())

    def moments(self, name: str, layer: nn.Module) -> Tensor:
        """X^T X of a layer's inputs X over all samples: fp32 [inputs, inputs]. Raises SpecError if it is not finite."""
        total: Tensor | None = None
        where: Tensor | None = None
        counts = True

        def look(_: str, given: Tensor) -> None:
            nonlocal total
            for some in _rows(layer, given, where):
                found = (some.T @ some).double()
                if total is None:
                    total = torch.zeros_like(found)
                if counts:
                    total += found

        with watched({name: layer}, look):
            for batch, good in self._batches():
                counts, where = good, mask_of(batch)
                self._call(batch)
        assert total is not None  # `order` has seen that it is called
        summed(total)
        if not bool(total.isfinite().all()):
            raise SpecError([(("samples",), f"what {name} is given on calibration data is not finite")])
        return total.float()

    def _batches(self) -> Iterator[tuple[Batch, bool]]:
        """This rank's batches, and whether each counts: all ranks go through as many, as a sharded network needs."""
        parts = [self.samples[at : at + TOGETHER] for at in range(0, len(self.samples), TOGETHER)]
        own = parts[self.rank :: self.world]
        spare = [parts[0]] * (-(-len(parts) // self.world) - len(own))
        read = self.split.evaluation([*own, *spare])
        for number, batch in enumerate(read):
            yield batch, number < len(own) and not isinstance(batch, StandIn)

    @torch.no_grad()
    def _call(self, batch: Batch) -> None:
        with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            self.objective.call(self.forward, batch)


@contextmanager
def watched(layers: Mapping[str, nn.Module], look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show what each layer is given, by its name, whenever it is called."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _, args, named: look(name, args[0] if args else named["input"])

    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _geometry(layer: nn.Module) -> Sequence[Any]:
    """How a layer sees its inputs: layers that see the same tensor alike have the same second moments."""
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size, layer.dilation, layer.padding, layer.stride
    return ()


def _rows(layer: nn.Module, given: Tensor, where: Tensor | None) -> Iterator[Tensor]:
    """Inputs as rows of numbers, fp32 [n, inputs]; of a convolution, what each place of its kernel sees, by sample.

    Of padded sequences [n, t, inputs] only what is there, by `where` [n, t].
    """
    given = given.detach().float()
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        for one in given.split(1):
            yield F.unfold(one, layer.kernel_size, layer.dilation, layer.padding, layer.stride)[0].T
    elif where is not None and given.shape[:2] == where.shape and given.ndim == where.ndim + 1:
        yield given[where]
    else:
        yield given.reshape(-1, given.shape[-1])
