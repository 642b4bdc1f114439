"""ADMM's updates between stretches of training, in the papers' letters and the scaled form.

    min f(W) + g(Z)  subject to  W = Z,     g the indicator of the constraint sets

    W:  train on f(W) + rho/2 |W - Z + U|^2          (stages.train, stages.optimizer)
    Z:  Z = Proj(W + U)
    U:  U = U + W - Z

Zhang et al. 2018, eqs. 3 to 5; the start is Z = Proj(W), with U = 0 or carried from the parent.
Tensors are walked one at a time, so that no rank holds more than one of them whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from stages.constraints import Constraint
from stages.engine import Engine


@dataclass(frozen=True)
class Residual:
    """|W - Z| / |W| of each tensor and of all together."""

    tensors: dict[str, float]
    total: float


def start(engine: Engine, sets: Mapping[str, Constraint], duals: Mapping[str, torch.Tensor]) -> None:
    """Z = Proj(W), and U from `duals`, or 0 where it has none."""
    for name, constraint in sets.items():
        w = engine.get(name)
        u = duals[name].to(w) if name in duals else torch.zeros_like(w)
        z = constraint.project(w)
        engine.set(name, z - u, "target")
        engine.set(name, u, "dual")


def update(engine: Engine, sets: Mapping[str, Constraint], growth: float) -> Residual:
    """Z = Proj(W + U), U = U + W - Z, then U / growth, as rho is about to grow by that factor."""
    primal: dict[str, tuple[float, float]] = {}
    for name, constraint in sets.items():
        w, u = engine.get(name), engine.get(name, "dual")
        z = constraint.project(w + u)
        u = (u + w - z) / growth
        engine.set(name, z - u, "target")
        engine.set(name, u, "dual")
        primal[name] = (float((w - z).double().square().sum()), float(w.double().square().sum()))
    return _residual(primal)


def project(engine: Engine, sets: Mapping[str, Constraint]) -> Residual:
    """The one final projection: W = Proj(W), and its hold. Says how far W was from it.

    Masks come from |W|, not from |W + U| (Zhang et al. 2018, section 4.3), and lie within masks
    that are in force already.
    """
    primal: dict[str, tuple[float, float]] = {}
    for name, constraint in sets.items():
        w = engine.get(name)
        z = constraint.project(w)
        engine.set(name, z)
        engine.set(name, constraint.hold(z) * engine.get(name, "hold"), "hold")
        primal[name] = (float((w - z).double().square().sum()), float(w.double().square().sum()))
    return _residual(primal)


def _residual(primal: dict[str, tuple[float, float]]) -> Residual:
    def ratio(distance: float, size: float) -> float:
        return (distance / size) ** 0.5 if size else 0.0

    total = ratio(sum(d for d, _ in primal.values()), sum(s for _, s in primal.values()))
    return Residual({name: ratio(*pair) for name, pair in primal.items()}, total)
