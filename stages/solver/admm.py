"""ADMM's updates between phases of training, in the papers' letters and the scaled form.

    min f(W) + g(Z)  subject to  W = Z,     g the indicator of the constraint sets

    W:  train on f(W) + rho/2 |W - Z + U|^2          (stages.training.step, stages.engine.proximal)
    Z:  Z = Proj(W + U)
    U:  U = U + W - Z

Zhang et al. 2018, eqs. 3 to 5; the start is Z = Proj(W), with U = 0 or carried from the parent.
Tensors are walked one at a time, so that no rank holds more than one of them whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from dualprune.stages.constraints import Constraint
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.weighted import Weighted
from dualprune.stages.engine.state import portions
from dualprune.stages.engine.weighing import WAYS
from dualprune.stages.settings.training import Penalty
from dualprune.stages.solver import coupled
from dualprune.stages.solver.budget import allocate
from dualprune.stages.solver.targets import Targets


class Tensors(Protocol):
    """Whole tensors of a network by name, whatever is sharded where. All ranks call in the same order."""

    def get(self, name: str, state: str | None = None) -> Tensor:
        """The parameter `name` as a new tensor, or its state `state`: `target` (Z - U), `dual` (U), `mask` or, if
        projections are weighed, what they are weighed by, by its name in `WAYS`."""
        ...

    def set(self, name: str, value: Tensor, state: str | None = None) -> None:
        """Put a whole tensor in the place of what `get` gives; a target before its dual."""
        ...

    def rescale(self, factor: float) -> None:
        """U / factor, where Z stays, of all tensors."""
        ...


@dataclass(frozen=True)
class Residual:
    """Convergence: |W - Z| / |W| of each tensor and of all, and |Z - Z before| / |W| of all."""

    tensors: dict[str, float]
    total: float
    change: float


@dataclass(frozen=True)
class Update:
    """What an update, or the final projection, found."""

    residual: Residual
    kept: dict[str, int]
    """Entries that a global budget gave to each of its tensors."""
    peak_bytes: int
    """Peak memory of allocating global budgets on this rank."""


LONGEST = 1 << 30
"""Numbers that are multiplied at a time: a GPU's `dot` takes less than 2^31."""

Watch = Callable[[str, Tensor, Tensor, Tensor], None]
"""Looks at each tensor at an update: its name, W, Z, and Z before."""


def unseen(name: str, w: Tensor, z: Tensor, before: Tensor) -> None:
    """Where nobody looks."""


def start(tensors: Tensors, targets: Targets, duals: Mapping[str, Tensor]) -> None:
    """Z = Proj(W), and U from `duals`, or 0 where it has none."""
    sets, _, _ = _resolved(tensors, targets, tensors.get)
    for name, constraint in sets.items():
        w = tensors.get(name)
        u = duals[name].to(w) if name in duals else torch.zeros_like(w)
        z = constraint.project(w)
        tensors.set(name, z - u, "target")
        tensors.set(name, u, "dual")


def update(tensors: Tensors, targets: Targets, watch: Watch = unseen) -> Update:
    """Z = Proj(W + U), U = U + W - Z; `watch` looks at each tensor."""
    sets, kept, peak = _resolved(tensors, targets, lambda name: tensors.get(name) + tensors.get(name, "dual"))
    sums: dict[str, tuple[float, float, float]] = {}
    for name, constraint in sets.items():
        w, u = tensors.get(name), tensors.get(name, "dual")
        before = tensors.get(name, "target").add_(u)
        total = w + u
        z = constraint.project(total)
        u = total - z
        tensors.set(name, z - u, "target")
        tensors.set(name, u, "dual")
        sums[name] = (_apart(w, z), _square(w), _apart(z, before))
        watch(name, w, z, before)
    return Update(_residual(sums), kept, peak)


def rescale(tensors: Tensors, targets: Targets, factor: float) -> None:
    """U / factor, as rho is about to be multiplied by `factor`: the unscaled dual rho U stays."""
    if factor == 1.0:
        return
    tensors.rescale(factor)


def balance(residual: Residual) -> float:
    """The factor on rho that brings both residuals nearer to each other.

    After Boyd et al. 2011, section 3.4.1, whose dual residual has rho as a factor: here both are relative to |W|.
    """
    if residual.total > 10 * residual.change:
        return 2.0
    return 0.5 if residual.change > 10 * residual.total else 1.0


def advance(
    tensors: Tensors, targets: Targets, rho: float, penalty: Penalty, watch: Watch = unseen
) -> tuple[Residual, float]:
    """Update Z and U, and rescale U for the rho that comes next: the residual, and that rho."""
    residual = update(tensors, targets, watch).residual
    factor = balance(residual) if penalty.rho_balance else penalty.rho_growth
    rescale(tensors, targets, factor)
    return residual, rho * factor


def project(tensors: Tensors, targets: Targets) -> Update:
    """The one final projection: W = Proj(W), and its mask. Says how far W was from it.

    Masks come from |W|, not from |W + U| (Zhang et al. 2018, section 4.3), and lie within masks
    that are in force already.
    """
    sets, kept, peak = _resolved(tensors, targets, tensors.get)
    sums: dict[str, tuple[float, float, float]] = {}
    for name, constraint in sets.items():
        w = tensors.get(name)
        z = constraint.project(w)
        tensors.set(name, z)
        tensors.set(name, constraint.mask(z) * tensors.get(name, "mask"), "mask")
        sums[name] = (_apart(w, z), _square(w), 0.0)
    return Update(_residual(sums), kept, peak)


def put(tensors: Tensors, targets: Targets) -> None:
    """W = Proj(W), and nothing else: for as long as a gradient is taken there."""
    sets, _, _ = _resolved(tensors, targets, tensors.get)
    for name, constraint in sets.items():
        tensors.set(name, constraint.project(tensors.get(name)))


def _resolved(
    tensors: Tensors, targets: Targets, value: Callable[[str], Tensor]
) -> tuple[dict[str, Constraint], dict[str, int], int]:
    """Sets by tensor, with each budget shared out by the tensors that are about to be projected: what `value` gives."""

    def weights(name: str) -> Tensor:
        assert targets.weigh is not None
        return WAYS[targets.weigh].weights(tensors.get(name, targets.weigh))

    def score(name: str) -> Tensor:
        return value(name) if targets.weigh is None else value(name).abs() * weights(name)

    sets = dict(targets.sets)
    kept: dict[str, int] = {}
    peak = 0
    for budget in targets.budgets:
        allocation = allocate(budget, score)
        kept |= allocation.kept
        peak = max(peak, allocation.peak_bytes)
    sets |= {name: Cardinality(k) for name, k in kept.items()}
    if targets.coupled:
        sets |= coupled.slices(targets.coupled, coupled.stays(targets.coupled, score), targets.parameters)
    if targets.weigh is not None:
        sets = {name: Weighted(one, partial(weights, name)) for name, one in sets.items()}
    return {name: sets[name] for name in targets.names}, kept, peak


def _square(x: Tensor) -> float:
    return _summed(_dot(part.double()) for (part,) in portions(x))


def _apart(x: Tensor, y: Tensor) -> float:
    """|x - y|^2."""
    return _summed(_dot((one - other).double()) for one, other in portions(x, y))


def _dot(x: Tensor) -> Tensor:
    return torch.stack([torch.dot(part, part) for part in x.flatten().split(LONGEST)]).sum()


def _summed(parts: Iterable[Tensor]) -> float:
    return float(torch.stack(list(parts)).sum())


def _residual(sums: Mapping[str, tuple[float, float, float]]) -> Residual:
    def ratio(distance: float, size: float) -> float:
        return (distance / size) ** 0.5 if size else 0.0

    size = sum(s for _, s, _ in sums.values())
    return Residual(
        {name: ratio(distance, own) for name, (distance, own, _) in sums.items()},
        ratio(sum(distance for distance, _, _ in sums.values()), size),
        ratio(sum(change for _, _, change in sums.values()), size),
    )
