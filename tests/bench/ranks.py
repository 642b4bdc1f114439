"""Two or more ranks of one benchmark on this machine: plain processes in a gloo group."""

from __future__ import annotations

import multiprocessing
import socket
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def on_ranks(world: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` returns on each of `world` ranks, rank 0 first. `work` is a module's function."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_rank, args=(rank, world, port, results, work, arguments)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = dict(results.get() for _ in processes)
    for process in processes:
        process.join()
    return [found[rank] for rank in range(world)]


def _rank(rank: int, world: int, port: int, results: Any, work: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    # DeepSpeed calls by old names what torch has new ones for, and torch says so each time.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    results.put((rank, work(*arguments)))
    dist.barrier()
    dist.destroy_process_group()
