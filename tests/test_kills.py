"""A machine, and a whole job, killed at random moments; `python -m tests.soak.kills` does many of each kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.running import Nodes, bits
from tests.soak.kills import Kind, Reference, trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """A cluster of two machines and a head."""
    cluster = Nodes(tmp_path)
    try:
        cluster.add()
        cluster.add()
        yield cluster
    finally:
        cluster.end()


def reference(folder: Path) -> Reference:
    """What a finished run says of itself; its driver logs from when Ray is up until the last stage is done."""
    (log,) = folder.glob("runs/logs/small/*/driver.log")
    times = [datetime.fromisoformat(line[:19]) for line in log.read_text().splitlines() if re.match(r"\d{4}-", line)]
    seconds = (times[-1] - times[0]).total_seconds()
    return Reference(bits(folder), seconds, 0.0)


def test_a_job_that_is_terminated(undisturbed: tuple[Path, list[str]], tmp_path: Path) -> None:
    """SIGTERM to all of its processes at once: the same command finishes the run, to the same bits."""
    row = trial("job", 0, 0, tmp_path, reference(undisturbed[0]))
    assert row.problems == []
    assert len(row.codes) == 2


def test_a_machine_that_dies(undisturbed: tuple[Path, list[str]], tmp_path: Path, nodes: Nodes) -> None:
    """The run waits for another one in its place, and goes on by itself to the same bits."""
    kind: Kind = "node"
    row = trial(kind, 0, 0, tmp_path, reference(undisturbed[0]), nodes)
    assert row.problems == []
    assert row.codes == [0]
