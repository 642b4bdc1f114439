"""What rises and falls over one stage's ADMM: rho from near 0, and rates up to those that constraints give."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dualprune.stages.settings.sets import AnySet, Block, Cardinality, Grouped
from dualprune.stages.settings.training import Admm

SPAN = 1000.0
"""By what a geometric schedule multiplies rho in all."""


def weight(settings: Admm, ends: float) -> float:
    """rho between two updates of Z and U, of which the latter comes when a share `ends` (0, 1] of all steps is done.

    So rho is never 0, which U, that is divided as rho is multiplied, could not follow; and the last steps have all of
    it. What U stands for, rho U, the multiplier of W = Z, stays the same as rho rises; a residual counts in it by the
    rho that it was met with, so that the first updates, of hardly any rho, leave nearly nothing behind. (SAFE's code
    leaves U as it is, whose early residuals then count as much as late ones, and more as rho rises.)
    """
    if settings.rho_schedule == "cosine":
        return settings.rho * 0.5 * (1 - math.cos(math.pi * ends))
    if settings.rho_schedule == "linear":
        return settings.rho * ends
    return settings.rho * (SPAN ** (ends - 1) if settings.rho_schedule == "geometric" else 1.0)


def share(settings: Admm, kept: float, done: float) -> float:
    """What is kept once a share `done` of all steps is done, where it is to be `kept` in the end.

    kept + (1 / rate_from - kept) (1 - done / ramp)^3, as in gradual magnitude pruning (Zhu and Gupta 2017).
    """
    first = 1 / (settings.rate_from or 1)
    return kept + max(0.0, first - kept) * (1 - min(1.0, done / settings.ramp)) ** 3


def eased(constraints: Sequence[AnySet], settings: Admm, done: float) -> list[AnySet]:
    """A stage's constraints as they hold once a share `done` of ADMM's steps is done; in the end, as they are given."""
    if settings.rate_from is None or done >= settings.ramp:
        return list(constraints)
    return [
        one if kept is None else one.model_copy(update={"rate": None, "keep": share(settings, kept, done)})
        for one, kept in ((one, _kept(one)) for one in constraints)
    ]


def refusal(constraints: Sequence[AnySet], settings: Admm | None) -> str | None:
    """Why constraints can't be reached gradually, if `rate_from` asks for that; None where they can."""
    if settings is None or settings.rate_from is None:
        return None
    if any(isinstance(one, Grouped) and one.coupled for one in constraints):
        return "`rate_from` can't be had of `coupled` constraints; leave one of the two out"
    if any(kept is not None and kept * settings.rate_from < 1 for kept in map(_kept, constraints)):
        return None
    return f"no constraint's `rate` or `keep` is beyond a rate of {settings.rate_from:g}, `rate_from`; lower that"


def _kept(one: AnySet) -> float | None:
    """The share that a constraint keeps, of those that say it as one."""
    if not isinstance(one, Cardinality | Grouped | Block):
        return None
    return 1 / one.rate if one.rate is not None else one.keep
