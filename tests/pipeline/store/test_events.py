"""The event log: what is added is read back, in order, whatever happens to its driver and its store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.store import events
from dualprune.pipeline.store.events import Events, read
from dualprune.stages.files.folder import Folder


def _store(folder: Path) -> Folder:
    return Folder(str(folder)).establish()


def test_two_drivers_are_read_back_in_order_and_listeners_hear_all(tmp_path: Path) -> None:
    store, heard = _store(tmp_path), list[dict[str, Any]]()
    for number in range(2):
        with Events(store, "run", every=0.01) as log:
            log.listeners.append(heard.append)
            log.add("begun", pid=number)
            for step in range(3):
                log.add("steps", "dense", key="k", steps=step)
    assert [event["event"] for event in heard] == ["begun", "steps", "steps", "steps"] * 2
    found = read(store, "run")
    assert [(event["event"], event.get("pid"), event.get("steps")) for event in found] == [
        ("begun", 0, None),
        ("steps", None, 0),  # the others came within moments
        ("begun", 1, None),
        ("steps", None, 0),
    ]
    assert all(abs(event["at"] - time.time()) < 60 for event in found)
    assert read(store, "another") == []


def test_many_events_are_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SIZE", 2000)
    store = _store(tmp_path)
    with Events(store, "run", every=0.01) as log:
        for number in range(100):
            log.add("epoch", "dense", key="k", epoch=number)
            log.flush()
    assert [event["epoch"] for event in read(store, "run")] == list(range(100))
    assert len(list((tmp_path / "events" / "run").glob("*.jsonl"))) > 1


def test_a_store_that_is_away_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = _store(tmp_path)
    (tmp_path / "events").write_text("in the way")
    with Events(store, "run", every=0.01) as log:
        log.add("begun")
        deadline = time.monotonic() + 30
        while "can't be written" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / "events").unlink()
        log.add("ended", how="done")
    assert "can't be written" in caplog.text
    assert [event["event"] for event in read(store, "run")] == ["begun", "ended"]


def test_lines_that_are_damaged_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = _store(tmp_path)
    with Events(store, "run") as log:
        log.add("begun")
        log.add("ended", how="done")
    (file,) = (tmp_path / "events" / "run").glob("*.jsonl")
    file.write_text(file.read_text().splitlines()[0] + '\n{"at": 1, "ev\n[1]\n')
    assert [event["event"] for event in read(store, "run")] == ["begun"]
    assert "line 2" in caplog.text
    assert "line 3" in caplog.text


def test_addresses_lose_their_passwords(tmp_path: Path) -> None:
    store = _store(tmp_path)
    with Events(store, "run") as log:
        log.add("begun", settings={"store": "s3://key:secret@bucket"})
    assert "secret" not in "".join(file.read_text() for file in (tmp_path / "events" / "run").iterdir())
