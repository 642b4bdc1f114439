"""Folders on any filesystem: names that filesystems take for patterns."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from dualprune.stages.files.folder import Folder


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
