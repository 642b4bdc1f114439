"""Two or more ranks on this machine, for tests and benchmarks: plain processes in a gloo group."""

from __future__ import annotations

import faulthandler
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def on_ranks(world: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` returns on each of `world` ranks, rank 0 first. `work` is a module's function.

    Raises torch.multiprocessing's ProcessRaisedException, with the traceback, for what one of them raised first,
    and ProcessExitedException for one that was ended; the others are ended then.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (world, folder, work, arguments), nprocs=world)
        return [pickle.loads(_result(folder, rank).read_bytes()) for rank in range(world)]


def _rank(rank: int, world: int, folder: str, work: Callable[..., Any], arguments: tuple) -> None:
    faulthandler.enable()
    torch.set_num_threads(1)
    # DeepSpeed calls by old names what torch has new ones for, and torch says so each time.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    _result(folder, rank).write_bytes(pickle.dumps(work(*arguments)))
    dist.barrier()  # gloo ends the process of a rank whose peer leaves in the middle of its last words
    # DeepSpeed holds on to groups that were destroyed: gloo's threads would run on into the interpreter's end, and
    # meet there that the peer has gone. So there is none.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _result(folder: str, rank: int) -> Path:
    return Path(folder, f"{rank}.pickle")
