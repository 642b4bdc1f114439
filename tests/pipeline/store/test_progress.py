"""Where a run is, as it leaves it in its store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dualprune.pipeline.store.progress import Left, Progress, left
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
        wait(lambda: left(folder, "tiny").lines == {"dense": "dense: training"})
        lines = {"half": "half: training", "other": "other: training"}
        wait(lambda: left(folder, "tiny").lines == lines)
    assert left(folder, "tiny").lines == {}
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
        wait(lambda: left(folder, "tiny").lines == {"dense": "dense: training"})


NOT_SUCH = [None, b"", b"[]", b'{"lines": 3}', b'{"other": {}}', b'{"lines": "abc"}', b'{"lines": {"half": 3}}']
NOT_SUCH += [b'{"lines": {}, "failed": 3}', b'{"lines": {}, "began": "yesterday"}', b'{"lines": {}, "works": []}']


@pytest.mark.parametrize("content", NOT_SUCH)
def test_what_can_not_be_read_is_nothing(tmp_path: Path, content: bytes | None) -> None:
    """A run that never was, a file that is no such file, or one of a version that means other things by these names."""
    folder = Folder(str(tmp_path))
    if content is not None:
        folder.write("progress/tiny.json", content)
    assert left(folder, "tiny") == Left()


def test_what_another_version_left_is_read(tmp_path: Path) -> None:
    """One that said less, and one that says more."""
    folder = Folder(str(tmp_path))
    folder.write("progress/tiny.json", b'{"lines": {"half": "half: training"}}')
    assert left(folder, "tiny") == Left(lines={"half": "half: training"}, since={"half": ""})
    folder.write("progress/tiny.json", b'{"lines": {}, "works": {"half": {"new": [1]}}, "weather": "fine"}')
    assert left(folder, "tiny") == Left(works={"half": {"new": [1]}})


def test_what_it_says_beside_its_lines(tmp_path: Path) -> None:
    """Facts of stages while the run goes on; once it has ended, nothing is at work."""
    folder = Folder(str(tmp_path))
    with Progress(folder, "tiny", lambda: {"dense": "dense: training"}, every=0.01) as progress:
        progress.account = lambda: {"works": {"dense": {"epoch": 2}}, "retries": {"dense": ["lost"]}, "began": 5.0}
        wait(lambda: left(folder, "tiny").works == {"dense": {"epoch": 2}})
    ended = left(folder, "tiny")
    assert (ended.works, ended.retries, ended.began) == ({}, {"dense": ["lost"]}, 5.0)
