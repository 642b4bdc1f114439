"""Where a run is, as it leaves it in its store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dualprune.pipeline.store.progress import Progress, running
from dualprune.stages.files.folder import Folder


def wait(condition: Callable[[], bool]) -> None:
    """Return once a condition holds."""
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_the_newest_lines_are_there(tmp_path: Path) -> None:
    """While the run goes on, and none once it has ended."""
    folder, lines = Folder(str(tmp_path)), {"dense": "dense: training"}
    with Progress(folder, "tiny", lambda: lines, every=0.01):
        wait(lambda: running(folder, "tiny") == {"dense": "dense: training"})
        lines = {"half": "half: training", "other": "other: training"}
        wait(lambda: running(folder, "tiny") == lines)
    assert running(folder, "tiny") == {}
    assert (tmp_path / "progress" / "tiny.json").exists()


def test_nothing_is_written_while_nothing_changes(tmp_path: Path) -> None:
    """However often it is looked at."""
    looks = threading.Semaphore(0)

    class Counting(Folder):
        writes = 0

        def write(self, path: str, data: bytes) -> None:
            Counting.writes += 1
            super().write(path, data)

    def lines() -> dict[str, str]:
        looks.release()
        return {"dense": "dense: training"}

    with Progress(Counting(str(tmp_path)), "tiny", lines, every=0.01):
        for _ in range(10):
            assert looks.acquire(timeout=60)
        assert Counting.writes == 1


def test_a_store_that_is_away_harms_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again, and what the run does goes on."""

    class Away(Folder):
        away = True

        def write(self, path: str, data: bytes) -> None:
            if self.away:
                raise OSError("the store is away")
            super().write(path, data)

    folder = Away(str(tmp_path))
    with Progress(folder, "tiny", lambda: {"dense": "dense: training"}, every=0.01):
        wait(lambda: "progress/tiny.json can't be written" in caplog.text)
        folder.away = False
        wait(lambda: running(folder, "tiny") == {"dense": "dense: training"})


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"lines": 3}', b'{"other": {}}'])
def test_what_can_not_be_read_is_nothing(tmp_path: Path, content: bytes | None) -> None:
    """A run that never was, or a file that is no such file."""
    folder = Folder(str(tmp_path))
    if content is not None:
        folder.write("progress/tiny.json", content)
    assert running(folder, "tiny") == {}
