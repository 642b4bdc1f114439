"""Weights of convolutions as the matrices whose rank counts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def matrix(weight: Tensor, view: str) -> Tensor:
    """A weight [outputs, inputs, ...] as [outputs, all else]; of `view: spatial`, if its kernel has two dimensions, as
    [inputs x height, outputs x width]."""
    if view == "channel" or weight.ndim < 4:
        return weight.flatten(1)
    n, c, kh, kw = weight.shape
    return weight.permute(1, 2, 0, 3).reshape(c * kh, n * kw)


def unmatrix(whole: Tensor, shape: Sequence[int], view: str) -> Tensor:
    """The weight of that shape whose matrix it is."""
    if view == "channel" or len(shape) < 4:
        return whole.reshape(*shape)
    n, c, kh, kw = shape
    return whole.reshape(c, kh, n, kw).permute(2, 0, 1, 3).contiguous()
