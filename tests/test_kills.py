"""A whole job, killed at a random moment; `python -m tests.soak.kills` does many of each kind."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest

from tests.running import bits
from tests.soak.kills import Reference, trial

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]


def reference(folder: Path) -> Reference:
    """What a finished run says of itself; its driver logs from when Ray is up until the last stage is done."""
    log = min(folder.glob("runs/logs/small/*/driver.log"))  # what ran later found all done
    lines = [line for line in log.read_text().splitlines() if re.match(r"\d{4}-", line)]
    times = [datetime.fromisoformat(line[:19]) for line in lines]
    training = next(time for time, line in zip(times, lines, strict=True) if "dense: trains from step 0" in line)
    return Reference(bits(folder), (times[-1] - times[0]).total_seconds(), (training - times[0]).total_seconds())


def test_a_job_that_is_terminated(undisturbed: tuple[Path, list[str]], tmp_path: Path) -> None:
    """SIGTERM to all of its processes at once: it ends as one that was asked to, though Ray may be gone before it; and
    the same command finishes the run, to the same bits."""
    row = trial("job", 0, 0, tmp_path, reference(undisturbed[0]))
    assert row.problems == []
    assert row.codes == [143, 0]
