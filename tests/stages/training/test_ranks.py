"""Two real ranks over gloo: the same batches, the same masks to rounding, and exactly k weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessRaisedException

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import SPLITS, DataError, digest, read_manifest
from dualprune.stages.data.order import epoch_order
from dualprune.stages.data.shards import write
from dualprune.stages.engine.engine import Engine
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.training import asking
from dualprune.stages.training.stage import run_stage
from dualprune.stages.training.step import NonFinite
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask, jpegs, noisy_net, spiky_net
from tests.stages.training.test_stage import DENSE, nonzeros, prune, quiet, same_bytes, stopped

SGD: dict[str, Any] = {"optimizer": {"name": "sgd"}, "batch": 79}
"""79 is odd, so that ranks have shares of unequal size."""


def rank_main(tasks: list[str]) -> None:
    """One of two ranks: run the tasks one after another, as a lane does."""
    for task in tasks:
        manifest = run_stage(StageJob.model_validate_json(task), quiet)
        assert manifest["world"] == 2


def failing_main() -> None:
    """One of two ranks, of which one fails while the other waits for it."""
    assert dist.get_rank() == 0, "as it must"
    dist.barrier()


@pytest.mark.slow
def test_what_fails_on_a_rank_fails_the_test() -> None:
    """Or none of the tests here could fail."""
    with pytest.raises(ProcessRaisedException, match="as it must"):
        on_ranks(2, failing_main)


@pytest.mark.slow
def test_two_ranks_do_what_one_does(make_task: MakeTask, tmp_path: Path, one_rank: None) -> None:
    """Under every ZeRO stage, with a parent's mask and duals, and going on from one rank's checkpoint."""
    child = prune(10.0, duals="carry") | SGD
    two: list[StageJob] = []
    for store, settings in {f"zero{z}": {"zero": z} for z in range(4)}.items():
        two.append(make_task(DENSE | SGD, "dense", store=store, model="digits_cnn", **settings))
        two.append(make_task(prune() | SGD, "4x", "dense", store=store, model="digits_cnn", **settings))
        two.append(make_task(child, "10x", "4x", store=store, model="digits_cnn", accumulate=2, **settings))
    for key, parent, spec in (("dense", None, DENSE | SGD), ("4x", "dense", prune() | SGD), ("10x", "4x", child)):
        run_stage(make_task(spec, key, parent, model="digits_cnn"), quiet)
    interrupted = make_task(prune() | SGD, "interrupted", "dense", model="digits_cnn", checkpoint_steps=3)
    stopped(interrupted, 3)
    tasks = [task.model_dump_json() for task in [*two, interrupted]]
    on_ranks(2, rank_main, tasks)
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


def stop_main(pairs: list[tuple[str, str]]) -> None:
    """One of two ranks: a whole stage, and one that rank 1 alone is told to stop, twice; both in several ways."""
    rank = dist.get_rank()
    MODELS["noisy"] = noisy_net
    asking.EVERY, asking.MOST = 1e9, 3  # whatever a step takes here
    for whole, task in pairs:
        run_stage(StageJob.model_validate_json(whole), quiet)
        for steps in (4, 8):
            events: list[dict[str, Any]] = []
            stopping = iter([False, True] if rank == 1 else [False, False]).__next__
            assert run_stage(StageJob.model_validate_json(task), events.append, stopping) is None
            assert rank == 1 or events[-1] == {"event": "stopped", "steps": steps}
        assert run_stage(StageJob.model_validate_json(task), quiet)["world"] == 2


@pytest.mark.slow
def test_two_ranks_that_are_stopped_end_with_the_same_bytes(make_task: MakeTask) -> None:
    """All stop at one step though one of them was told; batch statistics and losses are each rank's own till then."""
    dense = DENSE | {"train": {"epochs": 3, "lr": 0.01}, "batch": 31}
    pairs = [
        (
            make_task(dense, store=f"whole{zero}", zero=zero),
            make_task(dense, store=f"stopped{zero}", zero=zero, checkpoint_steps=5),
        )
        for zero in range(4)
    ]
    told = [(whole.model_dump_json(), task.model_dump_json()) for whole, task in pairs]
    on_ranks(2, stop_main, told)
    for whole, task in pairs:
        same_bytes(task, whole)


def spike_main(tasks: list[str]) -> None:
    """One of two ranks, of which the last meets gradients that are not finite, and then losses."""
    MODELS["spiky"] = spiky_net
    for task in tasks:
        with pytest.raises(NonFinite, match=r"at step 4 \(epoch 1\): 1.weight, 1.bias$"):
            run_stage(StageJob.model_validate_json(task), quiet)
    forward = Engine.forward
    if dist.get_rank() == 1:
        Engine.forward = lambda engine, pictures: forward(engine, pictures) * math.nan  # type: ignore[method-assign]
    loss = r"^the loss is nan at step 1 \(epoch 1, rank 1\): the inputs are finite"
    for task in tasks:
        with pytest.raises(NonFinite, match=loss):
            run_stage(StageJob.model_validate_json(task), quiet)


@pytest.mark.slow
def test_all_ranks_say_what_is_not_finite_on_one(make_task: MakeTask) -> None:
    """And stop before the step, although it was the first of that rank's micro-batches, and gradients are sharded."""
    tasks = [make_task(DENSE, model="spiky", zero=zero, accumulate=2).model_dump_json() for zero in range(4)]
    on_ranks(2, spike_main, tasks)


def bad_main(fine: str, task: str) -> None:
    """One of two ranks, which meet bad samples: fewer than are allowed, and each fewer than are allowed."""
    events: list[dict[str, Any]] = []
    manifest = run_stage(StageJob.model_validate_json(fine), events.append)
    assert manifest is not None
    assert {split: len(reasons) for split, reasons in manifest["left_out"].items()} == dict.fromkeys(SPLITS, 4)
    epochs = [event for event in events if event["event"] == "epoch"]
    assert dist.get_rank() or [(row["bad"], len(row.get("left_out", ()))) for row in epochs] == [(4, 6), (4, 0)]
    with pytest.raises(DataError, match=r"4 of 64 samples are bad, more than data\.bad \(0\.05\) allows"):
        run_stage(StageJob.model_validate_json(task), quiet)


@pytest.mark.slow
def test_bad_samples_are_counted_over_all_ranks(make_task: MakeTask, tmp_path: Path) -> None:
    """Each once, in rows, in the manifest and against the share that is allowed (three of 64, here)."""
    # Two for each rank, in the order of the first epoch and in that of evaluation.
    halves = [epoch_order(64, seed=0, epoch=0)[rank::2] for rank in range(2)]
    bad = {next(number for number in half if number % 2 == odd) for half in halves for odd in range(2)}
    samples = [(b"bad" if number in bad else data, label) for number, (data, label) in enumerate(jpegs(64))]
    folder = str(tmp_path / "shards")
    write(folder, "jpegs", dict.fromkeys(SPLITS, samples), 8_000)
    tasks = []
    for key, share in (("fine", 0.1), ("key", 0.05)):
        data = {"shards": folder, "crop": 16, "resize": 20, "bad": share}
        task = make_task(DENSE | {"model": {"name": "resnet20", "classes": 3}, "data": data, "batch": 64}, key)
        tasks.append(task.model_copy(update={"shards": folder, "data_digest": digest(read_manifest(folder))}))
    on_ranks(2, bad_main, *(task.model_dump_json() for task in tasks))
