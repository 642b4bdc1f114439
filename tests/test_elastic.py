"""Stages on a cluster whose machines come and go: real Ray nodes, of one CPU each, that are killed and drained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualprune.stages.data.format import read_manifest
from dualprune.stages.data.order import epoch_order, global_batch, steps_per_epoch
from tests.running import Nodes, Running, json_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EPOCHS, BATCH = 40, 96
CONFIG = f"""
name: elastic
cluster: {{workers: {{min: 1, max: 2}}}}
model: {{name: digits_cnn}}
data: {{source: digits, mean: [0.3], std: [0.38], shift: 1}}
monitor: {{wandb: disabled}}
batch: {BATCH}
engine: {{checkpoint_steps: 5}}
stages:
  - name: dense
    kind: train
    train: {{epochs: {EPOCHS}, lr: 0.002}}
"""
PROGRAM = """
import sys
from dualprune.cluster import lanes
from dualprune.pipeline.run import driver
from dualprune.pipeline.cli.main import main

lanes.GROWING = 5.0

def work(payload, log, stopping):
    # Pickled by value, because it is this program's own: it notes which samples each rank trains on, and alone it is
    # slow until it is let go, so that a machine has the time to come.
    import json, os, time
    import torch.distributed as dist
    from dualprune.stages.data.read.memory import Batches
    from dualprune.stages.training.stage import run_stage
    from dualprune.stages.kinds.job import StageJob

    plain = Batches.train
    rank, world = dist.get_rank(), dist.get_world_size()

    def noted(self, indices, epoch):
        if world == 1 and not os.path.exists("{FOLDER}/quick"):
            time.sleep(0.2)
        row = {"time": time.time(), "rank": rank, "world": world, "epoch": epoch, "samples": indices.tolist()}
        with open(f"{FOLDER}/samples-{os.getpid()}.jsonl", "a") as file:
            file.write(json.dumps(row) + chr(10))
        return plain(self, indices, epoch)

    Batches.train = noted
    try:
        return run_stage(StageJob.model_validate(payload), log, stopping)
    finally:
        Batches.train = plain

driver.work = work
sys.exit(main())
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """A cluster's head; its end is the end of all of it."""
    cluster = Nodes(tmp_path)
    try:
        yield cluster
    finally:
        cluster.end()


def running(folder: Path, nodes: Nodes, *settings: str) -> Running:
    """A run of CONFIG on a cluster, which leaves notes of the samples that it saw."""
    (folder / "elastic.yaml").write_text(CONFIG)
    named = (f"cluster.address={nodes.address}", *settings)
    arguments = [part for setting in named for part in ("--set", setting)]
    program = ("-c", PROGRAM.replace("{FOLDER}", str(folder)))
    return Running(folder, "run", "elastic.yaml", "--json", *arguments, program=program, environment=nodes.ENVIRONMENT)


def worlds(folder: Path) -> list[int]:
    """Check that each epoch is made of its global batches, each trained on once, but for what was lost and repeated.

    Returns the numbers of ranks that there were, one after another.
    """
    lines = [line for file in folder.glob("samples-*.jsonl") for line in file.read_text().splitlines()]
    rows: list[dict[str, Any]] = sorted(map(json.loads, lines), key=lambda row: row["time"])
    samples = read_manifest(str(folder / "runs" / "data" / "digits"))["splits"]["train"]["samples"]
    steps = steps_per_epoch(samples, BATCH)
    where: dict[int, dict[int, int]] = {}
    for epoch in range(EPOCHS):
        order = epoch_order(samples, 0, epoch)
        where[epoch] = {int(sample): place // BATCH for place, sample in enumerate(order)}
    last: dict[tuple[int, int], dict[int, dict[str, Any]]] = {}
    for row in rows:
        found = {where[row["epoch"]][sample] for sample in row["samples"]}
        assert len(found) == 1, "a rank's share is of one global batch"
        shares = last.setdefault((row["epoch"], found.pop()), {})
        if any(share["world"] != row["world"] for share in shares.values()):
            shares.clear()  # what another number of ranks did of this step was lost
        shares[row["rank"]] = row
    assert set(last) == {(epoch, step) for epoch in range(EPOCHS) for step in range(steps)}
    for (epoch, step), shares in last.items():
        seen = np.concatenate([share["samples"] for share in shares.values()])
        expected = global_batch(epoch_order(samples, 0, epoch), BATCH, step)
        assert sorted(seen) == sorted(expected), (epoch, step)
    found = [row["world"] for row in rows]
    return [world for number, world in enumerate(found) if number == 0 or found[number - 1] != world]


def test_a_stage_goes_on_with_what_is_left_and_takes_back_what_returns(tmp_path: Path, nodes: Nodes) -> None:
    """Two workers; one's machine dies, and comes back later. The samples are those of an undisturbed run."""
    nodes.add()
    second = nodes.add()
    with running(tmp_path, nodes) as run:
        run.wait_for("dense: training")
        run.wait_for_checkpoint(tmp_path / "runs", parts=2)
        nodes.kill(second)
        run.wait_for("dense: goes on after step")
        run.wait_for_checkpoint(tmp_path / "runs", parts=1)
        nodes.add()
        run.wait_for("dense: stopped after step")
        code, output = run.end()
    shown = "\n".join(output)
    assert code == 0, shown
    assert "dense: its workers were lost; retry 1 of 3" in shown
    assert "a machine under it" not in shown
    assert worlds(tmp_path) == [2, 1, 2], shown
    # Growing cost no step: it went on from where it was asked to leave.
    steps = [int(step) for step in re.findall(r"(?:stopped|goes on) after step (\d+)", shown)]
    assert steps[1] == steps[2], shown
    assert json_of(output)["stages"][0]["state"] == "done"


@pytest.mark.soak
def test_a_machine_that_is_taken_away_is_left_in_time(tmp_path: Path, nodes: Nodes) -> None:
    """Its going is announced, as a cloud would: the stage saves, leaves it for another one, and counts no loss."""
    before = nodes.identities()
    nodes.add()
    (first,) = nodes.identities() - before
    with running(tmp_path, nodes, "cluster.workers=1", "retry.lost=0") as run:
        run.wait_for("dense: training")
        run.wait_for_checkpoint(tmp_path / "runs", parts=1)
        nodes.add()
        nodes.announce_end(first)
        run.wait_for("dense: stopped after step")
        (tmp_path / "quick").touch()
        code, output = run.end()
    shown = "\n".join(output)
    assert code == 0, shown
    assert "dense: a machine under it was taken away; retry 1" in output
    stopped, resumed = re.findall(r"(?:stopped|goes on) after step (\d+)", shown)
    assert stopped == resumed
    assert worlds(tmp_path) == [1]
