"""Veils: a network computes with some of its parameters times zeros and ones, and these stay as they are.

A veiled module is of a class of its own, derived from its class, that gives the product where its code reads the
parameter; `named_parameters`, `state_dict`, optimizers and ZeRO see the parameter itself. So it holds for any layer
whose code reads its own attributes, or those of a layer within it, and takes a product as long as weights, not
activations. Gradients of what is veiled are zero; factors that want gradients get their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

Factor = Tensor | Callable[[], Tensor]
"""What a parameter is times: a tensor, or what makes it anew each time that the parameter is read."""
VEILS = "_dualprune_veils"
"""Of a veiled module: the factors of its own parameters, by their names in it."""


def veil(network: nn.Module, factors: Mapping[str, Factor]) -> None:
    """Lay `factors` over parameters by name, in place of all that lay over any; each is of a shape that goes with its
    parameter's. A tied parameter is veiled in all modules that have it. Raises KeyError for a name that there is none
    of."""
    there = dict(network.named_parameters())
    by_identity = {id(there[name]): factor for name, factor in factors.items()}
    for module in network.modules():
        own = {
            name: by_identity[id(one)]
            for name, one in module._parameters.items()
            if one is not None and id(one) in by_identity
        }
        _lay(module, own)


def _lay(module: nn.Module, own: dict[str, Factor]) -> None:
    before = module.__dict__.pop(VEILS, None)
    if before is not None:
        module.__class__ = type(module).__mro__[1]
    if own:
        module.__class__ = _veiled(type(module), tuple(own))  # type: ignore[arg-type]
        module.__dict__[VEILS] = own


@cache
def _veiled(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {name: property(_product(name)) for name in names})


def _product(name: str) -> Any:
    def read(module: nn.Module) -> Tensor | None:
        value = module._parameters[name]
        factor = module.__dict__[VEILS][name]
        return None if value is None else value * (factor if isinstance(factor, Tensor) else factor())

    return read
