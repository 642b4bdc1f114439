"""What the tests of cutting share: a cut at random that has to be exact."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from dualprune.stages.coupling.cut import Cut, cut
from dualprune.stages.coupling.proof import difference, drawn, outputs, silenced
from dualprune.stages.networks.structure import Structure


def exact(network: nn.Module, *args: Any, **kwargs: Any) -> Cut:
    """What can go of a network: half of it is taken out, and gives what the masked network does, of another batch."""
    network = network.eval()
    found = cut(network, args, kwargs)
    draw = np.random.default_rng(5)
    stays = {number: drawn(space, draw) for number, space in enumerate(found.spaces)}
    compact = Structure(edits=[*found.edits(stays)]).apply(copy.deepcopy(network))
    masked = silenced(copy.deepcopy(network), found.spaces, stays)
    torch.manual_seed(1)
    args = tuple(torch.cat([torch.randn_like(one) if one.is_floating_point() else one] * 2) for one in args)
    kwargs = {key: torch.cat([one] * 2) if isinstance(one, torch.Tensor) else one for key, one in kwargs.items()}
    with torch.no_grad():
        apart = [
            difference(one, other)
            for one, other in zip(outputs(masked(*args, **kwargs)), outputs(compact(*args, **kwargs)), strict=True)
        ]
    assert max(apart) < 1e-4
    assert sum(one.numel() for one in compact.parameters()) < sum(one.numel() for one in network.parameters())
    return found


def units(found: Cut) -> dict[str, int]:
    """Units of each space, by what it goes by."""
    return {space.name: space.size for space in found.spaces}
