"""At most k groups of entries are not zero: structured pruning. A set is a view of the tensor times this rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dualprune.stages.constraints.select import CHUNK, largest, only

LONG = 64
"""Entries beside each other in memory, all of a group, from which on torch's own norm is fast on a CPU."""
Layout = tuple[tuple[int, ...], tuple[int, ...]]
"""How a tensor is seen: the shape it is reshaped to, and the axes of that shape that number the groups."""


def filters(shape: tuple[int, ...]) -> Layout:
    """A group is all weights of one output: a convolution's filter, a linear layer's row."""
    return (shape[0], math.prod(shape[1:])), (0,)


def channels(shape: tuple[int, ...]) -> Layout:
    """A group is all weights of one input: a convolution's input channel, a linear layer's column."""
    return (shape[0], shape[1], math.prod(shape[2:])), (1,)


def columns(shape: tuple[int, ...]) -> Layout:
    """A group is one column of a convolution's im2col matrix: one position in all filters."""
    return (shape[0], math.prod(shape[1:])), (1,)


def heads(shape: tuple[int, ...], count: int, parts: int = 1) -> Layout:
    """A group is one attention head's rows, in each of `parts` stacked projections (3 for fused q, k, v)."""
    rows = shape[0]
    if rows % (count * parts):
        raise ValueError(f"{rows} rows don't divide into {count} heads in {parts} parts")
    return (parts, count, rows // (count * parts), math.prod(shape[1:])), (1,)


def blocks(shape: tuple[int, ...], p: int, q: int) -> Layout:
    """A group is a p x q tile of the matrix (outputs) x (all else). Sides that don't divide are refused."""
    rows, cols = shape[0], math.prod(shape[1:])
    if rows % p or cols % q:
        raise ValueError(f"a matrix of {rows} x {cols} doesn't divide into tiles of {p} x {q}")
    return (rows // p, p, cols // q, q), (0, 2)


@dataclass(frozen=True)
class Groups:
    """S = {Z : at most k groups of Z are not all zero}.

    The projection keeps the k groups of largest Euclidean norm (exact: the group form of
    Zhang et al. 2018), and of equal ones the first. Norms are of fp32: beside larger groups, entries below 1e-23
    count as zero in them. `layout` maps the tensor's shape to its view.
    """

    k: int
    layout: Callable[[tuple[int, ...]], Layout]

    def project(self, w: Tensor) -> Tensor:
        """W with all but its k strongest groups set to zero. Raises ValueError on NaN."""
        seen, _ = self._view(w)
        return only(seen, self._strongest(w)).view(w.shape)

    def contains(self, z: Tensor) -> bool:
        """Whether at most k groups of z are not zero."""
        seen, within = self._view(z)
        return int(seen.count_nonzero(dim=within).count_nonzero()) <= self.k

    def mask(self, z: Tensor) -> Tensor:
        """1 in the kept groups, 0 elsewhere."""
        shape, _ = self.layout(tuple(z.shape))
        return self._strongest(z).expand(shape).reshape(z.shape).to(z.dtype)

    def most(self, shape: tuple[int, ...]) -> int:
        """k groups' entries."""
        sizes, axes = self.layout(shape)
        return min(self.k, math.prod(sizes[axis] for axis in axes)) * math.prod(
            size for axis, size in enumerate(sizes) if axis not in axes
        )

    def _view(self, w: Tensor) -> tuple[Tensor, list[int]]:
        """The tensor as it is seen, and the axes within a group."""
        shape, axes = self.layout(tuple(w.shape))
        return w.detach().reshape(shape), [axis for axis in range(len(shape)) if axis not in axes]

    def _norms(self, w: Tensor) -> Tensor:
        seen, within = self._view(w)
        # At least fp32, in which norms that differ by rounding alone count as they come out.
        kind = w.dtype if w.dtype in (torch.float32, torch.float64) else torch.float32
        norms = _euclidean(seen, within, kind)
        if kind == torch.float32 and not 1e-15 < float(norms.max()) < 1e18:  # squares under- or overflow
            norms = torch.linalg.vector_norm(seen, dim=within, dtype=torch.float64)
        return norms

    def _strongest(self, w: Tensor) -> Tensor:
        """Which groups are kept: of the view's shape, but 1 within a group."""
        shape, axes = self.layout(tuple(w.shape))
        spread = [size if axis in axes else 1 for axis, size in enumerate(shape)]
        return largest(self._norms(w).flatten(), self.k).view(spread)


def _euclidean(seen: Tensor, within: list[int], kind: torch.dtype) -> Tensor:
    """Euclidean norms over the axes `within`."""
    run = math.prod(seen.shape[axis] for axis in within if {*range(axis, seen.ndim)} <= {*within})
    if seen.device.type != "cpu" or run >= LONG:
        norms: Tensor = torch.linalg.vector_norm(seen, dim=within, dtype=kind)
        return norms
    # Else torch goes through memory in strides. Part by part, which stays in the cache, rows are added up first.
    parts = seen.split(max(1, CHUNK // max(1, math.prod(seen.shape[1:]))))
    if within[0] == 0:
        total = seen.new_zeros(seen.shape[1:], dtype=torch.float64)
        for part in parts:
            total += part.to(kind).square().sum(0)
        return _added(total.unsqueeze(0), within).sqrt().to(kind)
    return torch.cat([_added(part.to(kind).square(), within) for part in parts]).sqrt()


def _added(squares: Tensor, within: list[int]) -> Tensor:
    """Sums over these axes, one after the other, which are left with a size of 1."""
    for axis in within:
        squares = squares.sum(axis, keepdim=True)
    return squares
