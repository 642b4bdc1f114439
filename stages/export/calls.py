"""A network as exports have it: tensors in their order go in, and plain tensors come out.

An objective decides how its network is called on a batch. That is recorded once, on a real batch; from then on the
network is a function of the tensors that went in, and returns what of its outputs the objective took.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dualprune.stages.export.errors import NotExported
from dualprune.stages.objectives.base import Batch, Objective

Path = tuple[str | int, ...]
"""Where a tensor is among arguments or outputs: keys of mappings, places in lists."""
TAKEN = (*keyword.kwlist, "network", "outputs", "torch")
"""Names that inputs don't get: code that calls a network has other uses for them."""


class Call(NamedTuple):
    """A network and one call of it."""

    network: Plain
    inputs: tuple[Tensor, ...]
    """What it was called with, samples along the first axis."""
    names: tuple[str, ...]
    """Of the inputs: the data's fields where these are passed on as they are, else the network's parameters."""
    outputs: tuple[str, ...]
    """Names of what it returns."""


class Plain(nn.Module):
    """A network that takes its tensors in their order and returns a tensor, or a tuple of several."""

    def __init__(self, network: nn.Module, given: Any, places: Sequence[Path], taken: Sequence[Path]) -> None:
        super().__init__()
        self.network = network
        self._given = given
        self._places, self._taken = tuple(places), tuple(taken)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the network gives for tensors in their order."""
        args, kwargs = _filled(self._given, dict(zip(self._places, inputs, strict=True)))
        found = dict(leaves(self.network(*args, **kwargs)))
        outputs = tuple(found[path] for path in self._taken)
        return outputs[0] if len(outputs) == 1 else outputs


@torch.no_grad()
def recorded(network: nn.Module, objective: Objective, batch: Batch) -> Call:
    """How an objective calls a network on a batch. Raises NotExported for one that does so other than once."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs, network(*args, **kwargs)))
        return calls[-1][2]

    result = objective.call(noted, batch)
    if len(calls) != 1:
        raise NotExported(
            f"the objective calls the network {len(calls)} times a batch; a network called once is needed"
        )
    ((args, kwargs, outputs),) = calls
    inputs = dict(leaves((args, kwargs)))
    if not inputs:
        raise NotExported("the objective calls the network without a tensor: there is nothing that goes in")
    taken = _taken(dict(leaves(outputs)), result)
    return Call(
        Plain(network, _emptied((args, kwargs)), list(inputs), taken).eval(),
        tuple(tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in inputs.values()),
        _named(inputs, batch),
        tuple("output" if not path else f"output_{'_'.join(map(str, path))}" for path in taken),
    )


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """All tensors in nested mappings, tuples and lists, each with its place. What is something else is passed over."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    elif isinstance(value, tuple | list):
        for place, one in enumerate(value):
            yield from leaves(one, (*path, place))


def _taken(outputs: Mapping[Path, Tensor], result: Any) -> list[Path]:
    """Which of a network's outputs an objective takes; all where it takes none as it is."""
    if not outputs:
        raise NotExported("the network returns no tensor, and no mapping, tuple or list of tensors")
    if isinstance(result, Tensor):
        for path, tensor in outputs.items():
            if tensor.shape == result.shape and torch.equal(tensor.to(result.dtype), result):
                return [path]
    return list(outputs)


def _emptied(value: Any) -> Any:
    """Nested arguments without their tensors, which are put in anew."""
    if isinstance(value, Tensor):
        return None
    if isinstance(value, Mapping):
        return {key: _emptied(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_emptied(one) for one in value)
    return value


def _filled(value: Any, tensors: Mapping[Path, Tensor], path: Path = ()) -> Any:
    if path in tensors:
        return tensors[path]
    if isinstance(value, dict):
        return {key: _filled(one, tensors, (*path, key)) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_filled(one, tensors, (*path, place)) for place, one in enumerate(value))
    return value


def _named(inputs: Mapping[Path, Tensor], batch: Batch) -> tuple[str, ...]:
    """Names of inputs, each another one."""
    names: list[str] = []
    for path, tensor in inputs.items():
        fields = [name for name, one in batch.items() if one.shape == tensor.shape and torch.equal(one, tensor)]
        given = path[-1] if path[0] == 1 and isinstance(path[-1], str) else None
        name = re.sub(r"\W", "_", given or next(iter(fields), f"input_{len(names)}"))
        names.append(name if name.isidentifier() and name not in (*names, *TAKEN) else f"input_{len(names)}")
    return tuple(names)
