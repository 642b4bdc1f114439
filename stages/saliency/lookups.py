"""Whole numbers as inputs: bases and tokens have no gradient, but what they are looked up as has one.

While a `Lookups` is entered, `F.embedding`, `F.one_hot` and `table[numbers]` of a watched field give a leaf in place of
what was looked up, whichever layer calls them. That is what an embedding hands on to the rest of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dualprune.stages.saliency.errors import NotShown


class Lookup(NamedTuple):
    """What a field's numbers were looked up as."""

    leaf: Tensor
    """[n, ..., d], fp32."""
    table: Tensor | None
    """[entries, d]: a row for each number; None of `one_hot`, where it is the identity."""


class Lookups(TorchFunctionMode):
    """Watches how the numbers of fields are looked up, and puts leaves in the place of what is found."""

    def __init__(self, fields: Mapping[str, Tensor], given: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self._places = {(one.data_ptr(), one.numel()): name for name, one in fields.items()}
        self._given = dict(given or {})
        self.found: dict[str, Lookup] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Whatever torch is asked to do; what is no lookup of a watched field is done as it is."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        numbers, table = _looked_up(func, args, kwargs)
        name = None if numbers is None else self._places.get((numbers.data_ptr(), numbers.numel()))
        if name is None or not isinstance(result, Tensor):
            return result
        return self._replaced(name, result, table)

    def _replaced(self, name: str, result: Tensor, table: Tensor | None) -> Tensor:
        if name in self.found:
            known = self.found[name]
            if known.table is not table or known.leaf.shape != result.shape:
                raise NotShown(f"the network looks {name} up in more than one table, so it has no gradient of its own")
            return known.leaf.clone()
        leaf = self._given.get(name)
        if leaf is None:
            leaf = result.detach().float().requires_grad_()
        self.found[name] = Lookup(leaf, table)
        return leaf.clone()  # what is in place, such as a ReLU, may not change a leaf


def _looked_up(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Tensor | None, Tensor | None]:
    """The numbers that a call looks up, and the table; None of what is no lookup."""
    if func is F.one_hot:
        return _tensor(args[0] if args else kwargs.get("input")), None
    if func is F.embedding:
        given = [*args, *(kwargs[name] for name in ("input", "weight")[len(args) :])]
        return _tensor(given[0]), _tensor(given[1])
    if func is Tensor.__getitem__ and isinstance(args[0], Tensor) and args[0].ndim == 2:
        numbers = _tensor(args[1])
        return (numbers, args[0]) if numbers is not None and not numbers.is_floating_point() else (None, None)
    return None, None


def _tensor(value: Any) -> Tensor | None:
    return value if isinstance(value, Tensor) and value.dtype != torch.bool else None
