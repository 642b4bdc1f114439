"""Whether taking units out is exact: networks without them are compared with networks where they are zero.

Rules can be wrong and code can have constants; so nothing counts before a network was cut at random and gave the same.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dualprune.stages.coupling.surgery import Stays, following, narrowed
from dualprune.stages.coupling.units import Coupling, Space
from dualprune.stages.networks.edits import EDITS

Number = tuple[str, str]
"""A number that a module has of itself: the module's path, and the number's name."""
ROUNDS = 2
"""Cuts at random that have to be exact."""
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference of an output, relative to the largest output."""


@dataclass(frozen=True)
class Proved:
    """What of a network can go."""

    coupling: Coupling
    """With the spaces that were proved alone."""
    refused: Mapping[str, str]
    """Of the others, by what they go by: why not."""


def proved(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], coupling: Coupling) -> Proved:
    """Cut a network at random, compare, and leave out the spaces that can't be cut exactly.

    The network is on the CPU; it is copied, and left alone. Its weights are drawn anew where they are all alike, so
    that nothing is hidden behind zeros.
    """
    check = _Check(_stirred(network), _spread(args), _spread(kwargs), coupling)
    check.follow(list(range(len(coupling.spaces))))
    refused: dict[int, str] = {}
    alike: dict[tuple[str, ...], list[int]] = {}
    for number, space in enumerate(coupling.spaces):
        alike.setdefault(tuple(_alike(name) for name, _ in space.weights), []).append(number)
    good = sorted(_good(list(alike.values()), check, refused))
    while good and (reason := check(good)) is not None:  # each alone is exact, but not all of them together
        refused[good[-1]] = reason
        good = good[:-1]
    return Proved(_only(check.coupling, good), {coupling.spaces[number].name: text for number, text in refused.items()})


def _good(kinds: list[list[int]], check: Callable[[list[int]], str | None], refused: dict[int, str]) -> list[int]:
    """Those of some spaces that can be cut, by halves; spaces are together that are alike in other blocks."""
    numbers = [number for kind in kinds for number in kind]
    reason = check(numbers) if numbers else None
    if reason is None:
        return numbers
    if len(kinds) > 1:
        middle = len(kinds) // 2
        return [*_good(kinds[:middle], check, refused), *_good(kinds[middle:], check, refused)]
    if len(numbers) > 1 and not (check(numbers[:1]) and check(numbers[-1:])):
        return _good([[number] for number in numbers], check, refused)
    refused |= dict.fromkeys(numbers, reason)
    return []


def _only(coupling: Coupling, good: Sequence[int]) -> Coupling:
    """A coupling with these spaces alone."""
    places = {number: place for place, number in enumerate(good)}
    counted = tuple(
        (one, tuple(tuple((places.get(space, -1), unit) for space, unit in of) for of in where))
        for one, where in coupling.counted
    )
    return replace(coupling, spaces=tuple(coupling.spaces[number] for number in good), counted=counted)


@dataclass(frozen=True)
class _End:
    """Where code failed: the innermost module that was at work, and how many were done with."""

    module: str
    done: int


@dataclass
class _Check:
    """Compares networks cut at random in some spaces."""

    network: nn.Module
    args: Any
    kwargs: Any
    coupling: Coupling

    def follow(self, numbers: list[int]) -> None:
        """Find the numbers of modules that have to follow: those with which code that fails gets further.

        Each is taken with its like in other blocks. Where none helps, what the code failed on is left out.
        """
        stays = {number: _drawn(self.coupling.spaces[number], np.random.default_rng(0)) for number in numbers}
        able = following(self.network, self.coupling, stays)
        while stays and (end := self._end(stays, self.coupling)) is not None:
            near = end.module.rpartition(".")[0]
            for option in _options(able, end.module):
                trial = replace(self.coupling, numbers=self.coupling.numbers | option)
                further = self._end(stays, trial) if not option <= self.coupling.numbers else end
                if further is None or further.done > end.done:
                    self.coupling = trial
                    break
            else:
                near = end.module.rpartition(".")[0]
                left = {n: units for n, units in stays.items() if not self._touches(n, near)}
                stays = left if len(left) < len(stays) else {}

    def _touches(self, number: int, path: str) -> bool:
        return any(name.startswith(f"{path}." if path else "") for name, _ in self.coupling.spaces[number].places)

    def _end(self, stays: Stays, coupling: Coupling) -> _End | None:
        """Where a network's code fails when units are cut; None where it does not."""
        compact, at, done = copy.deepcopy(self.network), list[str](), list[str]()
        for path, module in compact.named_modules():
            module.register_forward_pre_hook(lambda *_, path=path: at.append(path))
            module.register_forward_hook(lambda *_: done.append(at.pop()))
        try:
            with torch.no_grad():
                for edit in narrowed(self.network, coupling, stays):
                    EDITS[edit.edit].apply(edit, compact)
                compact(*self.args, **self.kwargs)
        except Exception:  # noqa: BLE001 - what code does that was written for other sizes, is anything
            return _End(at[-1] if at else "", len(done))
        return None

    def __call__(self, numbers: list[int]) -> str | None:
        """None if the cut is exact, or why not."""
        for seed in range(ROUNDS):
            draw = np.random.default_rng(seed)
            stays = {number: _drawn(self.coupling.spaces[number], draw) for number in numbers}
            try:
                reason = self._differs(stays)
            except Exception as error:  # noqa: BLE001 - what code does that was written for other sizes, is anything
                reason = f"without them its code fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            if reason is not None:
                return reason
        return None

    def _differs(self, stays: Stays) -> str | None:
        masked, compact = copy.deepcopy(self.network), copy.deepcopy(self.network)
        with torch.no_grad():
            for number, units in stays.items():
                silence(masked, self.coupling.spaces[number], units)
            for edit in narrowed(compact, self.coupling, stays):
                EDITS[edit.edit].apply(edit, compact)
            wanted, found = self._outputs(masked), self._outputs(compact)
        if [one.shape for one in wanted] != [one.shape for one in found]:
            return "without them the outputs have another shape"
        for one, other in zip(wanted, found, strict=True):
            scale = float(one.abs().max()) if one.numel() else 0.0
            apart = float((one - other).abs().max()) if one.numel() else 0.0
            if not apart <= TOLERANCE[one.dtype] * max(scale, 1e-30):
                return f"without them the outputs differ by {apart / max(scale, 1e-30):.2g} of the largest"
        return None

    def _outputs(self, network: nn.Module) -> list[Tensor]:
        found = pytree.tree_leaves(network(*self.args, **self.kwargs))
        return [one for one in found if isinstance(one, Tensor) and one.is_floating_point()]


def _options(able: Iterable[Number], failed: str) -> list[frozenset[Number]]:
    """What may have to follow where a module failed: numbers of it, of what is around it and of what is beside it,
    the deepest first; all of a module at once, then each alone."""
    near = failed.rpartition(".")[0]
    there = sorted(
        (one for one in able if f"{failed}.".startswith(f"{one[0]}." if one[0] else "") or one[0].startswith(near)),
        key=lambda one: (-len(one[0]), one),
    )
    whole = [frozenset(one for one in able if _alike(one[0]) == _alike(path)) for path, _ in there]
    each = [frozenset(one for one in whole[n] if one[1] == name) for n, (_, name) in enumerate(there)]
    return list(dict.fromkeys([*whole, *each]))


def _alike(path: str) -> str:
    """A module's path without the numbers of blocks."""
    return re.sub(r"\d+", "#", path)


def silence(network: nn.Module, space: Space, stays: Any) -> None:
    """Set the weights of the units that don't stay to zero: what they are made by, and what reads them."""
    for name, dim in space.weights:
        gone = torch.from_numpy(space.places[name, dim][~stays].ravel())
        network.get_parameter(name).index_fill_(dim, gone, 0.0)


def _drawn(space: Space, draw: np.random.Generator) -> Any:
    """Of a space's units some that stay: about half, one at least, and not all."""
    stays = draw.random(space.size) < 0.5
    stays[draw.integers(space.size)] = False
    if not stays.any():
        stays[np.flatnonzero(~stays)[0]] = True
    return stays


def _stirred(network: nn.Module) -> nn.Module:
    """A copy in double precision and evaluation mode, whose tensors are not all alike."""
    found = copy.deepcopy(network).double().eval()
    generator = torch.Generator().manual_seed(0)

    def drawn(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    with torch.no_grad():
        for tensor in found.parameters():
            if tensor.ndim > 1 and (tensor.numel() == 1 or float(tensor.std()) < 1e-3):
                tensor.copy_(drawn(tensor) / tensor[0].numel() ** 0.5)
            elif tensor.ndim <= 1:
                tensor.add_(drawn(tensor) * 0.1)
        for name, buffer in found.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + drawn(buffer).abs())
            elif name.endswith("running_mean"):
                buffer.copy_(drawn(buffer) * 0.1)
    return found


def _spread(given: Any) -> Any:
    """Inputs in double precision, drawn at random where they are floating-point numbers."""
    generator = torch.Generator().manual_seed(1)

    def one(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return value

    return pytree.tree_map(one, given)
