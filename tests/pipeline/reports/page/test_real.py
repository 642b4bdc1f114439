"""The report of a run that was really trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualprune.pipeline.reports.page.collect import collect
from dualprune.pipeline.reports.page.figures.table import figures
from dualprune.pipeline.reports.page.page import report
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import read

pytestmark = pytest.mark.slow


def test_a_real_run(undisturbed: tuple[Path, list[str]]) -> None:
    """Nothing is missing; its figures have what its manifests and its rows of epochs say."""
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed")
    store = Store(str(undisturbed[0] / "runs"))
    run = collect(store, "small")
    assert (run.state, run.missing, run.drivers) == ("finished", (), 1)
    assert run.way.stages == ("dense", "prune-4x", "prune-8x")
    assert run.samples == 360
    for stage in run.stages.values():
        manifest = read(store.folder / stage.key)
        assert manifest is not None
        assert stage.metrics == manifest["metrics"]
        assert [row["epoch"] for row in stage.rows] == list(range(1, len(stage.rows) + 1))
        assert stage.history is not None
        assert [attempt.ended for attempt in stage.history.attempts] == ["done"]
        assert [row["steps"] for row in stage.history.rows] == [row["steps"] for row in stage.rows]
    wanted = "tradeoff graph layers bits convergence settling learning masks size time"
    assert [figure.name for figure in figures(run)] == wanted.split()
    page = report(run)
    assert len(page.encode()) < 400_000
    assert all(stage.key in page for stage in run.stages.values())
