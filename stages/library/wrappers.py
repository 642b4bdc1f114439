"""The network and the optimizer within what others put around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DataParallel, DistributedDataParallel


def plain(model: nn.Module) -> nn.Module:
    """The network within the wrappers of DDP and `torch.compile`. Raises ValueError for what flattens parameters."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            break
    if any(isinstance(part, FullyShardedDataParallel) for part in model.modules()):
        raise ValueError("FullyShardedDataParallel flattens parameters; use `fully_shard` (FSDP2) in its place")
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ValueError("ZeRO 3 of DeepSpeed has sharded this model; only the pipeline works with that")
    return model


def bare(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer within a wrapper of accelerate's or Lightning's. Raises ValueError for what can't be used."""
    found = optimizer
    while not hasattr(found, "_optimizer_step_pre_hooks") and hasattr(found, "optimizer"):
        found = found.optimizer
    if not isinstance(found, torch.optim.Optimizer) or not hasattr(found, "_optimizer_step_pre_hooks"):
        raise ValueError(f"{type(optimizer).__name__} is no torch.optim.Optimizer, and none is within it")
    if isinstance(found, torch.optim.LBFGS):
        raise ValueError("LBFGS searches by the loss's value, which the penalty is not in; use another optimizer")
    return found
