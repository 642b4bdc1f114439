"""The tasks' own modules, plans of their configurations, and a run of one in small."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from dualprune.pipeline import output
from dualprune.pipeline.cli import main as cli
from dualprune.stages.objectives.base import Batch
from tests.bench.common import Options, report
from tests.bench.tasks import ALL, Stages, Task, _row
from tests.running import Running, bits, dualprune, json_of, stage, title
from tests.tasks.dna import tfbs
from tests.tasks.faces import pipnet

SMALL = {"dna": ("data.args.peaks=40",)}
"""What makes a task's data small enough for a test."""


def pairs(bases: np.ndarray) -> list[tuple[int, int]]:
    return sorted(zip(bases[:-1].tolist(), bases[1:].tolist(), strict=True))


def test_shuffled_bases_have_the_pairs_that_they_had() -> None:
    """In another order; the first and the last stay."""
    random = np.random.default_rng(0)
    for length in (2, 3, 8, 101):
        bases = random.integers(0, 4, length).astype(np.int8)
        other = tfbs.shuffled(bases, random)
        assert pairs(other) == pairs(bases)
    assert not np.array_equal(other, bases)


def faces(count: int) -> Batch:
    """Pictures with points anywhere."""
    generator = torch.Generator().manual_seed(1)
    target = 0.2 + 0.6 * torch.rand(count, pipnet.POINTS, 2, generator=generator)
    return {"image": torch.rand(count, 1, 64, 64, generator=generator), "target": target}


def test_maps_that_are_right_have_no_error() -> None:
    """Scores, offsets, and those of neighbours."""
    batch, objective, near = faces(3), pipnet.objective(neighbours=4), pipnet._nearest(4)
    cells, at = pipnet._cells(batch["target"], 8)
    maps = torch.zeros(3, pipnet.POINTS, 11, 8, 8)
    maps[:, :, 0].flatten(2).scatter_(2, cells[:, :, None], 1)
    maps[:, :, 1:3] = (batch["target"] * 8 - at)[..., None, None]
    maps[:, :, 3:] = (batch["target"][:, near] * 8 - at[:, :, None]).flatten(2)[..., None, None]
    assert float(objective.loss(maps, batch)) == pytest.approx(0, abs=1e-4)
    assert float(objective.metrics["nme"].sums(maps, batch)) == pytest.approx(0, abs=1e-4)
    maps[:, :, 1] += 0.8  # a tenth of the picture to the right, by what each point's own cell says of it alone
    assert float(objective.metrics["nme"].sums(maps, batch)) > 0.01


def test_points_move_with_the_picture() -> None:
    """A bright spot stays where its point is; mirrored, points change their places."""
    assert sorted(pipnet.MIRRORED) == list(range(pipnet.POINTS))
    assert [pipnet.MIRRORED[other] for other in pipnet.MIRRORED] == list(range(pipnet.POINTS))
    batch = faces(16)
    image = torch.zeros(16, 1, 64, 64)
    spots = (batch["target"][:, 30] * 64).long()  # the tip of the nose, which is its own mirror image
    for n, (x, y) in enumerate(spots.tolist()):
        image[n, 0, y - 1 : y + 2, x - 1 : x + 2] = 1
    torch.manual_seed(0)
    moved = pipnet.augmented({"image": image, "target": (spots[:, None] + 0.5).expand(16, 68, 2) / 64})
    for pixels, points in zip(moved["image"][:, 0], moved["target"], strict=True):
        weight = pixels / pixels.sum()
        places = (torch.arange(64) + 0.5) / 64
        middle = torch.stack([(weight.sum(0) * places).sum(), (weight.sum(1) * places).sum()])
        if float(points.min()) > 0.05 and float(points.max()) < 0.95:
            assert (middle - points[30]).abs().max() < 0.01


def test_all_columns_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where there is no terminal that is as wide; what is not measured is a dash."""
    task = next(task for task in ALL if task.name == "imagenet sample")
    row = _row(task, Stages("EfficientNet-lite0"), {"dense": {"test_accuracy": -0.05468}})
    row |= {"magnitude_val": -0.07055}
    report("All tasks", [row], Options(quick=True, json=None))
    lines = capsys.readouterr().out.splitlines()
    assert any(all(name.replace("_", " ") in line for name in row) for line in lines)
    assert any(line.split()[3:] == ["accuracy", "-", "-0.05468", "-", "-", "-0.07055", "-"] for line in lines)


@pytest.fixture
def root() -> str:
    """The folder of the data."""
    found = os.environ.get("DUALPRUNE_DATA")
    if not found:
        pytest.skip("DUALPRUNE_DATA is not set: it names a folder with data and weights")
    return found


@pytest.mark.parametrize("task", [task for task in ALL if task.prepare is None], ids=lambda task: task.name)
def test_a_plan_of_each(task: Task, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules are found, its data is written, its patterns match."""
    monkeypatch.chdir(tmp_path)
    sets = [*(setting.format(root=root, made="") for setting in task.sets), *SMALL.get(task.name, ())]
    assert cli.main(["plan", task.config, "--set", f"store={tmp_path / 'runs'}", *sets]) == output.DONE


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_faces_in_small(root: str, tmp_path: Path) -> None:
    """A network, a loss, a metric, augmentation and data of one's own go through all stages on two workers."""
    task = next(task for task in ALL if task.name == "faces")
    sets = [setting.format(root=root) for setting in task.sets]
    code, lines = dualprune(tmp_path, "run", task.config, "--smoke", "--json", "--set", "cluster.workers=2", *sets)
    assert code == 0, "\n".join(lines)
    rows = json_of(lines)["stages"]
    assert [row["state"] for row in rows] == ["done"] * 3
    assert [row["rate"] for row in rows[1:]] == [pytest.approx(10, rel=0.01)] * 2
    assert all(row["test_nme"] > 0 for row in rows)


KILLED = {
    "dna": (
        *("both", "both-admm-10x"),
        *("data.args.peaks=100", "stages.both.train.epochs=1", "stages.both-admm-10x.admm.interval=5"),
    ),
    "faces": (
        *("dense", "admm-10x"),
        *("data.limit=192", "stages.dense.train.epochs=1", "stages.admm-10x.admm.interval=3"),
        "stages.admm-10x.retrain.epochs=2",
    ),
}
"""Of a task, a stage, its child by ADMM, and settings that make them short."""


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["dna", "faces"])
def test_a_task_that_is_killed_ends_with_the_same_bits(name: str, root: str, tmp_path: Path) -> None:
    """kill -9 of a worker in ADMM: the run goes on from a checkpoint of the networks, losses and data of one's own."""
    first, second, *shorter = KILLED[name]
    task = next(task for task in ALL if task.name == name)
    sets = ("cluster.workers=2", *(setting.format(root=root) for setting in task.sets), *shorter)
    command = ("run", task.config, "--json", "--only", first, "--only", second, "--set", *sets)
    (whole := tmp_path / "whole").mkdir()
    code, lines = dualprune(whole, *command)
    assert code == 0, "\n".join(lines)
    (killed := tmp_path / "killed").mkdir()
    with Running(killed, *command) as run:
        run.wait_for(f"{second}: training")
        run.wait_for_checkpoint(killed / "runs" / stage(lines, second)["key"])
        workers = [child for child in run.group() if "RayTrainWorker" in title(child)]
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
        code, output = run.end()
    assert code == 0, "\n".join(output)
    assert any(f"{second}: goes on after step" in line for line in output)
    assert bits(killed) == bits(whole)
