"""What a run says of a stage that has ended: on the terminal, and in the real files of W&B."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dualprune.cluster.monitor import Monitor
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.run.report import Report
from dualprune.pipeline.run.results import advice
from dualprune.pipeline.run.view import View
from dualprune.pipeline.store.events import Events
from dualprune.stages.files.folder import Folder
from tests.cluster.test_monitor import _offline, runs  # noqa: F401 - a fixture
from tests.pipeline.common import loaded, manifest
from tests.pipeline.run.test_results import WHOLE, ended


@pytest.mark.usefixtures("_offline")
def test_a_stage_ends_with_both_rates_and_with_advice(tmp_path: Path) -> None:
    """Of a tensor and of the network where these differ; where ADMM ended far from its sets, in its W&B row too."""
    plan = planning.make(*loaded(tmp_path))[1]
    file, large = io.StringIO(), ended(0.33)
    monitor, events = Monitor("offline", "project", "tiny", tmp_path / "wandb"), Events(Folder(str(tmp_path)), "tiny")
    report = Report(View(Console(file=file)), monitor, events)
    for planned, found in zip(plan, (manifest(rate=1.0), large, manifest(**WHOLE)), strict=False):
        report.submitted(planned.node, "tiny")
        report.done(planned.node, found)
    report.close(20.0)
    lines = [line for line in file.getvalue().splitlines() if "waits" not in line]
    assert lines == [
        "dense: done: 1.00x, val 97.50 % in 12.5 s",
        "half: done: 2.00x, val 97.50 % in 12.5 s",
        f"half: {advice(large)}",
        "v1.5-quarter: done: 4.00x (1.05x of the network), val 97.50 % in 12.5 s",
    ]
    rows = {name: summary for name, (_, _, summary, _) in runs(tmp_path / "wandb").items()}
    assert {name: row.get("advice") for name, row in rows.items()} == {
        "dense": None,
        "half": advice(large),
        "v1.5-quarter": None,
    }
    assert {name: rows["v1.5-quarter"][name] for name in WHOLE} == WHOLE
