"""After ADMM, weights take their shared values: some of them at a time, or all at once with means that train on.

Iterative quantise-and-retrain and centroid training of Ye et al. 2018b, Algs. 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dualprune.stages.constraints.combined import Combined
from dualprune.stages.constraints.values import SharedValues, nearest
from dualprune.stages.engine.engine import Engine
from dualprune.stages.solver.targets import Targets

Values = dict[str, list[float]]
"""The list of shared values of each tensor."""


def fit(engine: Engine, targets: Targets) -> Values:
    """Put weights into the sets that come before the values' own (N:M, say), and fit each tensor's values."""
    found: Values = {}
    for name, constraint in targets.sets.items():
        before, shared = _split(constraint)
        w, mask = engine.get(name), engine.get(name, "mask")
        for one in before:
            w = one.project(w)
            mask = mask * one.mask(w)
        w = w * (mask != 0)
        engine.set(name, w)
        engine.set(name, mask, "mask")
        found[name] = [float(value) for value in shared.values(w)]
    return found


def snap(engine: Engine, values: Mapping[str, list[float]], share: float | None) -> None:
    """Set the given fraction of each level's free weights to the level, nearest first, and freeze them; None: all."""
    for name, levels in values.items():
        w, mask = engine.get(name), engine.get(name, "mask")
        if not levels:  # all of it is zero, and stays so
            engine.set(name, torch.zeros_like(mask), "mask")
            continue
        z = nearest(torch.tensor(levels, dtype=torch.float64, device=w.device), w.double()).to(w.dtype)
        chosen = mask != 0 if share is None else _closest(w, z, mask != 0, share)
        engine.set(name, torch.where(chosen, z, w))
        engine.set(name, torch.where(chosen, torch.zeros_like(mask), mask), "mask")


def tie_values(engine: Engine, values: Mapping[str, list[float]]) -> int:
    """Put every weight on its value, and number the clusters in the targets. Returns how many there are."""
    count = 0
    for name, levels in values.items():
        w, mask = engine.get(name), engine.get(name, "mask")
        if not levels:  # all of it is zero, and in no cluster
            for state in ("target", "mask"):
                engine.set(name, torch.zeros_like(mask), state)
            continue
        table = torch.tensor(levels, dtype=torch.float64, device=w.device)
        z = nearest(table, w.double())
        code = torch.searchsorted(table, z.flatten()).view(w.shape) + 1 + count
        free = (mask != 0) & (w != 0)
        engine.set(name, torch.where(free, z.to(w.dtype), torch.zeros_like(w)))
        engine.set(name, torch.where(free, code.to(mask.dtype), torch.zeros_like(mask)), "target")
        engine.set(name, free, "mask")
        count += len(levels)
    return count


def settle(engine: Engine, targets: Targets) -> None:
    """Freeze every weight where it is: the shared values are trained."""
    for name in targets.names:
        engine.set(name, torch.zeros(engine.shape(name)), "mask")


def storage(network: Mapping[str, Tensor], kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Bits that constrained tensors need: of the values alone, and with their places. `kinds` are their sets' names.

    A tensor's value takes as many bits as number its levels; a place, the least that any fixed width gives for
    the number of zeros before it, in row-major order. The highest number has no value after it: where as many zeros or
    more lie between two values, it comes first, as often as it takes. (Han et al. 2016, section 2, put padding zeros
    there that are stored like values, which takes a code for zero.) The levels themselves are not counted.
    """
    tensors = {name: _stored(network[name], sets) for name, sets in kinds.items()}
    full = 32 * sum(network[name].numel() for name in kinds)
    data, total = (sum(t[what] for t in tensors.values()) for what in ("data_bits", "total_bits"))
    return {
        "data_bits": data,
        "total_bits": total,
        "data_rate": full / data if data else None,
        "total_rate": full / total if total else None,
        "tensors": tensors,
    }


def whole(
    network: Mapping[str, Tensor], weights: Collection[str], kinds: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """A network's weights, whether a stage constrains them or not: how many there are, how many are not zero, and the
    bytes of all its tensors: weights as `storage` has them where that is less, everything else as it is.

    `network` is tensors by name, buffers among them; `weights` are those that could be constrained, and `kinds` the
    sets' names of those that are.
    """
    size = sum(network[name].numel() for name in weights)
    left = {name: int(torch.count_nonzero(network[name])) for name in weights}
    dense = {name: tensor.numel() * tensor.element_size() for name, tensor in network.items()}
    stored = dict(dense)
    for name, there in left.items():
        sets = kinds.get(name, ())
        if there < network[name].numel() or _shared(sets):
            stored[name] = min(dense[name], math.ceil(_stored(network[name], sets)["total_bits"] / 8))
    nonzeros = sum(left.values())
    return {
        "network_rate": size / nonzeros if nonzeros else None,
        "network_weights": size,
        "network_nonzeros": nonzeros,
        "bytes": sum(stored.values()),
        "dense_bytes": sum(dense.values()),
    }


def _shared(sets: Sequence[str]) -> bool:
    return bool(sets) and sets[-1] in ("levels", "clusters")


def _stored(tensor: Tensor, sets: Sequence[str]) -> dict[str, int]:
    """Bits of one tensor, as `storage` counts them."""
    w = tensor.flatten()
    there = (w != 0).nonzero().flatten()
    values = len(torch.unique(w[there])) if _shared(sets) else 0
    bits = max(1, math.ceil(math.log2(max(1, values)))) if _shared(sets) else 32
    gaps = torch.diff(there, prepend=torch.tensor([-1])) - 1
    widths = {
        width: len(there) * (width + bits) + int((gaps // (2**width - 1)).sum()) * width for width in range(1, 17)
    }
    width = min(widths, key=lambda width: widths[width])
    dense = len(there) == len(w)
    return {
        "bits": bits,
        "data_bits": len(there) * bits,
        "index_width": 0 if dense else width,
        "total_bits": len(there) * bits if dense else widths[width],
    }


def _split(constraint: Any) -> tuple[tuple[Any, ...], SharedValues]:
    sets = constraint.sets if isinstance(constraint, Combined) else (constraint,)
    assert isinstance(sets[-1], SharedValues), "stages.solver.targets lets no other set into a quantize stage"
    return sets[:-1], sets[-1]


def _closest(w: Tensor, z: Tensor, free: Tensor, share: float) -> Tensor:
    """Of the free weights of each level, the share that is nearest to it; at least one."""
    distance = (w - z).abs()
    chosen = torch.zeros_like(free)
    for level in torch.unique(z[free]):
        members = (free & (z == level)).flatten().nonzero().flatten()
        order = torch.sort(distance.flatten()[members], stable=True).indices
        chosen.view(-1)[members[order[: math.ceil(share * len(members))]]] = True
    return chosen
