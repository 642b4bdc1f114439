"""Residual blocks of a network: modules that may be gone, for what they give is of the shape of what they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dualprune.stages.networks.parameters import parameters, weights


def blocks(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """Modules in a row of modules, with several weights, whose output is of the shape of their first input."""
    rows = (nn.Sequential, nn.ModuleList)
    able = [
        path
        for path, module in network.named_modules()
        if path
        and isinstance(network.get_submodule(path.rpartition(".")[0]), rows)
        and len([p for p in module.parameters() if p.ndim > 1]) > 1
    ]
    shapes: dict[str, bool] = {}
    _watched(network, args, kwargs, able, lambda path, given, out: shapes.update({path: _same(given, out)}))
    found = [path for path, same in shapes.items() if same]
    return sorted(path for path in found if not any(other.startswith(f"{path}.") for other in found))


def closed(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """Blocks in which all of a weight is zero."""
    every = {path: network.get_submodule(path) for path in blocks(network, args, kwargs)}
    return [
        path
        for path, block in every.items()
        if not all(block.get_parameter(name).any() for name in weights(parameters(block)))
    ]


def idle(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], paths: Sequence[str]) -> list[str]:
    """Of modules at these paths, those that give just what they are given: their first input."""
    found = []

    def looked(path: str, given: tuple[Any, ...], out: Any) -> None:
        if _same(given, out) and torch.equal(given[0], out):
            found.append(path)

    _watched(network, args, kwargs, paths, looked)
    return found


def _watched(
    network: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    paths: Iterable[str],
    look: Callable[[str, tuple[Any, ...], Any], None],
) -> None:
    """Run a network, and look at what modules at these paths are given in order, and give."""
    handles = [
        network.get_submodule(path).register_forward_hook(lambda _, given, out, path=path: look(path, given, out))
        for path in paths
    ]
    try:
        with torch.no_grad():
            network(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()


def _same(given: tuple[Any, ...], out: Any) -> bool:
    first = given[0] if given else None
    return isinstance(first, Tensor) and isinstance(out, Tensor) and first.shape == out.shape
