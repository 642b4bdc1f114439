"""The page on a network and data of one's own: its files are planned as they stand there."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.output import DONE

PAGE = (Path(__file__).parents[3] / "stages" / "OWN.md").read_text()
FILE = re.compile(r", `(\S+\.\w+)`[.:](?:(?!```).)*```(?:python|yaml)\n(.*?)```", re.S)
"""A file's name in its heading, and the block after that."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Holds the page's files, and nothing else."""
    files = dict(FILE.findall(PAGE))
    assert list(files) == ["mynet.py", "mydata.py", "mytask.py", "mine.yaml"]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in files:
        sys.modules.pop(Path(name).stem, None)


def test_its_files_can_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """By its first command."""
    block = re.findall(r"```sh\n(.*?)```", PAGE, re.S)[0]
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [command[:2] for command in commands] == [["dualprune", verb] for verb in ("plan", "run", "run")]
    assert cli.main(commands[0][1:]) == DONE
    printed = capsys.readouterr().out
    assert "prune-4x" in printed
    assert {word for word in printed.split() if word.endswith(".weight")} == {"0.weight", "2.weight"}


def test_a_beginning_is_written_as_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """And planned too."""
    command = re.search(r"`dualprune (init [^`]*)`", PAGE)
    assert command is not None
    assert cli.main([*shlex.split(command[1]), "-o", "begun.yaml"]) == DONE
    assert cli.main(["plan", "begun.yaml"]) == DONE
    assert "prune-8x" in capsys.readouterr().out


def test_a_finished_stage_needs_no_configuration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's file is found where the command is given."""
    elsewhere = [place for place in sys.path if place not in (str(folder), "")]
    assert cli.main(["run", "mine.yaml", "--inline", "--only", "dense", "--set", "stages.dense.train.epochs=1"]) == DONE
    monkeypatch.setattr(sys, "path", elsewhere)
    sys.modules.pop("mynet")
    assert cli.main(["export", "dense", "--format", "safetensors", "--out", "made"]) == DONE
    assert (folder / "made" / "dense.safetensors").exists()
