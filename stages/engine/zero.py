"""The only import of DeepSpeed, and all that is used of it beyond its documentation.

ZeRO shards parameters, gradients and optimizer state. DeepSpeed documents how whole tensors are read and written
(`safe_get_full_*`, `safe_set_*`); what else is needed here, its attributes and hooks, may be called otherwise in a
version to come. So all of that is in this file, and `deepspeed()` looks for each name at the start.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache, partial
from importlib import import_module
from operator import attrgetter
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

USED = (
    ("deepspeed", "initialize"),
    ("deepspeed", "init_distributed"),
    ("deepspeed", "zero.GatheredParameters"),
    ("deepspeed.ops", "__compatible_ops__"),
    ("deepspeed.runtime.compiler", "compile"),
    ("deepspeed.runtime.engine", "DeepSpeedEngine._broadcast_model"),
    ("deepspeed.runtime.engine", "DeepSpeedEngine.is_gradient_accumulation_boundary"),
    ("deepspeed.runtime.engine", "DeepSpeedEngine.allreduce_gradients"),
    ("deepspeed.runtime.engine", "DeepSpeedEngine.destroy"),
    ("deepspeed.runtime.zero.stage_1_and_2", "DeepSpeedZeroOptimizer._lazy_init_hp_params_optimizer_state"),
    ("deepspeed.runtime.zero.config", "DeepSpeedZeroConfig.model_fields"),
    ("deepspeed.runtime.zero.parameter_offload", "FWD_MODULE_STACK"),
    ("deepspeed.runtime.zero.stage_1_and_2", "DeepSpeedZeroOptimizer._wait_for_offload_copies"),
    ("deepspeed.runtime.zero.stage_1_and_2", "DeepSpeedZeroOptimizer.has_overflow"),
    ("deepspeed.runtime.zero.stage_1_and_2", "DeepSpeedZeroOptimizer.complete_grad_norm_calculation_for_cpu_offload"),
    ("deepspeed.runtime.zero.stage3", "DeepSpeedZeroOptimizer_Stage3"),
    *(
        ("deepspeed.utils", f"safe_{name}")
        for name in (
            "get_full_fp32_param",
            "get_full_optimizer_state",
            "get_full_grad",
            "set_full_fp32_param",
            "set_full_optimizer_state",
            "set_local_fp32_param",
            "set_local_optimizer_state",
        )
    ),
)
"""Names of DeepSpeed's that are used here: modules, and what is in them."""


NORM = "compute_grad_norm"
"""Whether ZeRO 1 and 2 find the norm of each group's gradients in each step: a setting of newer versions."""


class Unsupported(RuntimeError):
    """A version of DeepSpeed that lacks what is used of it."""


@cache
def deepspeed() -> Any:
    """DeepSpeed, imported late, quietly, and without what only compiling needs. Raises Unsupported.

    Its shared-memory operation would want a compiler on first use. Its Muon optimizer, which it imports to ask whether
    ours is one, compiles functions at import: seconds of every rank's start.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    import deepspeed
    import deepspeed.ops
    import deepspeed.runtime.compiler

    with patch.object(deepspeed.runtime.compiler, "compile", lambda: lambda function: function):
        import deepspeed.runtime.zero.muon.muon_optimizer
    _check(deepspeed.__version__)
    deepspeed.runtime.engine.DeepSpeedEngine._broadcast_model = _alike
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def _check(version: str) -> None:
    missing = []
    for module, name in USED:
        try:
            attrgetter(name)(import_module(module))
        except (ImportError, AttributeError):
            missing.append(f"{module}.{name}")
    if missing:
        raise Unsupported(
            f"DeepSpeed {version} lacks {', '.join(missing)}, which dualprune uses: install one of the versions that"
            " dualprune's pyproject.toml names"
        )


def _alike(engine: Any) -> None:
    """Give all ranks the first one's parameters, row by row in memory: DeepSpeed does, and fails where one is a number
    alone, or lies otherwise, such as in channels_last order."""
    for parameter in engine.module.parameters():
        parameter.data = parameter.data.contiguous()
        dist.broadcast(parameter.data.flatten().view(torch.uint8), 0)


def lean(stage: int, clip: float, offload: bool) -> dict[str, Any]:
    """Settings of ZeRO 1 and 2 by which they leave out what nothing here needs; bits are the same.

    Norms of gradients that are not clipped, where this DeepSpeed can do without. Under ZeRO 1, whose gradients all wait
    for the end of the backward pass, their copy into a buffer as they come; under ZeRO 2 the copy of that, out of which
    each rank's part of the sum is copied back.
    """
    if stage not in (1, 2) or offload:
        return {}
    found: dict[str, Any] = {"contiguous_gradients": False} if stage == 1 else {"reduce_scatter": False}
    deepspeed()
    if not clip and NORM in import_module("deepspeed.runtime.zero.config").DeepSpeedZeroConfig.model_fields:
        found[NORM] = False
    return found


def _overflown(sharded: Any, partition_gradients: bool = True) -> bool:
    """Whether the averaged gradient is not finite: what DeepSpeed asks the norm, where it has one."""
    own = [grad for grads in sharded.averaged_gradients.values() for grad in grads or () if grad is not None]
    total = torch.stack(torch._foreach_norm(own)).sum()
    dist.all_reduce(total)
    return not bool(total.isfinite())


def settle(engine: Any, optimizer: Any) -> None:
    """Make all state of a fresh engine's optimizer exist (`optimizer.prime()`), and link it to the parameters.

    ZeRO 3 shows its flat parameters to the optimizer only within a step; ZeRO 1 and 2 link state to parameters after
    their first one, and priming was one, behind their back.
    """
    sharded = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 3:
        for number, parameter in enumerate(sharded.fp32_partitioned_groups_flat):
            optimizer.param_groups[sharded.sub_group_to_group_id[number]]["params"].append(parameter)
    optimizer.prime()
    if stage == 3:
        for group in optimizer.param_groups:
            group["params"] = []
    elif stage:
        sharded._lazy_init_hp_params_optimizer_state()
        if not getattr(sharded, NORM, True):
            sharded.check_grad_overflow, sharded.has_overflow = True, partial(_overflown, sharded)


def close(engine: Any) -> None:
    """Remove an engine's hooks and free its memory, once: DeepSpeed does so again when Python collects the engine, at
    any time, and what it asks of tensors then is found in a network that is just being traced. Under ZeRO 3 it would
    keep the network, and all that hangs on it, till the process ends."""
    engine.destroy()
    engine.destroy = lambda: None
    if engine.zero_optimization_stage() == 3:
        stack = import_module("deepspeed.runtime.zero.parameter_offload").FWD_MODULE_STACK
        own = set(engine.module.modules())
        stack[:] = [module for module in stack if module not in own]


Share = tuple[Tensor, list[Tensor]]
"""Of a group of parameters what this rank steps: fp32, and its gradient in pieces that follow each other in it."""


def flat(engine: Any) -> list[Tensor]:
    """The fp32 tensors that this rank steps: its shares of the parameters, or these where ZeRO is off."""
    sharded, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 3:
        return list(sharded.fp32_partitioned_groups_flat)
    if stage:
        return list(sharded.single_partition_of_fp32_groups)
    found: list[Tensor] = [parameter for group in sharded.param_groups for parameter in group["params"]]
    return found


def shares(engine: Any) -> list[Share]:
    """The same with their gradients, averaged over ranks and micro-batches and not clipped: before a step is closed.

    They are what the step goes on with, so that they can be changed in place; then `renorm` has to be called.
    """
    whole, sharded = flat(engine), engine.optimizer
    if not engine.zero_optimization_stage():
        return [(one, [grad]) for one in whole if (grad := one.grad) is not None]
    if _offloaded(sharded):
        if hasattr(sharded, "_wait_for_offload_copies"):
            sharded._wait_for_offload_copies()
        return [(one, [grad]) for one in whole if (grad := one.grad) is not None]
    return [(one, list(sharded.averaged_gradients[number])) for number, one in enumerate(whole)]


def renorm(engine: Any, given: list[Share]) -> None:
    """Let what is clipped go by gradients as they are now: DeepSpeed notes those of the host's as they come."""
    sharded = engine.optimizer
    if not (engine.zero_optimization_stage() and _offloaded(sharded)):
        return
    norm = torch.stack([grad.norm() for _, grads in given for grad in grads]).norm()
    noted = sharded.norm_for_param_grads
    noted.update({key: norm if number == 0 else norm * 0 for number, key in enumerate(noted)})


def _offloaded(sharded: Any) -> bool:
    return bool(getattr(sharded, "cpu_offload", False) or getattr(sharded, "offload_optimizer", False))


def unreduced(engine: Any) -> None:
    """Leave out, without ZeRO, that gradients are put into one tensor after the backward pass, averaged over the ranks,
    and copied back: on one rank nothing is to be done, and on several it can be done within that pass (`Reduction`)."""
    engine.enable_backward_allreduce = False


def shape(parameter: Any) -> torch.Size:
    """The whole parameter's shape, sharded or not."""
    found: torch.Size = parameter.ds_shape if sharded(parameter) else parameter.shape
    return found


def sharded(parameter: Any) -> bool:
    """Whether a parameter is sharded, by ZeRO 3."""
    return hasattr(parameter, "ds_id")


def gradients(parameters: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Whole gradients over all ranks and micro-batches, before a step is closed."""
    for name, parameter in parameters.items():
        value = deepspeed().utils.safe_get_full_grad(parameter)
        if value is not None:
            yield name, value


def get(parameter: Any, state: str | None, otherwise: Tensor) -> Tensor:
    """A whole fp32 parameter, or its optimizer state `state`; `otherwise` where ZeRO is off.

    Under ZeRO 1 and 2 each rank has what it computes with whole, in fp32 the same numbers as those that are stepped
    and shared out: between steps, nothing has to be gathered.
    """
    utils = deepspeed().utils
    if state is None and not sharded(parameter) and parameter.dtype == torch.float32:
        value: Tensor = parameter.detach()
    elif state is None:
        value = utils.safe_get_full_fp32_param(parameter)
    else:
        value = utils.safe_get_full_optimizer_state(parameter, state)
    return otherwise if value is None else value


def whole(parameter: Any) -> Tensor:
    """A whole parameter that no optimizer has, as a new tensor, on all ranks together."""
    with _gathered(parameter):
        found: Tensor = parameter.detach().clone()
    return found


@torch.no_grad()
def fill(parameter: Any, value: Tensor) -> None:
    """Put a whole tensor in the place of such a parameter, on all ranks together."""
    with _gathered(parameter, modifier_rank=0):
        parameter.copy_(value)


def _gathered(parameter: Any, **options: Any) -> Any:
    return deepspeed().zero.GatheredParameters([parameter], **options) if sharded(parameter) else nullcontext()


def put(parameter: Any, state: str | None, value: Tensor, otherwise: Tensor) -> None:
    """Write what `get` reads, on all ranks together; `otherwise` is written to where ZeRO is off."""
    utils = deepspeed().utils
    if sharded(parameter):
        own = _own(parameter, value)
        if state is not None:
            utils.safe_set_local_optimizer_state(parameter, own, state)
            return
        utils.safe_set_local_fp32_param(parameter, own)
        with deepspeed().zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value.view(parameter.shape))
    elif not hasattr(parameter, "_hp_mapping"):
        otherwise.copy_(value)
    elif state is not None:
        utils.safe_set_full_optimizer_state(parameter, value, state)
    else:
        utils.safe_set_full_fp32_param(parameter, value)
        parameter.copy_(value)


def _own(parameter: Any, value: Tensor) -> Tensor:
    """This rank's slice under ZeRO 3, the last one padded: DeepSpeed's own setter fails where slices are uneven."""
    size: int = parameter.ds_tensor.ds_numel
    padded = torch.nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    return padded.narrow(0, size * dist.get_rank(), size)
