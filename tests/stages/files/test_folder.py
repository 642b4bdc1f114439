"""Folders on any filesystem: names that filesystems take for patterns."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from dualprune.stages.files.folder import Folder
from tests.s3server import BUCKET, S3Server


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?", "**"])
def test_a_name_is_no_pattern(place: Folder, name: str) -> None:
    """What a folder holds is written, read and removed, and nothing of another whose name it would match."""
    others = [place / other for other in ("run1", "run2", name + "2")]
    folder = place / name
    for one in (folder, *others):
        one.write("key/manifest.json", b"{}")
        one.write("key/model", one.url.encode())
    assert folder.read("key/model") == folder.url.encode()
    assert folder.names("key") == ["manifest.json", "model"]
    assert sorted(folder.files()) == ["key/manifest.json", "key/model"]
    folder.remove("key")
    assert not folder.exists("key/model")
    assert not folder.exists("key/manifest.json")
    assert all(sorted(other.files()) == ["key/manifest.json", "key/model"] for other in others)


def test_what_another_made_and_removed_meanwhile_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service refuses to write over a file, which its maker removes before we look: no error, and not made by us."""
    folder = Folder(f"memory://{uuid.uuid4().hex}")

    def refuse(*_: Any, **__: Any) -> None:
        raise FileExistsError("at least one of the pre-conditions did not hold")

    monkeypatch.setattr(folder.fs, "pipe_file", refuse)
    assert folder.create("lock", b"mine") is False
    assert not folder.exists("lock")


def test_a_file_is_made_once(place: Folder) -> None:
    """By whoever comes first."""
    assert place.create("lock", b"mine")
    assert not place.create("lock", b"another's")
    assert not (place / "").create("lock", b"a third one's")
    assert place.read("lock") == place.read_small("lock") == b"mine"
    assert place.create("next", b"mine")


def test_a_service_that_puts_over_what_is_there_is_looked_at_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some do, whatever they are asked: each time, so that what lies there for long is safe."""
    folder = Folder(f"memory://{uuid.uuid4().hex}")
    put = folder.fs.pipe_file
    monkeypatch.setattr(folder.fs, "pipe_file", lambda path, data, mode: put(path, data))
    assert folder.create("lock", b"mine")
    assert not folder.create("lock", b"another's")
    assert folder.read("lock") == b"mine"


def test_a_file_comes_in_pieces(place: Folder) -> None:
    """It replaces what was there; of one that does not come to its end nothing is left."""
    place.write_pieces("a/b", [b"12", memoryview(b"345"), b""])
    assert place.read("a/b") == b"12345"

    def broken() -> Iterator[bytes]:
        yield b"6"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        place.write_pieces("a/b", broken())
    assert place.read("a/b") == b"12345"
    assert [*place.files()] == ["a/b"]


def test_a_file_in_pieces_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, to a service that did not take it."""
    folder = Folder(f"memory://{uuid.uuid4().hex}")
    put, errors = folder.fs.put_file, [ConnectionResetError(), TimeoutError()]

    def put_file(*given: Any) -> None:
        put(*given)
        if errors:
            raise errors.pop()

    monkeypatch.setattr(folder.fs, "put_file", put_file)
    folder.write_pieces("x", iter([b"12", b"3"]))
    assert folder.read("x") == b"123"
    assert not errors


def test_a_discarded_file_is_gone_and_may_have_been_before(place: Folder) -> None:
    place.write("a/b", b"x")
    place.discard("a/b")
    place.discard("a/b")
    assert not place.exists("a/b")


def test_small_files_take_one_answer(s3: S3Server) -> None:
    """Where others are asked for their size first."""
    folder = Folder(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    folder.write("small", b"12345")
    folder.write("empty", b"")
    asked: list[str] = []

    def count(method: str, path: str) -> bool:
        asked.append(method)
        return False

    s3.refuses = count
    try:
        assert folder.read_small("small") == b"12345"
        assert folder.read_small("empty") == b""
        folder.discard("small")
    finally:
        s3.refuses = lambda method, path: False
    assert asked == ["GET", "GET", "DELETE"]
