"""What is done around each step of a user's own optimizer: the penalty's gradient before it, what is frozen after it.

By hooks, so that the optimizer stays what it is for schedulers, gradient scalers and checkpoints. Frozen entries are
put back after the step, as nothing is known of the optimizer: it may have momentum of its own, or mix entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from dualprune.stages.engine.proximal import adjust
from dualprune.stages.engine.state import masks
from dualprune.stages.library.tensors import ModuleTensors, local

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Steps:
    """The steps of wrapped optimizers. `rho`, `masking` and `fixed` say what they do at present."""

    def __init__(self, tensors: ModuleTensors, penalised: Sequence[str]) -> None:
        self.tensors = tensors
        self.penalised = frozenset(penalised)
        self.rho = 0.0
        """The penalty's weight."""
        self.masking = False
        """Whether masks are in force."""
        self.fixed: frozenset[str] = frozenset()
        """Tensors whose frozen entries stay where they are; those of all others stay zero."""
        self.optimizers: list[torch.optim.Optimizer] = []
        self.names: set[str] = set()
        """Of the tensors that these train."""
        self._hooks: list[RemovableHandle] = []
        self._before: dict[str, Tensor] = {}

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Put hooks around an optimizer's step. Raises ValueError for one that trains none of the tensors, or some that
        another one trains."""
        known = {id(p): name for name, p in self.tensors.parameters.items()}
        names = [known[id(p)] for group in optimizer.param_groups for p in group["params"] if id(p) in known]
        if not names:
            raise ValueError(
                "the optimizer trains none of the constrained tensors of this model; make it from the parameters of the"
                " model that the pruner was given, once that is sharded and on its device"
            )
        if again := self.names & set(names):
            raise ValueError(f"{', '.join(sorted(again))}: trained by an optimizer that was wrapped before")
        self.optimizers.append(optimizer)
        self.names |= set(names)
        self._hooks.append(optimizer.register_step_pre_hook(partial(self._pre, names)))
        self._hooks.append(optimizer.register_step_post_hook(partial(self._post, names)))

    def detach(self) -> None:
        """Take the hooks away: the optimizers are as they were."""
        for hook in self._hooks:
            hook.remove()
        self.optimizers, self.names, self._hooks = [], set(), []

    def forget(self) -> None:
        """Let the optimizers make their state anew: momentum is of before."""
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def _pre(self, names: list[str], optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Change the gradients, or see to it that they are once a closure has computed them."""
        parameters = self.tensors.parameters
        self._before |= {name: local(parameters[name]).detach().clone() for name in names if name in self.fixed}
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._adjust(names, optimizer)
            return None
        closure = self._closure(closure, names, optimizer)
        return ((args[0], closure, *args[2:]), kwargs) if len(args) > 1 else (args, kwargs | {"closure": closure})

    def _closure(self, closure: Callable[[], Any], names: list[str], optimizer: Any) -> Callable[[], Any]:
        def penalised() -> Any:
            loss = closure()
            self._adjust(names, optimizer)
            return loss

        return penalised

    @torch.no_grad()
    def _adjust(self, names: list[str], optimizer: Any) -> None:
        # A fused optimizer takes gradients scaled for fp16, and how they were scaled.
        scale = getattr(optimizer, "grad_scale", None)
        rho = self.rho if scale is None else self.rho * float(scale)
        parameters = self.tensors.parameters
        there = [name for name in names if parameters[name].grad is not None]
        # An optimizer that goes where a number rises takes the penalty for one that is to fall.
        groups = [group for group in optimizer.param_groups if group.get("maximize")]
        rising = {id(p) for group in groups for p in group["params"]}
        pulled = [name for name in there if name in self.penalised]
        for some, pull in (
            ([name for name in pulled if id(parameters[name]) not in rising], rho),
            ([name for name in pulled if id(parameters[name]) in rising], -rho),
            ([name for name in there if name not in self.penalised], 0.0),
        ):
            if some and (pull or self.masking):
                adjust(
                    [local(parameters[name].grad) for name in some],  # type: ignore[arg-type]
                    [local(parameters[name]) for name in some],
                    self.tensors.parts(some, "target") if pull else [],
                    self.tensors.parts(some, "marks"),
                    rho=pull,
                    masking=self.masking,
                )

    @torch.no_grad()
    def _post(self, names: list[str], optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What is frozen is where it was, whatever the step did."""
        if not self.masking:
            return
        for name, mask in zip(names, masks(self.tensors.parts(names, "marks")), strict=True):
            p = local(self.tensors.parameters[name])
            if name in self.fixed:
                torch.where(mask != 0, p, self._before.pop(name), out=p)
            else:
                p.mul_(mask)
