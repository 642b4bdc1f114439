"""Scores along a sequence (Lanchantin et al. 2017, section 3.2, "temporal output values"): what a recurrent network
would say after its first steps alone, and by its last ones alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.saliency.outputs import checked

MOST = 128
"""Steps at which scores are told; of a longer sequence so many, evenly."""


class Along(NamedTuple):
    """Scores of n samples for their classes."""

    steps: tuple[int, ...]
    """Of the recurrent layer's, from 1 on; convolutions before it may have pooled the sequence."""
    all: int
    """Its steps in all."""
    forward: Tensor
    """By steps 1 to t: [n, steps]."""
    backward: Tensor
    """By steps t to the last: [n, steps]."""


def recurrent(network: nn.Module) -> nn.RNNBase | None:
    """The network's first recurrent layer, as far as it is one of torch's, or None."""
    return next((layer for layer in network.modules() if isinstance(layer, nn.RNNBase)), None)


@torch.no_grad()
def along(
    network: nn.Module, objective: Objective, batch: Batch, classes: Tensor, several: bool = False
) -> Along | str | None:
    """Scores of each sample's class as its sequence is read; None of a network that has no recurrent layer, and a
    sentence of one that can't be called with a part of its steps."""
    layer = recurrent(network)
    if layer is None:
        return None
    known = _Cut()
    try:
        with _hooked(layer, known):
            _scores(network, objective, batch, classes, several)
            steps = np.unique(np.linspace(1, known.steps, min(MOST, known.steps)).round().astype(int)).tolist()
            found: dict[str, list[Tensor]] = {"forward": [], "backward": []}
            for step in steps:
                known.part = slice(0, step)
                found["forward"].append(_scores(network, objective, batch, classes, several))
                known.part = slice(step - 1, None)
                found["backward"].append(_scores(network, objective, batch, classes, several))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        return f"no scores along the sequence: the network can't be called with a part of its steps ({reason})"
    return Along(tuple(steps), known.steps, *(torch.stack(found[way], 1) for way in ("forward", "backward")))


class _Cut:
    """Which steps go into a recurrent layer."""

    part = slice(None)
    steps = 0
    """Those that there are."""


@contextmanager
def _hooked(layer: nn.RNNBase, cut: _Cut) -> Iterator[None]:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not isinstance(args[0], Tensor):
            raise TypeError("its sequences are packed")
        axis = args[0].ndim - 2 if layer.batch_first else 0
        cut.steps = args[0].shape[axis] if cut.part == slice(None) else cut.steps
        return (args[0][(slice(None),) * axis + (cut.part,)], *args[1:])

    handle = layer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _scores(network: nn.Module, objective: Objective, batch: Batch, classes: Tensor, several: bool) -> Tensor:
    scores = checked(objective.call(network, batch), several)
    return scores.gather(1, classes[:, None].to(scores.device))[:, 0].cpu()
