"""What a network's parameters are: shapes, types, the layers that hold them, and which can be constrained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Size, Tensor, nn

EMBEDDINGS = frozenset({"Embedding", "EmbeddingBag"})
"""Types of layers whose weights no wildcard constrains."""
RECURRENT = re.compile(r"weight_(ih|hh|hr)(_l\d+)?(_reverse)?")
"""Names of the weights of recurrent layers and cells."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a network."""

    shape: Size
    trained: bool
    """Whether it is floating-point numbers, and a gradient is wanted of it: everything else is left alone."""
    names: tuple[str, ...]
    """All names that it has, the one that it goes by first: tied parameters have several."""
    types: tuple[tuple[str, ...], ...]
    """Of each layer that holds it, the names of its class and of those that this is derived from, without nn.Module."""

    @property
    def layer(self) -> str:
        """The types of the layers that hold it, for people."""
        return " and ".join(dict.fromkeys(one[0] for one in self.types))

    @property
    def constrainable(self) -> bool:
        """Whether it is trained, has two or more dimensions, and is a weight by its name: `weight`, something
        that ends so (`in_proj_weight`), or a recurrent layer's. Biases and normalisation never are, and no embeddings
        of places or classes that are parameters of their own."""
        named = any(name.endswith("weight") or RECURRENT.fullmatch(name.rpartition(".")[2]) for name in self.names)
        return named and len(self.shape) > 1 and self.trained

    def of_types(self, names: Iterable[str]) -> bool:
        """Whether one of the layers that hold it is of one of these types, or of one derived from it."""
        return not {name for one in self.types for name in one}.isdisjoint(names)

    @property
    def turned(self) -> bool:
        """Whether it is a linear weight of [inputs, outputs]: of transformers' Conv1D, of which GPT-2 is made."""
        return len(self.shape) == 2 and any(one[0] == "Conv1D" for one in self.types)

    @property
    def embedding(self) -> frozenset[str]:
        """Where it is an embedding's, or tied to one: the types of that layer."""
        return frozenset(name for one in self.types if not EMBEDDINGS.isdisjoint(one) for name in one)


Parameters = Mapping[str, Parameter]
"""A network's parameters by name; tied ones once, under the first of their names."""


def parameters(network: nn.Module) -> dict[str, Parameter]:
    """What the parameters of a network are, on whatever device they are, in the order in which it lists them."""
    names: dict[int, list[str]] = {}
    types: dict[int, list[tuple[str, ...]]] = {}
    for path, layer in network.named_modules(remove_duplicate=False):
        for own, parameter in layer.named_parameters(recurse=False, remove_duplicate=False):
            names.setdefault(id(parameter), []).append(f"{path}.{own}" if path else own)
            types.setdefault(id(parameter), []).append(_types(layer))
    return {
        name: Parameter(
            parameter.shape,
            is_trained(parameter),
            (name, *(other for other in names[id(parameter)] if other != name)),
            tuple(dict.fromkeys(types[id(parameter)])),
        )
        for name, parameter in network.named_parameters()
    }


def is_trained(parameter: Tensor) -> bool:
    """Whether a parameter is floating-point numbers that a gradient is wanted of."""
    return parameter.is_floating_point() and parameter.requires_grad


def _types(layer: nn.Module) -> tuple[str, ...]:
    derived = type(layer).__mro__
    return tuple(one.__name__ for one in derived[: max(1, derived.index(nn.Module))])


def weights(parameters: Parameters) -> dict[str, Parameter]:
    """Those that can be constrained: what rates over a whole network count, embeddings among them."""
    return {name: one for name, one in parameters.items() if one.constrainable}


def tied(network: nn.Module) -> dict[str, str]:
    """Names of parameters and buffers that have another one before it, which `parameters` gives, and that one."""
    found: dict[str, str] = {}
    for listed in (network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)):
        first: dict[int, str] = {}
        for name, tensor in listed:
            if first.setdefault(id(tensor), name) != name:
                found[name] = first[id(tensor)]
    return found
