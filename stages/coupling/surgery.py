"""Units taken out: the edits of a network's modules that leave the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from dualprune.stages.coupling.units import Coupling, Place, gone
from dualprune.stages.networks.edits import Narrow

Stays = Mapping[int, NDArray[np.bool_]]
"""By the number of a space: which of its units stay. Of spaces that are not in it, all do."""


def narrowed(network: nn.Module, coupling: Coupling, stays: Stays) -> list[Narrow]:
    """The edits that leave these units alone. The network is as it was when it was followed."""
    going: dict[Place, list[NDArray[np.int64]]] = defaultdict(list)
    for number, units in stays.items():
        for place, without in gone(coupling.spaces[number], units).items():
            if len(without):
                going[place].append(without)
    kept: dict[str, dict[str, dict[int, list[list[int]]]]] = defaultdict(lambda: defaultdict(dict))
    sizes: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for (name, dim), positions in going.items():
        path, _, own = name.rpartition(".")
        shape = sizes[path].setdefault(own, list(getattr(network.get_submodule(path), own).shape))
        left = np.setdiff1d(np.arange(shape[dim]), np.concatenate(positions))
        kept[path][own][dim] = runs(left)
        shape[dim] = len(left)
    attributes: dict[str, dict[str, int]] = defaultdict(dict)
    for path, shapes in sizes.items():
        attributes[path] |= _numbers(network.get_submodule(path), shapes)
    for (path, name), number in following(network, coupling, stays).items():
        if (path, name) in coupling.numbers:
            attributes[path].setdefault(name, number)
    paths = [path for path, _ in network.named_modules() if path in kept or attributes.get(path)]
    return [
        Narrow(
            module=path,
            kept={name: [dims.get(dim) for dim in range(len(sizes[path][name]))] for name, dims in kept[path].items()},
            attributes=attributes[path],
        )
        for path in paths
    ]


def runs(positions: NDArray[np.int64]) -> list[list[int]]:
    """Ascending positions as runs, each from its first to before its last."""
    if not len(positions):
        return []
    breaks = np.flatnonzero(np.diff(positions) != 1)
    firsts, lasts = positions[[0, *(breaks + 1)]], positions[[*breaks, -1]]
    return [[first, last + 1] for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)]


def _numbers(module: nn.Module, shapes: Mapping[str, list[int]]) -> dict[str, int]:
    """What torch's own layers say of themselves, for tensors of these shapes."""
    if isinstance(module, _ConvNd) and "weight" in shapes:
        first, second = shapes["weight"][:2]
        if module.transposed:
            return {"in_channels": first, "out_channels": second * module.groups}
        groups = module.groups
        if groups > 1 and module.weight.shape[1] == 1:
            groups = first * groups // module.out_channels
        return {"in_channels": second * groups, "out_channels": first, "groups": groups}
    if isinstance(module, nn.Linear) and "weight" in shapes:
        return {"in_features": shapes["weight"][1], "out_features": shapes["weight"][0]}
    if isinstance(module, _NormBase):
        return {"num_features": next(iter(shapes.values()))[0]}
    if isinstance(module, nn.GroupNorm):
        channels = next(iter(shapes.values()))[0]
        return {"num_channels": channels, "num_groups": channels * module.num_groups // module.num_channels}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": shapes["weight"][1]}
    if isinstance(module, nn.MultiheadAttention) and "in_proj_weight" in shapes:
        return {"num_heads": shapes["in_proj_weight"][0] // (3 * module.head_dim)}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shapes["weight"][0]}
    return {}


def following(network: nn.Module, coupling: Coupling, stays: Stays) -> dict[tuple[str, str], int]:
    """Numbers of modules, by path and name, that their code may count positions by, and what they would be now.

    Looked for from the innermost module that was at work: the first that has numbers of that size. Where it has several
    and an operation was given as many, they are taken in their order.
    """
    found: dict[tuple[str, str], int] = {}
    for counts, where in coupling.counted:
        left = [
            sum(space < 0 or space not in stays or bool(stays[space][unit]) for space, unit in one) for one in where
        ]
        for size in {number for number, now in zip(counts.numbers, left, strict=True) if now != number}:
            now = [one for number, one in zip(counts.numbers, left, strict=True) if number == size]
            for path in reversed(counts.modules):
                module = network.get_submodule(path)
                names = [name for name, value in vars(module).items() if type(value) is int and value == size]
                if names:
                    each = now if len(now) == len(names) else [next(one for one in now if one != size)] * len(names)
                    found |= {(path, name): one for name, one in zip(names, each, strict=True)}
                    break
    return found
