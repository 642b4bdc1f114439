"""What a run says of a stage that has ended: on the terminal, and in the event log."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.run.report import Report
from dualprune.pipeline.run.results import advice
from dualprune.pipeline.run.view import View
from dualprune.pipeline.store.events import Event, Events
from dualprune.stages.files.folder import Folder
from tests.pipeline.common import loaded, manifest
from tests.pipeline.run.test_results import WHOLE, ended


def test_a_stage_ends_with_both_rates_and_with_advice(tmp_path: Path) -> None:
    """Of a tensor and of the network where these differ; where ADMM ended far from its sets, for trackers too."""
    plan = planning.make(*loaded(tmp_path))[1]
    file, large = io.StringIO(), ended(0.33)
    events, heard = Events(Folder(str(tmp_path)), "tiny"), list[Event]()
    events.listeners.append(heard.append)
    report = Report(View(Console(file=file)), events)
    for planned, found in zip(plan, (manifest(rate=1.0), large, manifest(**WHOLE)), strict=False):
        report.submitted(planned.node)
        report.done(planned.node, found)
    lines = [line for line in file.getvalue().splitlines() if "waits" not in line]
    assert lines == [
        "dense: done: 1.00x, val 97.50 % in 12.5 s",
        "half: done: 2.00x, val 97.50 % in 12.5 s",
        f"half: {advice(large)}",
        "v1.5-quarter: done: 4.00x (1.05x of the network), val 97.50 % in 12.5 s",
    ]
    done = {event["stage"]: event for event in heard if event["event"] == "done"}
    assert [done[name]["advice"] for name in ("dense", "half", "v1.5-quarter")] == [None, advice(large), None]
    assert {name: done["v1.5-quarter"]["metrics"][name] for name in WHOLE} == WHOLE
