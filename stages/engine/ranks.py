"""Words among the ranks of a process group."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def agreed(value: Any) -> Any:
    """Rank 0's value, on every rank; this process's own where it is in no group."""
    box = [value]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]
