"""TensorBoard: what it is told is read back by its own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.config.schema import Monitor
from dualprune.pipeline.trackers.table import Given, mirror
from tests.pipeline.trackers import events
from tests.pipeline.trackers.events import HALF, done, ended, epoch, place, resumed, training

pytest.importorskip("tensorboard")


def ran(folder: Path, happens: list[dict[str, Any]]) -> Any:
    """Mirror events to TensorBoard alone; what its reader finds of `half`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given = Given(Monitor(wandb="disabled", tensorboard=True), "tiny", events.store(folder), folder / "logs", print)
    with mirror(given) as found:
        for event in happens:
            found.hear(event)
    read = EventAccumulator(str(folder / "logs" / "tensorboard" / f"half-{HALF}"))
    return read.Reload()


def test_series_are_there_once(tmp_path: Path) -> None:
    """Also of a stage whose driver was killed, and whose workers were lost."""
    begins = [events.begun(), training("half"), epoch("half", 1), place("half", 15)]
    assert [one.step for one in ran(tmp_path, begins).Scalars("loss")] == [10]
    on = [resumed("half", 20), place("half", 25), epoch("half", 3), resumed("half", 20), epoch("half", 3)]
    found = ran(tmp_path, [events.begun(), *on, epoch("half", 4), done("half"), ended("done")])
    assert [one.step for one in found.Scalars("loss")] == [10, 20, 30, 40]
    assert [one.value for one in found.Scalars("val_error")] == pytest.approx([8.0, 4.0, 8 / 3, 2.0])
    assert [one.step for one in found.Scalars("step_loss")] == [25]
    assert [one.value for one in found.Scalars("sparsity/8.weight")] == pytest.approx([0.9] * 4)
    histogram = found.Histograms("weights/0.weight")[0].histogram_value
    assert (histogram.min, histogram.max, histogram.num) == (-1.0, 1.0, 12.0)
    assert list(histogram.bucket) == [2, 3, 5, 2]
    assert list(histogram.bucket_limit) == [-0.5, 0.0, 0.5, 1.0]
