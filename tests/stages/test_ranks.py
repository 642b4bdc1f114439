"""Two real ranks over gloo: the same batches, the same masks to rounding, and exactly k weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from stages import artefact
from stages.files import Folder
from stages.spec import Task
from stages.stage import run_stage
from tests.stages.conftest import MakeTask
from tests.stages.test_stage import DENSE, nonzeros, prune, quiet, stopped

SGD: dict[str, Any] = {"optimizer": {"name": "sgd"}, "batch": 79}
"""79 is odd, so that ranks have shares of unequal size."""


def rank_main(rank: int, rendezvous: str, tasks: list[str]) -> None:
    """One of two ranks: run the tasks one after another, as a lane does."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    for task in tasks:
        manifest = run_stage(Task.model_validate_json(task), quiet)
        assert manifest["world"] == 2
    dist.barrier()  # gloo ends the process of a rank whose peer leaves in the middle of its last words
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_do_what_one_does(make_task: MakeTask, tmp_path: Path, one_rank: None) -> None:
    """Under every ZeRO stage, with a parent's mask and duals, and going on from one rank's checkpoint."""
    child = prune(10.0, duals="carry") | SGD
    two: list[Task] = []
    for store, settings in {f"zero{z}": {"zero": z} for z in range(4)}.items():
        two.append(make_task(DENSE | SGD, "dense", store=store, model="digits_cnn", **settings))
        two.append(make_task(prune() | SGD, "4x", "dense", store=store, model="digits_cnn", **settings))
        two.append(make_task(child, "10x", "4x", store=store, model="digits_cnn", accumulate=2, **settings))
    for key, parent, spec in (("dense", None, DENSE | SGD), ("4x", "dense", prune() | SGD), ("10x", "4x", child)):
        run_stage(make_task(spec, key, parent, model="digits_cnn"), quiet)
    interrupted = make_task(prune() | SGD, "interrupted", "dense", model="digits_cnn", checkpoint_steps=3)
    stopped(interrupted, 3)
    tasks = [task.model_dump_json() for task in [*two, interrupted]]
    multiprocessing.spawn(rank_main, (str(tmp_path / "rendezvous"), tasks), nprocs=2)
    one = {key: artefact.load(Folder(str(tmp_path / "store" / key))) for key in ("dense", "4x", "10x")}
    for task in [*two, interrupted]:
        got = artefact.load(Folder(task.store) / task.key)
        expected = one["4x" if task.key == "interrupted" else task.key]
        assert nonzeros(got.network) == nonzeros(expected.network), task.store
        for name, mask in expected.holds.items():
            assert torch.equal((got.network[name] != 0).float(), got.holds[name])
            assert float((mask == got.holds[name]).float().mean()) > 0.998, (task.store, task.key, name)
        for name, value in expected.network.items():
            assert float((got.network[name] - value).abs().mean()) < 0.01 * float(value.abs().mean()), (
                task.store,
                name,
            )
        for metric in ("val_accuracy", "test_accuracy"):
            assert abs(got.manifest["metrics"][metric] - expected.manifest["metrics"][metric]) <= 2
