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
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dualprune.stages.coupling.surgery import Stays, following, narrowed
from dualprune.stages.coupling.units import Coupling, Space
from dualprune.stages.networks.edits import EDITS

Number = tuple[str, str]
"""A number that a module has of itself: the module's path, and the number's name."""
Check = Callable[[list[int]], str | None]
"""Says of spaces why they can't be cut together; None if they can."""
ROUNDS = 2
"""Cuts at random that code has to run with; the first of them is compared."""
COMPARISONS = 8
"""Cuts that are compared in finding what is not exact; each takes two passes. What is not found by then is left out."""
ATTEMPTS = 200
"""Passes without computing in finding the numbers that code goes by."""
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference of an output, relative to the largest output. Networks are compared in the first precision that
their code takes."""


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
    that nothing is hidden behind zeros. Code is first tried without computing, which takes little; of comparisons
    there is a bounded number, so that no network takes many times as long as a few passes through it.
    """
    check = _Check(network, args, kwargs, coupling)
    check.follow(list(range(len(coupling.spaces))))
    refused: dict[int, str] = {}
    alike: dict[tuple[str, ...], list[int]] = {}
    for number, space in enumerate(coupling.spaces):
        alike.setdefault(tuple(_alike(name) for name, _ in space.weights), []).append(number)
    good = _good(list(alike.values()), check.runs, refused)
    if good and check.exact(good) is not None:
        kinds = [there for kind in alike.values() if (there := [number for number in kind if number in good])]
        good = _together(_good(kinds, check.compared, refused), kinds, check, refused)
    good = sorted(good)
    return Proved(_only(check.coupling, good), {coupling.spaces[number].name: text for number, text in refused.items()})


def _good(kinds: list[list[int]], check: Check, refused: dict[int, str]) -> list[int]:
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


def _together(good: list[int], kinds: list[list[int]], check: _Check, refused: dict[int, str]) -> list[int]:
    """Of spaces that are exact in parts those that are together too: the first half, its half, and so on."""
    left = [there for kind in kinds if (there := [number for number in kind if number in good])]
    while left and (reason := check.exact([number for kind in left for number in kind])) is not None:
        middle = len(left) // 2
        refused |= {number: f"together with others: {reason}" for kind in left[middle:] for number in kind}
        left = left[:middle]
    return [number for kind in left for number in kind]


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
    """Where code failed: the innermost module that was at work, how many were done with, and how."""

    module: str
    done: int
    reason: str


class _Check:
    """Compares networks cut at random in some spaces."""

    def __init__(self, network: nn.Module, args: Any, kwargs: Any, coupling: Coupling) -> None:
        self._left, self._attempts = COMPARISONS, ATTEMPTS
        self.coupling = coupling
        self._modes: tuple[bool, ...] = (False,)
        self._precisely(network, args, kwargs, torch.float64)
        self._bare = bare(self._network), weightless(self._args), weightless(self._kwargs)
        if self._end({}, coupling) is not None:
            for dtype in TOLERANCE:  # there is code that makes tensors on the CPU, or asks for numbers
                self._precisely(network, args, kwargs, dtype)
                self._bare = self._network, self._args, self._kwargs
                if self._end({}, coupling) is None:
                    break
        self._modes = (False, True)
        if self._end({}, coupling) is not None:
            self._modes = (False,)

    def _precisely(self, network: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype) -> None:
        self._dtype, self._network = dtype, _stirred(network, dtype)
        self._args, self._kwargs = _spread(args, dtype), _spread(kwargs, dtype)

    def follow(self, numbers: list[int]) -> None:
        """Find the numbers of modules that have to follow: those with which code that fails gets further.

        Each is taken with its like in other blocks. Where none helps, what the code failed on is left out.
        """
        stays = self._drawn(numbers, 0)
        able = following(self._network, self.coupling, stays)
        while stays and (end := self._end(stays, self.coupling)) is not None:
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
        """Where a network's code fails when units are cut; None where it does not. Nothing is computed.

        In evaluation mode, and in training mode, in which code may have more layers. A network that fails in this one
        as it is, is tried in the first alone.
        """
        if self._attempts == 0:
            return _End("", 0, f"its code fails without them in more ways than {ATTEMPTS} tries could tell apart")
        self._attempts -= 1
        network, args, kwargs = self._bare
        compact, at, done = copy.deepcopy(network), list[str](), list[str]()
        for path, module in compact.named_modules():
            module.register_forward_pre_hook(lambda *_, path=path: at.append(path))
            module.register_forward_hook(lambda *_: done.append(at.pop()))
        try:
            with torch.no_grad():
                for edit in narrowed(network, coupling, stays):
                    EDITS[edit.edit].apply(edit, compact)
                for training in self._modes:
                    compact.train(training)(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - what code does that was written for other sizes, is anything
            return _End(at[-1] if at else "", len(done), _failed(error, " in training" if compact.training else ""))
        return None

    def runs(self, numbers: list[int]) -> str | None:
        """None if the code runs without some units of these spaces, or why not."""
        for seed in range(ROUNDS):
            if (end := self._end(self._drawn(numbers, seed), self.coupling)) is not None:
                return end.reason
        return None

    def exact(self, numbers: list[int]) -> str | None:
        """None if a cut of these spaces is exact, or why not.

        There is code that runs with a number as it was, such as one of groups or heads, and gives something else. Where
        a cut is exact with all such numbers changed, they have to follow.
        """
        stays, before = self._drawn(numbers, 0), self.coupling
        if (reason := self._differs(stays)) is None:
            return None
        counted = frozenset(following(self._network, before, stays))
        self.coupling = replace(before, numbers=before.numbers | counted)
        if self.coupling != before and self.runs(numbers) is None and self._differs(stays) is None:
            return None
        self.coupling = before
        return reason

    def compared(self, numbers: list[int]) -> str | None:
        """The same, of a bounded number of times."""
        if self._left == 0:
            return f"it was not found to be exact in {COMPARISONS} comparisons of this network"
        self._left -= 1
        return self.exact(numbers)

    def _drawn(self, numbers: list[int], seed: int) -> Stays:
        draw = np.random.default_rng(seed)
        return {number: drawn(self.coupling.spaces[number], draw) for number in numbers}

    def _differs(self, stays: Stays) -> str | None:
        try:
            wanted = self._outputs(lambda network: silenced(network, self.coupling.spaces, stays))
        except Exception as error:  # noqa: BLE001 - code may make tensors of single precision, and fail on others
            if self._dtype is torch.float32:
                return f"its code fails: {type(error).__name__}: {error}".partition("\n")[0]
            self._precisely(self._network, self._args, self._kwargs, torch.float32)
            return self._differs(stays)
        try:
            found = self._outputs(lambda network: self._cut(network, stays))
        except Exception as error:  # noqa: BLE001 - what code does that was written for other sizes, is anything
            return _failed(error)
        if [one.shape for one in wanted] != [one.shape for one in found]:
            return "without them the outputs have another shape"
        for one, other in zip(wanted, found, strict=True):
            apart = difference(one, other)
            if not apart <= TOLERANCE[one.dtype]:
                return f"without them the outputs differ by {apart:.2g} of the largest"
        return None

    def _cut(self, network: nn.Module, stays: Stays) -> None:
        for edit in narrowed(self._network, self.coupling, stays):
            EDITS[edit.edit].apply(edit, network)

    def _outputs(self, change: Callable[[nn.Module], object]) -> list[Tensor]:
        network = copy.deepcopy(self._network)
        with torch.no_grad():
            change(network)
            return outputs(network(*self._args, **self._kwargs))


def _failed(error: Exception, when: str = "") -> str:
    reason = str(error).strip().partition("\n")[0]
    return f"without them its code fails{when}: {type(error).__name__}: {reason}"


def bare(network: nn.Module) -> nn.Module:
    """A copy on the device `meta`. Tied tensors stay tied there, which `to` would not see to."""
    memo: dict[int, Any] = {}
    for one in (*network.parameters(), *network.buffers()):
        empty = torch.empty_like(one, device="meta")
        memo[id(one)] = nn.Parameter(empty, one.requires_grad) if isinstance(one, nn.Parameter) else empty
    return copy.deepcopy(network, memo)


def weightless(given: Any) -> Any:
    """Inputs on the device `meta`."""
    return pytree.tree_map(lambda one: one.to("meta") if isinstance(one, Tensor) else one, given)


def outputs(given: Any) -> list[Tensor]:
    """The floating-point tensors in what a network gives."""
    return [one for one in pytree.tree_leaves(given) if isinstance(one, Tensor) and one.is_floating_point()]


def difference(wanted: Tensor, found: Tensor) -> float:
    """The largest difference of tensors of one shape, relative to the largest entry; NaN where one has some."""
    if not wanted.numel():
        return 0.0
    return float((wanted - found).abs().max()) / max(float(wanted.abs().max()), 1e-30)


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


def silenced(network: nn.Module, spaces: Sequence[Space], stays: Stays) -> nn.Module:
    """Set the weights of the units that don't stay to zero, in place: what they are made by, and what reads them."""
    with torch.no_grad():
        for number, units in stays.items():
            for name, dim in spaces[number].weights:
                gone = torch.from_numpy(spaces[number].places[name, dim][~units].ravel())
                network.get_parameter(name).index_fill_(dim, gone, 0.0)
    return network


def drawn(space: Space, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Of a space's units some that stay: about half, one at least, and not all."""
    stays = draw.random(space.size) < 0.5
    stays[draw.integers(space.size)] = False
    if not stays.any():
        stays[np.flatnonzero(~stays)[0]] = True
    return stays


def _stirred(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a precision, in evaluation mode, whose tensors are not all alike."""
    found = copy.deepcopy(network).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)

    def drawn(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)

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


def _spread(given: Any, dtype: torch.dtype) -> Any:
    """Inputs of a precision, drawn at random where they are floating-point numbers."""
    generator = torch.Generator().manual_seed(1)

    def one(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return torch.randn(value.shape, generator=generator, dtype=dtype)
        return value

    return pytree.tree_map(one, given)
