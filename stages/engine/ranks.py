"""The ranks of a process group: joining it, and agreeing on a value."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dualprune.stages.engine import allocator, zero

LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says what a container may use of its machine's memory."""


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
    else:
        allocator.keep_freed()
    zero.deepspeed().init_distributed(dist_init_required=False, verbose=False)
    return rank, world, device


def memory() -> float:
    """Bytes of memory that each rank has: its GPU's, or its share of the host's; the least of all. On all together."""
    if torch.cuda.is_available():
        own = float(torch.cuda.get_device_properties(here()).total_memory)
    else:
        own = _host() / (int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or dist.get_world_size())
    least = torch.tensor([own], dtype=torch.float64, device=here())
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return float(least[0])


def _host() -> float:
    """Bytes that this machine has, or its container may use."""
    installed = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        allowed = float(LIMIT.read_text())
    except (OSError, ValueError):  # there is no such limit: no file, or `max`
        return installed
    return min(installed, allowed)


def agreed(value: Any) -> Any:
    """Rank 0's value, on every rank; this process's own where it is in no group."""
    box = [value]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def placed() -> tuple[int, int]:
    """The rank of this process, and how many there are; one that is in no group is alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def here() -> torch.device:
    """Where this process works and its collectives run, wherever its tensors are kept."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def of_rank(rank: int, value: Tensor) -> Tensor:
    """A rank's tensor, on every rank: written into `value`, which is of its shape everywhere, and `here`."""
    if placed()[1] > 1:
        dist.broadcast(value, src=rank)
    return value


def on_any(said: bool) -> bool:
    """Whether any rank says so: the same answer on all of them."""
    return bool(summed(torch.tensor([float(said)], device=here()))[0])


def summed(value: Tensor) -> Tensor:
    """The sum of all ranks' tensors, on every rank: written into `value`, which is `here`."""
    if placed()[1] > 1:
        dist.all_reduce(value)
    return value
