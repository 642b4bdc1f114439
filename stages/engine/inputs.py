"""Mean squares of what layers are given in training, by the names of their weights: what `weigh: activation` goes by.

    S = d S + sum of x^2,  n = d n + rows,  X = S / n      at each step, over its micro-batches and ranks

x is one input of a layer in one row: of a linear layer a number of its last dimension, of a convolution what a place of
its kernel sees, padding as it is. X is the diagonal of A^T A of its inputs A over the last 1 / (1 - d) steps or so, as
in Wanda (Sun et al. 2023), which takes it of samples without training. Each rank keeps S and n of its own samples till
X is asked for: what it keeps is saved as its buffers are, and averaged where those are, which leaves X as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from dualprune.stages.engine.ranks import summed
from dualprune.stages.engine.weighing import DECAY

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class NeverCalled(ValueError):
    """A layer whose inputs were to be looked at, and that no sample has come to."""


def refusal(layer: nn.Module) -> str | None:
    """Why a layer's weights don't each belong to one input of it, in a few words; None where they do."""
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "a part of MultiheadAttention, which uses its weight and never calls it"
    return None if isinstance(layer, (nn.Linear, *CONVOLUTIONS)) else f"type {type(layer).__name__}"


class Inputs:
    """What is known of layers' inputs on this rank; of no layers, nothing is done."""

    def __init__(self, layers: Mapping[str, nn.Module], world: int, device: torch.device) -> None:
        """`layers` by the names of their weights. Hooks are on them from now on, and look while `looking`."""
        self.layers, self.world = layers, world
        self.sums = {name: torch.zeros(_inputs(layer) + 1, device=device) for name, layer in layers.items()}
        """[inputs + 1]: S of each, then n."""
        self.following = False
        """Whether steps change it."""
        self._counts = False
        self._where: Tensor | None = None
        self._hooks = [
            layer.register_forward_pre_hook(self._hook(name), with_kwargs=True) for name, layer in layers.items()
        ]

    @contextmanager
    def looking(self, counts: bool, where: Tensor | None = None) -> Iterator[None]:
        """Look at what layers are given within, if it `counts`; of sequences only where bool `where` [n, t] says so."""
        self._counts, self._where = counts and self.following, where
        try:
            yield
        finally:
            self._counts, self._where = False, None

    def close_step(self) -> None:
        """An optimizer step is over: what was seen till now counts less."""
        if self.following and self.sums:
            torch._foreach_mul_(list(self.sums.values()), DECAY)

    def squares(self, name: str, shape: torch.Size) -> Tensor:
        """X of each entry of a weight of that shape, over all ranks: on all of them together. Raises NeverCalled."""
        every = summed(self.sums[name].clone())
        if not bool(every[-1]):
            text = f"{name}: its layer was never called in training, so there are no inputs to weigh it by"
            raise NeverCalled(f"{text}; leave it out, or `weigh: activation`")
        groups = getattr(self.layers[name], "groups", 1)
        found = (every[:-1] / every[-1]).view(groups, 1, -1)
        return found.repeat(1, shape[0] // groups, 1).view(shape)

    def close(self) -> None:
        """Leave the layers alone from now on."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        def look(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._counts:
                self._add(name, layer, args[0] if args else named["input"])

        return look

    @torch.no_grad()
    def _add(self, name: str, layer: nn.Module, given: Tensor) -> None:
        """As if all ranks had seen what this one has, so that the ranks' average is that of the whole batch."""
        if isinstance(layer, _ConvNd):
            squares, rows = _seen(layer, given)
        else:
            where = self._where
            padded = where is not None and given.ndim == where.ndim + 1 and given.shape[:2] == where.shape
            flat = given[where] if padded else given.reshape(-1, given.shape[-1])
            squares, rows = flat.float().square().sum(0), len(flat)
        own = self.sums[name]
        own[:-1].add_(squares.flatten(), alpha=self.world)
        own[-1] += self.world * rows


def _inputs(layer: nn.Module) -> int:
    """How many numbers make up a row of a layer's inputs."""
    if isinstance(layer, _ConvNd):
        return layer.in_channels * math.prod(layer.kernel_size)
    assert isinstance(layer, nn.Linear), f"{layer}: {refusal(layer)}"
    return layer.in_features


def _seen(layer: _ConvNd, given: Tensor) -> tuple[Tensor, int]:
    """Sums of squares of what each place of a convolution's kernel sees, [channels, *kernel], and of how many rows.

    Samples are added up first: what is unfolded is as one of them.
    """
    sides = len(layer.kernel_size)
    samples = given.reshape(-1, *given.shape[-sides - 1 :])
    # In the order of memory, in which torch adds up several times as fast, whatever the order of channels is.
    order = sorted(range(1, samples.ndim), key=samples.stride, reverse=True)
    summed_up = samples.permute(0, *order).float().square().sum(0, keepdim=True)
    whole = summed_up.permute(0, *(order.index(dim) + 1 for dim in range(1, samples.ndim)))
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        seen = F.pad(whole, [size for size in reversed(layer.padding) for _ in range(2)])[0]
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        seen = F.pad(whole, layer._reversed_padding_repeated_twice, mode=mode)[0]
    for dim, (size, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), start=1
    ):
        seen = seen.unfold(dim, (size - 1) * dilation + 1, stride)[..., ::dilation]
    places = tuple(range(1, sides + 1))
    return seen.sum(places), len(samples) * math.prod(seen.shape[1 : sides + 1])
