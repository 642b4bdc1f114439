"""What tests of verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dualprune.pipeline.cli import main as cli

Called = Callable[..., tuple[int, str, str]]


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Called:
    """A function that runs a command line in an empty folder; its exit code and what it printed."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        return code, *capsys.readouterr()

    return call
