"""How often a store is asked by a plan and by a run, where each answer of it takes its while."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from rich.console import Console

from dualprune.cluster.lane import Event
from dualprune.pipeline.config.load import load
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.run import driver
from dualprune.pipeline.run.view import View
from tests.bench.scale import Instant, configuration
from tests.bucket import PAGE, Bucket

GROUPS, GROUP = 8, 21


class Apart(Instant):
    """Lanes whose own writings are not counted. All that are at work end at once."""

    def take(self, timeout: float) -> list[Event]:
        """Of all begun tasks, their events."""
        events: list[Event] = []
        with Bucket.apart():
            while self.waiting or self.running:
                events += super().take(timeout)
        return events


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration of some hundred and seventy stages, a third of them choices, with its store in a bucket."""
    path = configuration(tmp_path, GROUPS * GROUP)
    text = path.read_text().replace(f"store: {tmp_path}/store", f"store: bucket://{uuid.uuid4().hex}/store")
    path.write_text(text)
    return path


def test_a_stage_takes_three_answers_and_none_waits_for_anothers(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock, whether that is the newest, and the lock given back. A choice reads, lists, copies and writes. Planned
    again, each takes one, and all of their files together one listing."""
    lanes = Apart(())
    monkeypatch.setattr(driver, "Lanes", lambda *_: lanes)
    settings, problems = load(str(file))
    store, plan = planning.make(settings, problems)
    trained = sum(planned.node.spec.kind == "prune" for planned in plan) + 1
    choices = len(plan) - trained
    assert choices > GROUPS
    with (tmp_path / "terminal").open("w") as terminal, Bucket.slow(0.002):
        rows = driver.run(settings, plan, store, tmp_path / "logs", View(Console(file=terminal)))
        assert {row.state for row in rows} == {"done"}
        assert Bucket.answers.total() <= 3 * trained + 5 * choices + 40
        assert Bucket.answers["list"] <= trained + choices + 10
        assert Bucket.asking[1] > GROUPS
    with Bucket.slow(0.05):
        _, plan = planning.make(*load(str(file)))
        assert {planned.state for planned in plan} == {"cached"}
        assert Bucket.answers["get"] <= len(plan) + 5
        assert Bucket.answers["list"] <= 5 + len(plan) * 2 / PAGE + 1
        assert Bucket.asking[1] > GROUPS
