"""A network that can be cut: what goes together in it, for the inputs that its objective gives it, and what is left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dualprune.stages.coupling.proof import Proved, bare, proved, weightless
from dualprune.stages.coupling.surgery import Stays, narrowed
from dualprune.stages.coupling.trace import Untraceable
from dualprune.stages.coupling.units import Coupling, Space, coupling
from dualprune.stages.networks.counting import counted
from dualprune.stages.networks.edits import EDITS, Narrow
from dualprune.stages.objectives.base import Batch, Objective


@dataclass(frozen=True)
class Cut:
    """A network, how it is called, and what can go of it."""

    network: nn.Module
    """On the device `meta`."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    """What it is called with, on `meta` too."""
    coupling: Coupling
    refused: Mapping[str, str]
    """Spaces that can't be cut, by what they go by, and why."""
    _counts: dict[tuple[tuple[int, bytes], ...], float] = field(default_factory=dict, compare=False, repr=False)
    """What was counted already: budgets are solved for more than once."""

    @property
    def spaces(self) -> Sequence[Space]:
        """What can be cut."""
        return self.coupling.spaces

    def edits(self, stays: Stays) -> list[Narrow]:
        """The edits that leave these units."""
        return narrowed(self.network, self.coupling, stays)

    def macs(self, stays: Stays) -> float:
        """Multiply-accumulates for one sample when these units are left."""
        key = tuple((number, stays[number].tobytes()) for number in sorted(stays))
        if key not in self._counts:
            network = copy.deepcopy(self.network)
            for edit in self.edits(stays):
                EDITS[edit.edit].apply(edit, network)
            self._counts[key] = macs(network, self.args, self.kwargs)
        return self._counts[key]

    def share(self, spaces: Sequence[int], most: float, left: Callable[[float, Space], int]) -> float:
        """The largest share of the units of these spaces, to a thousandth, with which at most `most` of the network's
        multiply-accumulates are left; `left` says how many units of a space are. Raises ValueError if none is so small.
        """
        whole, low, high = self.macs({}), 0, 1000
        while high - low > 1:
            middle = (low + high) // 2
            stays = {n: first(self.spaces[n].size, left(middle / 1000, self.spaces[n])) for n in spaces}
            low, high = (middle, high) if self.macs(stays) <= most * whole else (low, middle)
        if low == 0:
            raise ValueError(f"can't be cut to {most:g} of its multiply-accumulates by these units alone")
        return low / 1000


def cut(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Cut:
    """Find and prove what can go of a network, which is left alone.

    Raises stages.coupling.trace.Untraceable, for one that can't be copied too.
    """
    return by(network, args, kwargs, look(network, args, kwargs))


def look(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Proved:
    """What of a network can go, as plain data: one rank finds it out for all. Raises as `cut` does."""
    try:
        network = copy.deepcopy(network).cpu().eval()
    except Exception as error:  # what is refused is any, such as tensors that were computed (old weight norms)
        raise Untraceable(f"it can't be copied: {type(error).__name__}: {error}") from error
    return proved(network, args, kwargs, coupling(network, args, kwargs))


def by(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], found: Proved) -> Cut:
    """The cut of a network of which that was found."""
    return Cut(bare(network).eval(), weightless(tuple(args)), weightless(dict(kwargs)), found.coupling, found.refused)


def first(size: int, count: int) -> Any:
    """Of so many units the first few."""
    return np.arange(size) < count


def macs(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """Multiply-accumulates for one sample, as `stages.networks.counting` has them."""
    samples = next((len(one) for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.ndim), 1)
    with counted() as found:
        network(*args, **kwargs)
    return found.macs / samples


class _Given(Exception):
    """Not an error: what a network was called with."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args_, self.kwargs = args, kwargs


def inputs(objective: Objective, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What an objective calls its network with."""

    def network(*args: Any, **kwargs: Any) -> Any:
        raise _Given(args, kwargs)

    try:
        objective.call(network, batch)
    except _Given as given:
        return given.args_, given.kwargs
    raise ValueError("the objective does not call its network")
