"""ADMM in a training loop of a user's own, by the pipeline's solver.

pruner = dualprune.Pruner(model, constraints=[dualprune.cardinality("*", rate=10)], rho=2e-3)
optimizer = pruner.wrap(optimizer)
... train, with pruner.update() every few steps or epochs ...
pruner.project()
... retrain: what was pruned stays zero ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dualprune.stages.constraints import SETS
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.library.sets import refused
from dualprune.stages.library.shrink import cut_of
from dualprune.stages.library.steps import Steps
from dualprune.stages.library.tensors import ModuleTensors, rest
from dualprune.stages.library.wrappers import bare, plain
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.sets import AnySet, Pattern
from dualprune.stages.settings.training import Penalty
from dualprune.stages.solver import admm
from dualprune.stages.solver.admm import Residual
from dualprune.stages.solver.targets import Targets, ranked, targets

Phase = Literal["new", "admm", "retrain"]
"""Before `wrap`, until `project`, and after it."""


class Pruner:
    """Holds a network's weights to constraint sets, in a loop of the user's own.

    All ranks call its methods together, between optimizer steps.
    """

    def __init__(
        self,
        model: nn.Module,
        constraints: Sequence[AnySet],
        rho: float,
        *,
        rho_growth: float = 1.0,
        rho_balance: bool = False,
        masks: Mapping[str, Tensor] | None = None,
        inputs: Any = None,
    ) -> None:
        """`model` is the network, or what DDP or `torch.compile` made of it; on its device and sharded, if it is to be.

        `rho` weighs the penalty rho/2 |W - Z + U|^2; `rho_growth` and `rho_balance` are those of a stage's `admm`.
        `masks` by tensor, such as an earlier pruner's, are in force from the first step on. `inputs`, which `coupled`
        sets need, is what the model is called with, by which it is followed: a tensor, a tuple of arguments, or a
        mapping of named ones. Raises ValueError for settings that make no sense, and SpecError (one too) where
        constraints don't fit the network.
        """
        try:
            self.penalty = Penalty(rho=rho, rho_growth=rho_growth, rho_balance=rho_balance)
        except ValidationError as error:
            raise refused(error) from None
        self.module = plain(model)
        rest(self.module)
        shapes = {name: p.shape for name, p in self.module.named_parameters() if p.is_floating_point()}
        self.constraints = list(constraints)
        self.targets = _targets(self.constraints, self.module, inputs)
        self.rho = self.penalty.rho
        """The penalty's present weight."""
        self.phase: Phase = "new"
        self.updates = 0
        """How often Z and U were updated."""
        self._given = _checked(masks or {}, shapes)
        names = [*self.targets.names, *(name for name in self._given if name not in self.targets.kinds)]
        self._tensors = ModuleTensors(self.module, names, self.targets.names, self.targets.valued)
        self._steps = Steps(self._tensors, self.targets.names)

    def wrap(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """From now on the optimizer's `step` adds the penalty, and keeps at zero what is masked. Returns the optimizer.

        The first call starts ADMM: Z = Proj(W), U = 0. Raises ValueError for one that trains no constrained tensor.
        """
        self._steps.attach(bare(optimizer))
        self._begin()
        return optimizer

    def unwrap(self) -> None:
        """Let the optimizers be what they were: steps know of no penalty and no masks any more."""
        self._steps.detach()

    def update(self) -> Residual:
        """Z = Proj(W + U), U = U + W - Z; then rho grows as the settings say. How far W is from Z, and Z from before.

        Raises RuntimeError before `wrap` and after `project`; ValueError for weights that are NaN or are not trained.
        """
        if self.phase != "admm":
            why = "no optimizer is wrapped yet" if self.phase == "new" else "the weights are projected already"
            raise RuntimeError(f"there is nothing to update: {why}")
        if left := set(self.targets.names) - self._steps.names:
            raise ValueError(
                f"constrained, but in no optimizer that is wrapped: {', '.join(sorted(left))}; wrap each optimizer of"
                " the model, and leave out tensors that are not trained"
            )
        rest(self.module)
        with self._naming():
            residual, self.rho = admm.advance(self._tensors, self.targets, self.rho, self.penalty)
        self.updates += 1
        self._enter("admm")
        return residual

    def project(self) -> Residual:
        """Put the weights into their sets, once: W = Proj(W), and masked from now on. How far they were from it.

        Optimizers forget momentum and step counts, as at the end of a stage's ADMM. Without an update before it, this
        is magnitude pruning. Raises RuntimeError the second time, and ValueError for weights that are NaN.
        """
        if self.phase == "retrain":
            raise RuntimeError("the weights are projected already; to prune further, make another Pruner with `masks`")
        self._begin()
        rest(self.module)
        with self._naming():
            residual = admm.project(self._tensors, self.targets).residual
        self._enter("retrain")
        self._steps.forget()
        return residual

    @property
    def masks(self) -> dict[str, Tensor]:
        """Whole masks by tensor, true where a weight may be other than zero. Before `project`, those that were given.

        A tensor of low rank has none; one on shared values has its non-zeros.
        """
        if self.phase != "retrain":
            return {name: mask.bool() for name, mask in self._given.items()}
        rest(self.module)
        fixed, kinds = self._fixed(), self.targets.kinds
        supports = {name for name in fixed if SETS[kinds[name][-1]].place is not None}
        return {
            name: self._tensors.get(name, None if name in fixed else "mask") != 0
            for name in self._tensors.parameters
            if name not in fixed or name in supports
        }

    def sparsity(self) -> dict[str, float]:
        """The share of each constrained tensor's weights that is zero now."""
        return {name: 1 - left / size for name, (left, size) in self._counts().items()}

    @property
    def rate(self) -> float:
        """Weights of all constrained tensors over those that are not zero now; infinity where none is left."""
        counts = self._counts().values()
        left = sum(one for one, _ in counts)
        return sum(size for _, size in counts) / left if left else float("inf")

    def state_dict(self) -> dict[str, Any]:
        """All that a loop needs to go on, beside what model and optimizer say themselves.

        Whole tensors on the CPU, and plain values: `torch.load` reads it with `weights_only=True`.
        """
        rest(self.module)
        lowrank = {name: one for name, one in self.targets.sets.items() if isinstance(one, LowRank)}
        tensors = {}
        for name in [] if self.phase == "new" else self._tensors.parameters:
            tensors[name] = {key: self._tensors.get(name, key).cpu() for key in self._tensors.kept(name)}
        return {
            "constraints": [one.model_dump() for one in self.constraints],
            "phase": self.phase,
            "rho": self.rho,
            "updates": self.updates,
            "ranks": {name: one.rank for name, one in lowrank.items()},
            "masked": sorted(self._given),
            "tensors": tensors,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave, before or after `wrap`, once the model has its weights of that time.

        Raises ValueError for the state of other constraints, or of another network.
        """
        if state["constraints"] != [one.model_dump() for one in self.constraints]:
            raise ValueError(f"the state is of other constraints: {state['constraints']}")
        if state["masked"] != sorted(self._given):
            raise ValueError(f"the state is of a pruner with masks of {', '.join(state['masked']) or 'nothing'}")
        _check_state(state["tensors"], {name: p.shape for name, p in self._tensors.parameters.items()})
        for name, values in state["tensors"].items():
            self._tensors.restore(name, values)
        sets: dict[str, Any] = dict(self.targets.sets)
        for name, rank in state["ranks"].items():
            if rank is not None:
                sets[name] = replace(sets[name], rank=rank, energy=None)
        self.targets = replace(self.targets, sets=sets)
        self.rho, self.updates = state["rho"], state["updates"]
        self._enter(state["phase"])

    def _begin(self) -> None:
        """Start ADMM, if it has not started: masks on the weights, Z = Proj(W), U = 0."""
        if self.phase != "new":
            return
        rest(self.module)
        tensors = self._tensors
        for name in tensors.parameters:
            w = tensors.get(name)
            mask = self._given[name].to(w) if name in self._given else torch.ones_like(w)
            tensors.set(name, mask, "mask")
            if name in self._given:
                tensors.set(name, w * mask)
        self.targets = ranked(self.targets, tensors.get)
        admm.start(tensors, self.targets, {})
        self._enter("admm")

    def _enter(self, phase: Phase) -> None:
        """The penalty is on in ADMM's phase; masks are in force from the projection on, given ones always."""
        self.phase = phase
        self._steps.rho = self.rho if phase == "admm" else 0.0
        self._steps.masking = phase == "retrain" or bool(self._given)
        self._steps.fixed = self._fixed() if phase == "retrain" else frozenset()

    def _fixed(self) -> frozenset[str]:
        """Tensors that are put on shared values or into low rank, and stay as they are then."""
        return frozenset(name for name, sets in self.targets.kinds.items() if SETS[sets[-1]].fixes)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Say which weights are NaN, if that is why they can't be projected; all ranks find the same."""
        try:
            yield
        except ValueError as error:
            spoilt = [name for name in self.targets.names if bool(self._tensors.get(name).isnan().any())]
            if not spoilt:
                raise
            raise ValueError(f"{', '.join(spoilt)}: holds NaN, so that it has no projection") from error

    def _counts(self) -> dict[str, tuple[int, int]]:
        """Non-zeros and size of each constrained tensor."""
        rest(self.module)
        wholes = ((name, self._tensors.get(name)) for name in self.targets.names)
        return {name: (int(torch.count_nonzero(w)), w.numel()) for name, w in wholes}


def _targets(constraints: Sequence[AnySet], module: nn.Module, inputs: Any) -> Targets:
    """What each tensor is held to. Raises SpecError with all that is wrong."""
    if not constraints:
        raise SpecError([(("constraints",), "at least one is needed")])
    if wrong := [one for one in constraints if not isinstance(one, Pattern)]:
        raise SpecError([(("constraints",), f"{wrong[0]!r} is none; make them by dualprune.cardinality(...) and such")])
    name = type(module).__name__
    found, problems = targets(constraints, parameters(module), name, cache(lambda: cut_of(module, inputs)))
    if problems:
        raise SpecError(problems)
    return found


def _checked(masks: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    for name, mask in masks.items():
        if name not in shapes or mask.shape != shapes[name]:
            there = f"is of shape {tuple(shapes[name])}" if name in shapes else "is no tensor of this model"
            raise ValueError(f"masks: {name} {there}; the mask is of shape {tuple(mask.shape)}")
    return {name: (mask != 0).float() for name, mask in masks.items()}


def _check_state(tensors: Mapping[str, Mapping[str, Tensor]], shapes: Mapping[str, torch.Size]) -> None:
    """Raise ValueError for a state that is not of tensors of these shapes; one without any is of before the start."""

    def shown(found: Iterable[tuple[str, torch.Size]]) -> str:
        return ", ".join(f"{name} {tuple(shape)}" for name, shape in found)

    there = {name: next(iter(values.values())).shape for name, values in tensors.items()}
    if there and there != dict(shapes):
        raise ValueError(f"the state is of the tensors {shown(there.items())}; here are {shown(shapes.items())}")
