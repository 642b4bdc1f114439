"""Artefacts copied: all bytes checked on the way, the manifest last, and its changes in its hash."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from stages.files import Folder, sha256
from stages.manifest import MANIFEST, Damaged, own_hash, take, verify


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A store with one artefact of two files, at `from`."""
    folder = Folder(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    files = {"model.safetensors": b"weights", "metrics.jsonl": b"rows"}
    for name, data in files.items():
        folder.write(f"from/{name}", data)
    manifest = {
        "name": "half",
        "metrics": {"steps": 44, "rate": 2.0},
        "files": {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()},
    }
    folder.write_json(f"from/{MANIFEST}", manifest | {"sha256": own_hash(manifest)})
    return folder


def test_a_copy_is_an_artefact_of_its_own(store: Folder) -> None:
    """The same files under another key, what was changed in its manifest, and all else as it was."""
    taken = take(store / "from", store / "to", {"name": "best", "chosen": {"name": "half"}})
    assert verify(store / "to") == taken
    before = verify(store / "from")
    assert before is not None
    assert taken == {**before, "name": "best", "chosen": {"name": "half"}, "sha256": taken["sha256"]}
    assert taken["sha256"] != before["sha256"]
    assert (store / "to").read("model.safetensors") == b"weights"


def test_a_copy_stands_without_its_original(store: Folder) -> None:
    """Nothing in it points there."""
    take(store / "from", store / "to", {})
    store.remove("from")
    assert verify(store / "to") is not None


def test_what_is_not_there_or_not_whole_is_not_copied(store: Folder) -> None:
    """And nothing is left that would count as an artefact."""
    with pytest.raises(Damaged, match="holds no finished artefact"):
        take(store / "nowhere", store / "to", {})
    store.write("from/model.safetensors", b"weightz")
    with pytest.raises(Damaged, match="has changed since it was written"):
        take(store / "from", store / "to", {})
    assert verify(store / "to") is None


def test_a_copy_that_is_cut_off_is_no_artefact(store: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is written last; the next try ends what this one began."""
    written: list[str] = []
    write = Folder.write

    def failing(folder: Folder, path: str, data: bytes) -> None:
        if len(written) == 2:
            raise OSError("disk full")
        written.append(path)
        write(folder, path, data)

    monkeypatch.setattr(Folder, "write", failing)
    with pytest.raises(OSError, match="disk full"):
        take(store / "from", store / "to", {})
    monkeypatch.undo()
    assert sorted(written) == ["metrics.jsonl", "model.safetensors"]
    assert verify(store / "to") is None
    assert take(store / "from", store / "to", {}) == verify(store / "to")
