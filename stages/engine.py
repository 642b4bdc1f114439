"""DeepSpeed's one door: an engine that trains, and gives and takes whole fp32 tensors by name.

The same engine runs on one plain process and on many ranks, under ZeRO 0 to 3. All that the rest of
`stages` knows of sharding is `get` and `set`, which every rank has to call in the same order.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stages.layers import note_layer
from stages.optimizer import STATE, ProximalOptimizer
from stages.spec import Engine as EngineSettings
from stages.spec import Optimizer as OptimizerSettings


@cache
def _deepspeed() -> Any:
    """DeepSpeed, imported late, quietly, and without what only compiling needs.

    Its shared-memory operation would want a compiler on first use. Its Muon optimizer, which it
    imports to ask whether ours is one, calls torch.compile at import: seconds of every rank's start.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    with patch.object(torch, "compile", lambda model=None, **_: model or (lambda function: function)):
        import deepspeed
        import deepspeed.ops
        import deepspeed.runtime.zero.muon.muon_optimizer
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def join(threads: int | None = None) -> tuple[int, int, torch.device]:
    """Rank, world size and device of this process; one that is in no process group becomes a group of one."""
    if threads is not None:
        torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    if not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=0, world_size=1)
    rank, world = dist.get_rank(), dist.get_world_size()
    local = int(os.environ.get("LOCAL_RANK", 0))
    os.environ.setdefault("LOCAL_RANK", str(local))
    device = torch.device("cuda", local % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)  # where NCCL sends objects from, too
    _deepspeed().init_distributed(dist_init_required=False, verbose=False)
    return rank, world, device


def make_optimizer(settings: OptimizerSettings) -> Callable[[list], torch.optim.Optimizer]:
    """The inner optimizer that the settings describe, as a function of parameter groups."""
    if settings.name == "sgd":
        return lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, foreach=True)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return lambda groups: kind(groups, lr=0.0, foreach=True)


def parameter_groups(
    model: nn.Module, penalised: set[str], held: set[str], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups by what is done to them: penalised, held only, other weights, and what is not decayed."""
    groups: dict[str, dict[str, Any]] = {
        "penalised": {"params": [], "weight_decay": weight_decay, "penalised": True, "held": True},
        "held": {"params": [], "weight_decay": weight_decay, "penalised": False, "held": True},
        "weights": {"params": [], "weight_decay": weight_decay, "penalised": False, "held": False},
        "others": {"params": [], "weight_decay": 0.0, "penalised": False, "held": False},
    }
    for name, parameter in model.named_parameters():
        if name in penalised or name in held:
            kind = "penalised" if name in penalised else "held"
        else:
            kind = "weights" if parameter.ndim > 1 else "others"
        groups[kind]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def channels_last(pictures: Tensor) -> Tensor:
    """Pictures as convolutions run faster on CPU and GPU alike (LeNet-5 on one core: 1.7 times)."""
    if pictures.ndim != 4:
        return pictures
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    if pictures.shape[1] == 1:
        # Both orders are the same memory then, and torch takes it for the slow one unless the strides tell.
        height, width = pictures.shape[2:]
        pictures = pictures.as_strided(pictures.shape, (height * width, 1, width, 1))
    return pictures


def emulates_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed there by other means, so that fp32 is faster (LeNet-5 on a core with AVX2: 5 times)."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


class Engine:
    """A model on its ranks, with its optimizer.

    `penalised` names the parameters under the ADMM penalty, `held` those that masks may be on.
    """

    def __init__(
        self,
        model: nn.Module,
        penalised: set[str],
        held: set[str],
        optimizer: OptimizerSettings,
        precision: str,
        settings: EngineSettings,
    ) -> None:
        deepspeed = _deepspeed()
        groups = parameter_groups(model, penalised, held, optimizer.weight_decay)
        self.optimizer = ProximalOptimizer(groups, make_optimizer(optimizer))
        self.held = penalised | held
        self.world = dist.get_world_size()
        self.zero = settings.stage(self.world)
        self.settings = settings
        self.accumulate = settings.accumulate
        offload = {"offload_optimizer": {"device": "cpu"}} if settings.offload else {}
        config = {
            # Ranks may get batches of unequal size (stages.train weighs them); DeepSpeed needs some number.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": settings.accumulate,
            "zero_optimization": {"stage": self.zero} | offload,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": optimizer.clip,
            # DeepSpeed's own bf16 mode casts weights and breaks batch norm on the CPU; autocast keeps them in fp32.
            "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
            "wall_clock_breakdown": False,
            "steps_per_print": 10**9,
        }
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=self.optimizer, config=config, dist_init_required=False
        )
        self.optimizer.device = self.engine.device
        self.module: nn.Module = self.engine.module
        if settings.compile:
            self.module.compile()
        self.parameters = dict(self.module.named_parameters())
        kept = self.module.state_dict().keys()  # not those that a module makes anew
        self.buffers = {name: b for name, b in self.module.named_buffers() if name in kept}
        self.dtype = next(iter(self.parameters.values())).dtype
        self._prime()
        if hasattr(self.engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
            # ZeRO 1 and 2 link state to parameters after their first step; prime() was one, behind their back.
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _prime(self) -> None:
        """Make all optimizer state exist. ZeRO 3 shows its flat parameters to the optimizer only within a step."""
        sharded = self.engine.optimizer
        flat = getattr(sharded, "fp32_partitioned_groups_flat", [])
        for number, parameter in enumerate(flat):
            self.optimizer.param_groups[sharded.sub_group_to_group_id[number]]["params"].append(parameter)
        self.optimizer.prime()
        if flat:
            for group in self.optimizer.param_groups:
                group["params"] = []

    def forward(self, pictures: Tensor) -> Tensor:
        """The network's outputs for a batch, in fp32."""
        try:
            logits: Tensor = self.engine(channels_last(pictures).to(self.dtype))
        except Exception as error:
            note_layer(error, self.module)
            raise
        return logits.float()

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients. DeepSpeed divides by the world size and by the number of micro-batches."""
        self.engine.backward(loss)

    def step(self, lr: float) -> bool:
        """Close a micro-batch; at the last one of a step, move the parameters.

        False, on every rank alike and with nothing moved, if the averaged gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.zero == 0 and self.engine.is_gradient_accumulation_boundary():
            # Without ZeRO nobody looks; gradients are the same on all ranks already.
            norms = torch._foreach_norm([p.grad for p in self.parameters.values() if p.grad is not None])
            if not bool(torch.isfinite(torch.stack(norms).sum())):
                return False
        skipped = self.engine.skipped_steps
        self.engine.step()
        return bool(self.engine.skipped_steps == skipped)

    def not_finite(self) -> list[str]:
        """The parameters whose gradient, over all ranks and micro-batches, is not finite: before a step is closed."""
        gradient = _deepspeed().utils.safe_get_full_grad
        found = ((name, gradient(parameter)) for name, parameter in self.parameters.items())
        return [name for name, value in found if value is not None and not bool(value.isfinite().all())]

    def get(self, name: str, state: str | None = None) -> Tensor:
        """The whole fp32 parameter `name`, or its optimizer state `state`, as a new tensor on every rank."""
        parameter = self.parameters[name]
        utils = _deepspeed().utils
        if state is None:
            value = utils.safe_get_full_fp32_param(parameter)
            value = parameter.detach() if value is None else value
        else:
            value = utils.safe_get_full_optimizer_state(parameter, state)
            value = self.optimizer.state[parameter][state] if value is None else value
        whole: Tensor = value.detach().float().clone()
        return whole.view(self.shape(name))

    def set(self, name: str, value: Tensor, state: str | None = None) -> None:
        """Put a whole fp32 tensor in the place of the parameter `name`, or of its optimizer state `state`."""
        deepspeed = _deepspeed()
        parameter = self.parameters[name]
        value = value.to(device=self.engine.device, dtype=torch.float32)
        sharded = hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")
        with torch.no_grad():
            if state is not None:
                if hasattr(parameter, "ds_id"):
                    deepspeed.utils.safe_set_local_optimizer_state(parameter, self._own(parameter, value), state)
                elif sharded:
                    deepspeed.utils.safe_set_full_optimizer_state(parameter, value, state)
                else:
                    self.optimizer.state[parameter][state].copy_(value)
                return
            if hasattr(parameter, "ds_id"):
                deepspeed.utils.safe_set_local_fp32_param(parameter, self._own(parameter, value))
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    parameter.copy_(value.view(parameter.shape))
            else:
                if sharded:
                    deepspeed.utils.safe_set_full_fp32_param(parameter, value)
                parameter.copy_(value)

    def _own(self, parameter: Any, value: Tensor) -> Tensor:
        """This rank's slice under ZeRO 3, the last one padded: DeepSpeed's own setter fails where slices are uneven."""
        size: int = parameter.ds_tensor.ds_numel
        padded = torch.nn.functional.pad(value.flatten(), (0, size * self.world - value.numel()))
        return padded.narrow(0, size * dist.get_rank(), size)

    def inner_states(self) -> list[str]:
        """Names of the inner optimizer's tensor states of a parameter's own shape, the same on every rank."""
        names = {
            key
            for p, state in self.optimizer.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor) and value.shape == p.shape and key not in STATE
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
        for buffer in self.buffers.values():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.world

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The network's state, name by name: whole fp32 parameters, then buffers."""
        for name in self.parameters:
            yield name, self.get(name)
        for name, buffer in self.buffers.items():
            yield name, buffer.detach().clone()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave. Raises KeyError for a name that is missing."""
        for name in self.parameters:
            self.set(name, tensors[name])
        for name, buffer in self.buffers.items():
            buffer.copy_(tensors[name])

    def close(self) -> None:
        """Let go of hooks and memory, so that another stage can follow in this process."""
        self.engine.destroy()

    def shape(self, name: str) -> torch.Size:
        """The whole parameter's shape, sharded or not."""
        parameter = self.parameters[name]
        shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
        return shape
