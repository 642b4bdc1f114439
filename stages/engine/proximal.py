"""The proximal wrapper: any torch optimizer, with ADMM's state beside its own.

W-update of ADMM in scaled form (Zhang et al. 2018, section 4.1): train on f(W) + rho/2 |W - Z + U|^2.
The penalty's gradient is rho (W - target) with target = Z - U, constant between updates, so it is
added to the gradient in place before the inner step, and costs no autograd graph. It is added once
per optimizer step, after gradients were averaged over ranks and micro-batches and clipped.

DeepSpeed hands an optimizer flat, sharded parameters, and shards, offloads and gathers whatever state
it keeps for each. As long as `stages.engine.state.STATE` is such state, all ZeRO stages are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dualprune.stages.engine.averages import AVERAGE, Averages
from dualprune.stages.engine.state import PORTION, STATE, divide, masks, portions
from dualprune.stages.engine.weighing import Weighing

MODES = ("rho", "masking", "tied")
"""What the wrapper does, apart from what its state holds."""


def _portions(*lists: list[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Lists of tensors of the same shapes: on a GPU all at once, on a CPU so many at a time, or so much of a large one,
    as stay in its cache: it reads and writes each gradient once then, whatever is done to it."""
    if lists[0][0].device.type != "cpu":
        yield lists
        return
    few: list[tuple[Tensor, ...]] = []
    room = PORTION
    for tensors in zip(*lists, strict=True):
        for portion in portions(*tensors):
            room -= portion[0].numel()
            if few and room < 0:
                yield tuple(map(list, zip(*few, strict=True)))
                few, room = [], PORTION - portion[0].numel()
            few.append(portion)
    yield tuple(map(list, zip(*few, strict=True)))


def adjust(
    grads: list[Tensor],
    params: list[Tensor],
    targets: list[Tensor],
    marks: list[Tensor],
    *,
    rho: float,
    masking: bool,
    decay: float = 0.0,
    shrink: float = 0.0,
) -> None:
    """Add rho (W - target) to gradients, and while masks are in force, set those of frozen entries to 0.

    Without rho there may be no targets, and without masks no marks. While masks are in force, weight decay of what is
    trained is done here too, if it is not left to the inner optimizer: `decay` of the weights is added to their
    gradients, or, decoupled, each weight loses a share `shrink` of itself.
    """
    for grad, param, *state in _portions(grads, params, *([targets] if rho else []), *([marks] if masking else [])):
        if rho:
            torch._foreach_add_(grad, param, alpha=rho)
            torch._foreach_sub_(grad, state[0], alpha=rho)
        if not masking:
            continue
        trained = masks(state[-1])
        if shrink:
            for p, one in zip(param, trained, strict=True):
                torch.where(one != 0, p * (1 - shrink), p, out=p)
        if decay:
            torch._foreach_add_(grad, param, alpha=decay)
        torch._foreach_mul_(grad, trained)


class ProximalOptimizer(torch.optim.Optimizer):
    """Wraps the optimizer that `make(groups)` builds.

    A parameter group says whether it is `penalised` (pulled to its target with weight `rho`) and whether it is
    `masked`, and a penalised group is masked too; of a `valued` group U is kept beside its targets. `masking` puts
    the masks in force. `tied`, a number of clusters, makes the members of each cluster move together.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], make: Callable[[list], torch.optim.Optimizer]) -> None:
        self.inner = make(list(groups))
        self.defaults = self.inner.defaults
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state
        self.rho = 0.0
        self.masking = False
        self.tied = 0
        self.still = False
        """Whether a step is no step: DeepSpeed hands on parameters, wherever they were put, and forgets gradients."""
        self.averages = Averages()
        self.weighing = Weighing()
        self.device = torch.device("cpu")
        """Where collectives run; offloaded parameters are elsewhere."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Add the penalty's gradient, take frozen entries out of the gradient, step."""
        assert closure is None, "no optimizer that needs a closure can run under DeepSpeed"
        if self.still:
            return
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            # A fused kernel rounds a tensor's last entries otherwise than the rest: members of a cluster would part.
            if self.defaults.get("fused"):
                group["fused"], group["foreach"] = not self.tied, bool(self.tied)
            if group["masked"]:
                self._prepare(group)
        self.inner.param_groups = self.param_groups
        self.inner.step()
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay
            self.averages.follow(group["params"], self.state)

    def _prepare(self, group: dict[str, Any]) -> None:
        """Make a masked group's gradients what the inner optimizer is to see.

        While masks are in force, weight decay is done here, for the inner optimizer would move frozen entries by it;
        the group's own is 0 till the step is over.
        """
        params = [p for p in group["params"] if p.grad is not None]
        if group["penalised"]:
            self.weighing.follow(params, self.state)
        if self.tied and group["penalised"]:
            self._tie(params)  # also without parameters: it is a collective
        elif params and (self.masking or (self.rho and group["penalised"])):
            decay = group["weight_decay"] if self.masking else 0.0
            if decay:
                group["weight_decay"] = 0.0
            shrink = 0.0
            if isinstance(self.inner, torch.optim.AdamW):
                shrink, decay = group["lr"] * decay, 0.0
            grads = [p.grad for p in params if p.grad is not None]
            rho = self.rho if group["penalised"] else 0.0
            targets = [self.state[p]["target"] for p in params] if rho else []
            marks = [self.state[p]["marks"] for p in params]
            adjust(grads, params, targets, marks, rho=rho, masking=self.masking, decay=decay, shrink=shrink)

    def _tie(self, params: list[Tensor]) -> None:
        """Replace each gradient by its cluster's mean over all ranks, so that tied weights stay equal.

        In fp64: adding ones in fp32 ends at 2^24 members.
        """
        device = params[0].device if params else self.device
        sums = torch.zeros(2, self.tied + 1, dtype=torch.float64, device=device)
        codes = [self.state[p]["target"].long() for p in params]
        grads = [p.grad for p in params if p.grad is not None]
        for grad, code in zip(grads, codes, strict=True):
            sums[0].index_add_(0, code.flatten(), grad.flatten().double())
            sums[1] += torch.bincount(code.flatten(), minlength=self.tied + 1)
        if dist.is_initialized() and dist.get_world_size() > 1:
            whole = sums.to(self.device)
            dist.all_reduce(whole)
            sums = whole.to(sums.device)
        means = sums[0] / sums[1].clamp(min=1)
        means[0] = 0.0
        for grad, code in zip(grads, codes, strict=True):
            grad.copy_(means.to(grad)[code])

    @torch.no_grad()
    def prime(self) -> None:
        """Make all state exist, inner and proximal, without moving a parameter.

        Checkpoints restore into state and ADMM writes to it, both before the first real step, while
        torch optimizers make theirs in it. So: a step at zero gradient and zero learning rate.
        """
        lrs = [group["lr"] for group in self.param_groups]
        saved = [(p, p.grad) for group in self.param_groups for p in group["params"]]
        for group in self.param_groups:
            group["lr"] = 0.0
        for p, _ in saved:
            p.grad = torch.zeros_like(p)
        self.inner.step()
        for p, grad in saved:
            p.grad = grad
        for group, lr in zip(self.param_groups, lrs, strict=True):
            group["lr"] = lr
            if group["masked"]:
                for p in group["params"]:
                    self.state[p].update(_fresh(p, group))
                    if group["penalised"]:
                        self.state[p].update(self.weighing.fresh(p))
            self.averages.prime(group["params"], self.state)
        self.reset_inner()

    def divide(self, factor: float) -> None:
        """U / factor, of this rank's part of all that is penalised."""
        for state in self.state.values():
            if "target" in state:
                divide(state, factor)

    @torch.no_grad()
    def reset_inner(self) -> None:
        """Forget momentum and step counts: what each phase of a stage begins with."""
        for state in self.state.values():
            for name, value in state.items():
                if name not in (*STATE, AVERAGE) and isinstance(value, Tensor):
                    value.zero_()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        self.inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with `rho`, `masking` and `tied` beside its state and groups."""
        return self.inner.state_dict() | {name: getattr(self, name) for name in MODES}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave. Raises KeyError for what it lacks, and as torch's."""
        modes = {name: state_dict[name] for name in MODES}
        self.inner.load_state_dict(state_dict)
        # The inner one has new groups and a new state now, and only it knows of them.
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        for state in self.state.values():  # torch gives all state the type of its parameter
            if "marks" in state:
                state["marks"] = state["marks"].to(torch.uint8)
        for name, value in modes.items():
            setattr(self, name, value)


def _fresh(parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    """The state of a parameter of a masked group, with nothing in it."""
    found = {"marks": torch.zeros_like(parameter, dtype=torch.uint8)}
    for name, there in (("target", group["penalised"]), ("dual", group["valued"])):
        if there:
            found[name] = torch.zeros_like(parameter)
    return found
