"""Saliency maps: the gradient of a class's score by the input (Simonyan et al. 2014; Lanchantin et al. 2017, 3.1).

The score is the output itself, before any softmax. The gradient says where a small change would matter; times the
input, what is there speaks for the class (positive) or against it (negative).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.saliency.inputs import Input, Network


class Maps(NamedTuple):
    """Of n samples."""

    scores: Tensor
    """[n, k]."""
    input: Tensor
    """What the gradient is by, as the network has it."""
    gradient: Tensor
    """Of each sample's class by the input, in its shape."""
    product: Tensor
    """Gradient x input, added up over channels or letters: [n, h, w] or [n, t]."""
    strength: Tensor
    """The largest gradient of each place's channels or letters, without its sign: the same shape."""


def maps(
    network: Network, objective: Objective, batch: Batch, of: Input, classes: Tensor, several: bool = False
) -> Maps:
    """Maps of each sample of a batch for its class of `classes` [n]. Weights get no gradients."""
    scores, leaf = of.called(network, objective, batch, several=several)
    chosen = scores.gather(1, classes[:, None].to(scores.device)).sum()
    (gradient,) = torch.autograd.grad(chosen, leaf)
    input = leaf.detach()
    product = of.places(gradient * input)
    return Maps(scores.detach(), input, gradient, product, gradient.abs().amax(of.axis))
