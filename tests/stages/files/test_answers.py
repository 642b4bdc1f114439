"""Answers that are kept: given again, and found anew where they can't be."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualprune.stages.files import answers, home
from dualprune.stages.files.answers import answer


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that they are in."""
    monkeypatch.setattr(answers, "cache_folder", home.cache_folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dualprune" / "answers"


def asked(question: Any = 1, found: Any = None) -> tuple[Any, int]:
    """The answer, and how often it was looked for."""
    calls: list[None] = []

    def find() -> Any:
        calls.append(None)
        return found

    return answer("test", question, find), len(calls)


@pytest.mark.parametrize("found", [None, [], {"a": [1.0 / 3.0, "ü", None]}])
def test_an_answer_is_found_once(kept: Path, found: Any) -> None:
    """To the same question, whatever it is."""
    assert asked({"n": 1}, found) == (found, 1)
    assert asked({"n": 1}, "other") == (found, 0)
    assert asked({"n": 2}, "other") == ("other", 1)
    assert answer("else", {"n": 1}, lambda: 3) == 3
    assert len(list(kept.iterdir())) == 3


def test_a_refusal_is_not_kept(kept: Path) -> None:
    """It is raised, as it is."""

    def refuse() -> None:
        raise OSError("no")

    for _ in range(2):
        with pytest.raises(OSError, match=r"^no$") as caught:
            answer("test", 1, refuse)
        assert caught.value.__context__ is None
    assert asked(found=5) == (5, 1)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "changed": lambda file: file.write_bytes(file.read_bytes().replace(b"71", b"72")),
    "empty": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_answer_is_found_anew(kept: Path, damage: str) -> None:
    """And is whole after that."""
    asked(found=[71])
    (file,) = kept.iterdir()
    DAMAGES[damage](file)
    assert asked(found=[71]) == ([71], 1)
    assert asked() == ([71], 0)


@pytest.mark.parametrize("where", ["/dev/null", "not/absolute"])
def test_without_a_folder_they_are_found_each_time(kept: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what stands in an answer's place is passed over."""
    asked()
    (file,) = kept.iterdir()
    file.unlink()
    file.mkdir()
    assert [asked(found=7) for _ in range(2)] == [(7, 1)] * 2
    monkeypatch.setenv("XDG_CACHE_HOME", where)
    assert [asked(found=7) for _ in range(2)] == [(7, 1)] * 2


def test_what_can_not_be_written_leaves_nothing(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, where it would stay until there is room again."""

    def cut(file: Path, data: bytes) -> int:
        with open(file, "wb") as part:
            part.write(data[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", cut)
    assert [asked(found=7) for _ in range(2)] == [(7, 1)] * 2
    assert list(kept.iterdir()) == []


def test_those_found_first_go(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they do not grow without end."""
    monkeypatch.setattr(answers, "MOST", 2)
    for n in range(3):
        asked(n, n)
        for age, file in enumerate(sorted(kept.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)):
            os.utime(file, (1000 - age, 1000 - age))
    assert [asked(n, "anew")[1] for n in (1, 2, 0)] == [0, 0, 1]


def test_another_program_has_other_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with a changed line anywhere, also where its folders are links, or with a library of another version."""
    (tmp_path / "sources" / "networks").mkdir(parents=True)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "stages").symlink_to(tmp_path / "sources")
    (tmp_path / "library-1.0.dist-info").mkdir()
    line = tmp_path / "sources" / "networks" / "made.py"
    line.write_text("a = 1")
    monkeypatch.setattr(answers, "__file__", str(tmp_path / "package" / "stages" / "files" / "answers.py"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "nowhere")])
    programs = [answers._program.__wrapped__() for _ in range(2)]
    line.write_text("a = 2")
    programs.append(answers._program.__wrapped__())
    (tmp_path / "library-1.0.dist-info").rename(tmp_path / "library-1.1.dist-info")
    programs.append(answers._program.__wrapped__())
    assert programs[0] == programs[1]
    assert len({tuple(one) for one in programs}) == 3
