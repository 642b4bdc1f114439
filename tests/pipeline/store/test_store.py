"""The store: artefacts, checkpoints, notes; on local and on other filesystems."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualprune.pipeline.store.store import Store
from dualprune.stages.files.folder import AT_ONCE, MARK, Folder
from tests.pipeline.common import artefact, manifest


@pytest.fixture
def store(place: Folder) -> Store:
    """An empty store."""
    return Store(place.url)


def test_an_empty_store_has_nothing(store: Store) -> None:
    """Absence is no error."""
    assert store.artefact("key") is None
    assert store.checkpoint_steps("key") is None
    assert store.failure("key") is None
    assert store.last_plan("run") == {}


def test_a_probe_leaves_nothing(store: Store) -> None:
    """It is written and removed; only the store's own mark stays."""
    store.probe()
    store.probe()
    assert store.folder.names() == [MARK]


def test_a_probe_raises_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A file stands in the place of the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Store(str(tmp_path / "file")).probe()


def test_an_artefact_is_its_manifest_when_all_files_are_right(store: Store) -> None:
    """Until one of them changes."""
    artefact(store.url, "key")
    assert store.artefact("key") == manifest()
    store.folder.write("key/model.safetensors", b"other, longer")
    assert store.artefact("key") is None


def test_many_are_looked_at_as_each_is(place: Folder) -> None:
    """By one listing of all; what is missing, of another size, or not done counts as absent there too."""
    store = Store(place.url)
    keys = [f"{number:016x}" for number in range(AT_ONCE + 9)]
    for key in keys[1:]:
        artefact(store.url, key)
    store.folder.remove(f"{keys[1]}/model.safetensors")
    store.folder.write(f"{keys[2]}/model.safetensors", b"other")
    store.folder.write(f"{keys[3]}/manifest.json", b"{}")
    some = [keys[0], *keys[2:5]]
    assert list(store.artefacts(keys)) == keys[4:]
    assert list(store.artefacts(some)) == keys[4:5]
    assert store.artefacts(some)[keys[4]] == store.artefact(keys[4])


def test_files_without_a_manifest_are_no_artefact(store: Store) -> None:
    """The manifest is written last."""
    store.folder.write("key/model.safetensors", b"weights")
    assert store.artefact("key") is None


def test_the_newest_checkpoint_counts(store: Store) -> None:
    """By its number; what is no checkpoint is passed over."""
    for step in (5, 40, 7):
        store.folder.write(f"key/checkpoints/step-{step:08d}/part-0-of-1.json", b"")
    store.folder.write("key/checkpoints/notes", b"")
    assert store.checkpoint_steps("key") == 40


def test_a_failure_is_noted_and_taken_back(store: Store) -> None:
    """And taking back what was never noted harms nothing."""
    store.note_failure("key", None)
    store.note_failure("key", "ValueError: [no] such thing\nat all")
    assert store.failure("key") == "ValueError: [no] such thing\nat all"
    store.note_failure("key", None)
    assert store.failure("key") is None


def test_a_plan_is_kept_under_its_runs_name(store: Store) -> None:
    """The last one of each run."""
    store.note_plan("one", {"dense": {"key": "a"}})
    store.note_plan("one", {"dense": {"key": "b"}})
    store.note_plan("two", {})
    assert store.last_plan("one") == {"dense": {"key": "b"}}
    assert store.last_plan("two") == {}


def test_broken_notes_count_as_none(store: Store) -> None:
    """They only serve to explain."""
    store.folder.write("plans/run.json", b"{")
    store.folder.write("key/failure.json", b"{}")
    assert store.last_plan("run") == {}
    assert store.failure("key") is None
