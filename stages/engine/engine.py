"""Training with DeepSpeed, and access to whole fp32 tensors by name.

The same engine runs on one plain process and on many ranks, under ZeRO 0 to 3. All that the rest of
`stages` knows of sharding is `get` and `set`, which every rank has to call in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dualprune.stages.engine import strided, zero
from dualprune.stages.engine.inputs import Inputs
from dualprune.stages.engine.passes import Passes
from dualprune.stages.engine.proximal import ProximalOptimizer
from dualprune.stages.engine.ranks import memory, summed
from dualprune.stages.engine.reduction import Reduction
from dualprune.stages.engine.state import STATE, Whole
from dualprune.stages.engine.weighing import WAYS
from dualprune.stages.networks.layers import note_layer
from dualprune.stages.networks.parameters import is_trained
from dualprune.stages.networks.weightsfile import some
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Optimizer as OptimizerSettings
from dualprune.stages.settings.training import Sam

BUCKET = 5 * 10**8
"""Gradients that DeepSpeed reduces at a time, at most: its own default, of which it makes a buffer however few there
are."""


def make_optimizer(settings: OptimizerSettings) -> Callable[[list], torch.optim.Optimizer]:
    """The inner optimizer that the settings describe, as a function of parameter groups.

    Fused: one pass over weights, gradients and state in place of one for each operation.
    """
    if settings.name == "sgd":
        return lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, fused=True)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return lambda groups: kind(groups, lr=0.0, fused=True)


def parameter_groups(
    model: nn.Module, penalised: set[str], masked: set[str], weight_decay: float, valued: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Those that are trained, by what is done to them: penalised, those of them whose set changes values, masked only,
    other weights, not decayed."""
    groups: dict[str, dict[str, Any]] = {
        kind: {
            "params": [],
            "weight_decay": 0.0 if kind == "others" else weight_decay,
            "penalised": kind in ("penalised", "valued"),
            "masked": kind in ("penalised", "valued", "masked"),
            "valued": kind == "valued",
        }
        for kind in ("penalised", "valued", "masked", "weights", "others")
    }
    for name, parameter in model.named_parameters():
        if not is_trained(parameter):
            continue
        if name in penalised:
            kind = "valued" if name in valued else "penalised"
        elif name in masked:
            kind = "masked"
        else:
            kind = "weights" if parameter.ndim > 1 else "others"
        groups[kind]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def emulates_bf16(device: torch.device) -> bool:
    """Whether a device lacks bf16 arithmetic, so that fp32 is faster (LeNet-5 on a core with AVX2: 5 times)."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


def _configuration(settings: EngineSettings, stage: int, size: int, clip: float, precision: str) -> dict[str, Any]:
    """DeepSpeed's configuration, for a ZeRO stage and a network of so many weights."""
    offload = {"offload_optimizer": {"device": "cpu"}} if settings.offload else {}
    lean = zero.lean(stage, clip, settings.offload)
    return {
        # Ranks may get batches of unequal size (losses are sums over samples); DeepSpeed needs some number.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": settings.accumulate,
        "zero_optimization": {"stage": stage, "reduce_bucket_size": min(BUCKET, max(1, size))} | offload | lean,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Gradients are divided before they are added up over ranks, as they are anyway where parts are picked out.
        "prescale_gradients": not lean.get("reduce_scatter", True),
        # Without ZeRO, DeepSpeed can't clip what is a number alone: the engine does it.
        "gradient_clipping": clip if stage else 0.0,
        # DeepSpeed's own bf16 mode casts weights and breaks batch norm on the CPU; autocast keeps them in fp32.
        # Gradients of the modules that it lists would be rounded to bf16 before they are added up over ranks.
        "torch_autocast": {
            "enabled": precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "wall_clock_breakdown": False,
        "steps_per_print": 10**9,
    }


def _check_shapes(model: nn.Module, stage: int) -> None:
    """Raise SpecError for parameters that DeepSpeed can't shard."""
    alone = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
    if stage == 3 and alone:
        text = f"ZeRO 3 can't share out parameters that are a number alone: {some(alone)}; take `zero: 2`, or give them"
        raise SpecError([(("engine", "zero"), f"{text} the shape [1]")])


class Engine(Whole):
    """A model on its ranks, with its optimizer.

    `penalised` names the parameters under the ADMM penalty, `masked` those that masks may be on, and `valued` those
    of the first whose set changes values. `averaged` says whether averages of the weights are ever kept, `weighed` what
    projections of the penalised ones are weighed by, one of `WAYS`, if they are. Raises SpecError for parameters that
    can't be sharded.
    """

    def __init__(
        self,
        model: nn.Module,
        penalised: set[str],
        masked: set[str],
        optimizer: OptimizerSettings,
        precision: str,
        settings: EngineSettings,
        valued: Collection[str] = (),
        averaged: bool = False,
        weighed: str | None = None,
    ) -> None:
        super().__init__(penalised, valued)
        groups = parameter_groups(model, penalised, masked, optimizer.weight_decay, valued)
        self.optimizer = ProximalOptimizer(groups, make_optimizer(optimizer))
        self.optimizer.averages.wanted = averaged
        self.optimizer.weighing.way = weighed
        self.passes = Passes(self.optimizer)
        self.masked = penalised | masked
        self.world = dist.get_world_size()
        size = sum(parameter.numel() for parameter in model.parameters())
        self.zero = settings.stage(self.world, size, memory())
        _check_shapes(model, self.zero)
        self.settings, self.clip = settings, optimizer.clip
        self.accumulate = settings.accumulate
        self.engine, *_ = zero.deepspeed().initialize(
            model=model,
            optimizer=self.optimizer,
            config=_configuration(settings, self.zero, size, optimizer.clip, precision),
            dist_init_required=False,
        )
        self.optimizer.device = self.engine.device
        self.module: nn.Module = self.engine.module
        if self.engine.device.type == "cpu":
            strided.avoid(self.module)
        looked_at = penalised if weighed is not None and WAYS[weighed].follow is None else set()
        layers = {name: self.module.get_submodule(name.rpartition(".")[0]) for name in sorted(looked_at)}
        self.inputs = Inputs(layers, self.world, self.engine.device)
        if settings.compile:
            self.module.compile()
        self.parameters = {name: p for name, p in self.module.named_parameters() if is_trained(p)}
        self.untrained = {name: p for name, p in self.module.named_parameters() if not is_trained(p)}
        kept = self.module.state_dict().keys()  # without non-persistent ones, which a module computes itself
        self.buffers = {name: b for name, b in self.module.named_buffers() if name in kept}
        self.averages = {name: b.clone() for name, b in self.buffers.items() if averaged and b.is_floating_point()}
        """Of buffers, as those of the weights."""
        zero.settle(self.engine, self.optimizer)
        self.reduction: Reduction | None = None
        if self.zero == 0:
            zero.unreduced(self.engine)
            self.reduction = Reduction(self.parameters.values()) if self.world > 1 else None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The network's outputs."""
        try:
            return self.engine(*inputs, **named)
        except Exception as error:
            note_layer(error, self.module)
            raise

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of the loss's mean over ranks and micro-batches (DeepSpeed divides by the number of
        those)."""
        if self.reduction is None:
            self.engine.backward(loss)
            return
        last = self.engine.is_gradient_accumulation_boundary()
        with self.reduction.summing() if last else nullcontext():
            self.engine.backward(loss / self.world)

    def step(self, lr: float) -> bool:
        """Close a micro-batch; at the last one of a step, move the parameters.

        False, on every rank alike and with nothing moved, if the averaged gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        closing = self.engine.is_gradient_accumulation_boundary()
        if closing and self.passes.some:
            shares = zero.shares(self.engine)
            self.passes.back()
            self.passes.add(shares)
            zero.renorm(self.engine, shares)
        finite = self._closed(closing)
        if closing:
            self.inputs.close_step()
        return finite

    def ascend(self, sam: Sam) -> bool:
        """In place of `step`: at the last micro-batch, put parameters where the loss is higher. The next `step` is from
        where they are now."""
        closing = self.engine.is_gradient_accumulation_boundary()
        if closing:
            self.passes.climb(zero.shares(self.engine), sam.radius, sam.adaptive, self._over_ranks)
        finite = self._still(closing)
        if not finite:
            self.passes.back()
        return finite

    def keep(self) -> bool:
        """In place of `step`: at the last micro-batch, keep the gradient for the next `step` to add, and put parameters
        back to where they were when `leave` was called."""
        closing = self.engine.is_gradient_accumulation_boundary()
        if closing:
            self.passes.keep(zero.shares(self.engine))
            self.passes.back()
        return self._still(closing)

    def leave(self) -> None:
        """Note where parameters are, which are about to be `set` to what they are not to be trained from."""
        self.passes.leave(zero.flat(self.engine))

    def _still(self, closing: bool) -> bool:
        """Close a micro-batch as `step` does, with parameters as they were put."""
        self.optimizer.still = True
        try:
            return self._closed(closing)
        finally:
            self.optimizer.still = False

    def _over_ranks(self, own: Tensor) -> Tensor:
        """The sum of what ranks have of gradients, which they share out under ZeRO."""
        own = own.to(self.engine.device)
        return summed(own) if self.zero else own

    def _closed(self, closing: bool) -> bool:
        if self.zero == 0 and closing:
            # Without ZeRO, DeepSpeed does not check. Gradients are averaged already: all ranks find the same.
            grads = [p.grad for p in self.parameters.values() if p.grad is not None]
            norms = torch.stack(torch._foreach_norm(grads))
            if not bool(torch.isfinite(norms.sum())):
                return False
            if self.clip:
                torch._foreach_mul_(grads, (self.clip / (norms.pow(2).sum().sqrt() + 1e-6)).clamp(max=1.0))
        skipped = self.engine.skipped_steps
        self.engine.step()
        return bool(self.engine.skipped_steps == skipped)

    @property
    def own(self) -> dict[str, Tensor]:
        """What each rank has for itself within an epoch, by name: buffers, their averages, what is known of inputs."""
        averages = {f"average/{name}": average for name, average in self.averages.items()}
        return self.buffers | averages | {f"inputs/{name}": sums for name, sums in self.inputs.sums.items()}

    def weigh(self, following: bool) -> None:
        """Whether steps change what projections are weighed by."""
        self.optimizer.weighing.following = self.inputs.following = following

    def not_finite(self) -> list[str]:
        """The parameters whose gradient, over all ranks and micro-batches, is not finite: before a step is closed."""
        return [name for name, value in zero.gradients(self.parameters) if not bool(value.isfinite().all())]

    def read(self, name: str, state: str | None = None) -> Tensor:
        """The whole parameter `name` in fp32, or its optimizer state as it is kept, as a new tensor on every rank.

        Of layers that are looked at (`weigh: activation`), `activation` is the mean square of each entry's input; that
        raises stages.engine.inputs.NeverCalled.
        """
        if state in WAYS and name in self.inputs.layers:
            return self.inputs.squares(name, self.shape(name))
        return super().read(name, state)

    def seen(self, name: str, state: str | None = None) -> Tensor:
        """The same to be looked at till the next step: it is no copy of what this rank has whole."""
        kind = torch.uint8 if state == "marks" else torch.float32
        return zero.get(self.parameters[name], state, self._own(name, state)).detach().to(kind).view(self.shape(name))

    @torch.no_grad()
    def write(self, name: str, value: Tensor, state: str | None) -> None:
        """Put a whole tensor in the place of what `read` gives."""
        value = value.to(device=self.engine.device, dtype=torch.uint8 if state == "marks" else torch.float32)
        zero.put(self.parameters[name], state, value, self._own(name, state))

    def divide(self, factor: float) -> None:
        """U / factor, of this rank's part of all tensors."""
        self.optimizer.divide(factor)

    def _own(self, name: str, state: str | None) -> Tensor:
        """This rank's local tensor of a parameter or of its state: the whole one, where ZeRO is off."""
        parameter: Tensor = self.parameters[name]
        own: dict[str | None, Tensor] = self.optimizer.state.get(parameter, {})
        return own.get(state, parameter)

    def kept(self, name: str) -> list[str]:
        """The states that a checkpoint has of a tensor, beside the inner optimizer's."""
        return [*super().kept(name), *(self.optimizer.weighing.state if name in self.penalised else [])]

    def inner_states(self) -> list[str]:
        """Names of the inner optimizer's tensor states of a parameter's own shape, the same on every rank."""
        names = {
            key
            for p, state in self.optimizer.state.items()
            for key, value in state.items()
            # Its count of steps has the shape of a parameter that is a number alone.
            if isinstance(value, Tensor) and value.shape == p.shape and key not in (*STATE, *WAYS, "step")
        }
        return sorted(names)

    def inner_steps(self) -> float:
        """The inner optimizer's step count since it was last reset, 0 where it keeps none."""
        counts = [float(state["step"]) for state in self.optimizer.state.values() if "step" in state]
        return counts[0] if counts else 0.0

    def set_inner_steps(self, count: float) -> None:
        """Put back what `inner_steps` gave."""
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"].fill_(count)

    def average_buffers(self) -> None:
        """Average floating-point buffers (batch-norm statistics) over the ranks, the same bits everywhere."""
        if self.world == 1:
            return
        for buffer in self.own.values():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.world

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The network's state, name by name: whole fp32 parameters, then those that are not trained, then buffers."""
        for name in self.parameters:
            yield name, self.get(name)
        yield from self.left_alone()
        for name, buffer in self.buffers.items():
            yield name, buffer.detach().clone()

    def left_alone(self) -> Iterator[tuple[str, Tensor]]:
        """Whole parameters that are not trained, as they are: of integers, for example."""
        for name, parameter in self.untrained.items():
            yield name, zero.whole(parameter)

    def put(self, name: str, value: Tensor) -> None:
        """Put back one of what `tensors` gave, or of `own`, on all ranks together. Raises KeyError for another name."""
        if name in self.parameters:
            self.set(name, value)
        elif name in self.untrained:
            zero.fill(self.untrained[name], value)
        else:
            self.own[name].copy_(value)

    def close(self) -> None:
        """Remove hooks and free memory, so that another stage can run in this process."""
        self.inputs.close()
        if self.reduction is not None:
            self.reduction.close()
        zero.close(self.engine)

    def shape(self, name: str) -> torch.Size:
        """The whole parameter's shape, sharded or not."""
        return zero.shape(self.parameters[name])
