"""Artefacts looked at, copied, and set aside: sizes when planning, every byte when asked, the manifest last."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from dualprune.stages.artefacts.manifest import ASIDE, MANIFEST, Damaged, check, damages, own_hash, set_aside, take
from dualprune.stages.files.folder import Folder, sha256


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
    assert check(store / "to") == taken
    before = check(store / "from")
    assert before is not None
    assert taken == {**before, "name": "best", "chosen": {"name": "half"}, "sha256": taken["sha256"]}
    assert taken["sha256"] != before["sha256"]
    assert (store / "to").read("model.safetensors") == b"weights"


def test_a_copy_stands_without_its_original(store: Folder) -> None:
    """Nothing in it points there."""
    take(store / "from", store / "to", {})
    store.remove("from")
    assert check(store / "to") is not None


def test_what_is_not_there_or_not_whole_is_not_copied(store: Folder) -> None:
    """And nothing is left that would count as an artefact."""
    with pytest.raises(Damaged, match="holds no finished artefact"):
        take(store / "nowhere", store / "to", {})
    store.write("from/model.safetensors", b"weight")
    with pytest.raises(Damaged, match="has changed since it was written"):
        take(store / "from", store / "to", {})
    assert check(store / "to") is None


def test_a_copy_that_is_cut_off_is_no_artefact(store: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is written last; the next try ends what this one began."""
    copied: list[str] = []
    copy = Folder.copy

    def failing(folder: Folder, path: str, to: Folder) -> None:
        copied.append(path)
        copy(folder, path, to)
        if len(copied) == 2:
            raise OSError("disk full")

    monkeypatch.setattr(Folder, "copy", failing)
    with pytest.raises(OSError, match="disk full"):
        take(store / "from", store / "to", {})
    monkeypatch.undo()
    assert sorted(copied) == ["metrics.jsonl", "model.safetensors"]
    assert check(store / "to") is None
    assert take(store / "from", store / "to", {}) == check(store / "to")
    assert (store / "to").names() == [MANIFEST, "metrics.jsonl", "model.safetensors"]


def test_a_copy_takes_no_room_on_a_disk(tmp_path: Path) -> None:
    """It is the same file by another name; what replaces the one leaves the other as it is."""
    store = Folder(str(tmp_path))
    store.write("from/model.safetensors", b"weights")
    (store / "from").copy("model.safetensors", store / "to")
    assert (tmp_path / "to/model.safetensors").samefile(tmp_path / "from/model.safetensors")
    store.write("from/model.safetensors", b"others")
    assert store.read("to/model.safetensors") == b"weights"


def test_a_look_reads_no_file_but_the_manifest(store: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the others are: their sizes are in a listing."""
    read: list[str] = []
    before = Folder.read_small

    def noted(folder: Folder, path: str) -> bytes:
        read.append(path)
        return before(folder, path)

    monkeypatch.setattr(Folder, "read_small", noted)
    for name in ("read", "hash"):
        monkeypatch.setattr(Folder, name, None)
    assert check(store / "from") is not None
    assert read == [MANIFEST]


def test_what_is_found_damaged_is_set_aside(store: Folder) -> None:
    """A byte that changed is found by who reads it; from then on the artefact counts as absent."""
    store.write("from/model.safetensors", b"weightz")
    assert check(store / "from") is not None
    assert [row.split("/")[-1] for row in damages(store / "from")] == [
        "model.safetensors has changed since it was written: its sha256 differs"
    ]
    for _ in range(2):  # two readers may find it at once
        set_aside(store / "from")
        assert check(store / "from") is None
    assert (store / "from").names() == [ASIDE, "metrics.jsonl", "model.safetensors"]
