"""What stages are going to take: from the steps of those that are done, or from a speed that is given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dualprune.pipeline import output
from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.config.schema import Cluster, Workers
from dualprune.pipeline.plan import costs
from dualprune.pipeline.plan.costs import Cost
from dualprune.pipeline.plan.state import Planned
from dualprune.stages.files.folder import Folder
from tests.pipeline.common import shards
from tests.pipeline.reports.test_plan import plan

ONE = Cluster()


def seconds(found: list[Planned], cluster: Cluster = ONE) -> dict[str, float]:
    """On the clock, by stage."""
    return {name: cost.seconds for name, cost in costs.estimated(found, cluster).items()}


def test_nothing_done_gives_no_estimates(tmp_path: Path) -> None:
    """There are no steps to go by."""
    found = plan(tmp_path)
    assert costs.estimated(found, ONE) == {}
    assert costs.total(found, {}) is None


def test_estimates_go_by_the_steps_of_what_is_alike(tmp_path: Path) -> None:
    """All of them together: 33 s for 88 steps. Another batch is not alike; what is done or only chooses has none."""
    found = plan(tmp_path, dense=11.0, half=22.0)
    step = 33 / 88
    assert seconds(found) == pytest.approx(
        {"v1.5-quarter": 2 * step, "other": 2 * step, "least": 2 * step, "long": 100 * step}
    )
    assert costs.total(found, costs.estimated(found, ONE)) is None  # `wide` is like nothing that was measured
    begun = [replace(p, state="resume", begun=60) if p.node.name == "long" else p for p in found]
    assert seconds(begun)["long"] == pytest.approx(40 * step)


def test_a_choices_own_time_counts_for_nothing(tmp_path: Path) -> None:
    """It has no steps."""
    without = seconds(plan(tmp_path, dense=11.0, half=22.0, other=11.0))
    assert seconds(plan(tmp_path, best=5.0)) == without


def test_hours_count_every_worker_that_was_at_work(tmp_path: Path) -> None:
    """Of its GPUs, if it has some: 11 s of 44 steps on one worker are as many GPU-hours on two GPUs each."""
    found = plan(tmp_path, dense=11.0)
    for gpus, factor in ((0, 1), (1, 1), (2, 2), (0.5, 0.5)):
        cost = costs.estimated(found, Cluster(gpus=gpus))["half"]
        assert cost.seconds == pytest.approx(2 * 11 / 44)
        assert cost.hours == pytest.approx(factor * 2 * 11 / 44 / 3600)
    for planned in found:
        if planned.manifest is not None:
            planned.manifest["world"] = 3  # type: ignore[index]
    assert costs.estimated(found, ONE)["half"].hours == pytest.approx(3 * 2 * 11 / 44 / 3600)


@pytest.mark.parametrize(("gpus", "workers", "devices"), [(1, 8, 8), (2, 4, 8), (0, 3, 3), (0.5, 1, 0.5)])
def test_a_speed_is_of_one_device(tmp_path: Path, gpus: float, workers: int, devices: float) -> None:
    """Hours do not depend on how many there are, time on the clock does; batches of their own size count."""
    found = plan(tmp_path, dense=11.0)
    cluster = Cluster(gpus=gpus, workers=Workers(min=1, max=workers))
    got = costs.estimated(found, cluster, speed=10.0)
    images = {"half": 2 * 64, "v1.5-quarter": 2 * 64, "other": 2 * 64, "least": 2 * 64, "long": 100 * 64}
    images["wide"] = 4 * 50
    assert {name: cost.hours for name, cost in got.items()} == pytest.approx(
        {name: count / 36_000 for name, count in images.items()}
    )
    for name, count in images.items():
        assert got[name].seconds == pytest.approx(count / 10 / devices)
    whole = costs.total(found, got)
    assert whole is not None
    assert whole.hours == pytest.approx(sum(images.values()) / 36_000)
    assert costs.total([p for p in found if p.state == "cached"], got) is None


def test_imagenet_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """90 epochs of 1,281,167 images at 1,000 a second and GPU: 32 GPU-hours, in steps of the batch."""
    shards(tmp_path / "imagenet")
    manifest = Folder(str(tmp_path / "imagenet")).read_json("manifest.json")
    manifest["splits"]["train"] |= {"samples": 1_281_167, "format": "jpeg"}
    Folder(str(tmp_path / "imagenet")).write_json("manifest.json", manifest)
    (tmp_path / "file.yaml").write_text(
        f"""
        name: big
        store: {tmp_path / "store"}
        cluster: {{workers: {{min: 1, max: 4}}, gpus: 1}}
        model: {{name: resnet50, classes: 1000}}
        data: {{shards: {tmp_path / "imagenet"}}}
        batch: 256
        stages: [{{name: dense, kind: train, train: {{epochs: 90, lr: 0.1}}}}]
        """
    )
    arguments = ["plan", str(tmp_path / "file.yaml"), "--images-per-second", "1000"]
    assert cli.main([*arguments, "--json"]) == output.DONE
    printed = json.loads(capsys.readouterr().out)
    steps = 90 * (1_281_167 // 256)
    assert (printed["device"], printed["left"]["steps"]) == ("GPU", steps)
    assert printed["left"]["estimated_device_hours"] == pytest.approx(steps * 256 / 1000 / 3600)
    assert printed["stages"][0]["estimated_seconds"] == pytest.approx(steps * 256 / 4000)
    assert cli.main(arguments) == output.DONE
    table = capsys.readouterr().out
    assert "GPU hours" in table
    assert f"{steps:,}" in table
    assert "32.03" in table


@pytest.mark.parametrize("given", ["0", "-3", "fast", "nan", "inf"])
def test_a_speed_that_is_none_is_refused(tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", "file.yaml", f"--images-per-second={given}"])
    assert ended.value.code == output.BAD_INPUT
    assert f"a number above 0 is needed, not '{given}'" in capsys.readouterr().err


def test_the_whole_is_the_sum() -> None:
    """And of nothing to do, nothing."""
    assert costs.total([], {"x": Cost(1, 1)}) is None
