"""Events reach trackers as rows, whatever these do: raise, hang, or lack a library."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.store.events import Events
from dualprune.pipeline.trackers.base import End, Histogram, Row
from dualprune.pipeline.trackers.mirror import Mirror
from dualprune.stages.artefacts.manifest import MANIFEST
from dualprune.stages.files.folder import Folder
from tests.pipeline.run.test_driver import Recorder
from tests.pipeline.trackers import events
from tests.pipeline.trackers.events import DENSE, HALF, done, ended, epoch, failed, place, resumed, training


class Broken(Recorder):
    """Raises whatever it is told."""

    def __getattr__(self, name: str) -> Any:
        def breaks(*_: Any) -> None:
            raise RuntimeError("broken")

        return breaks

    def left(self) -> list[str]:
        """Not even this."""
        raise RuntimeError("broken")


class Hanging(Recorder):
    """Never returns."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def begin(self, *_: Any) -> None:
        """Hang."""
        self.released.wait(60.0)

    def left(self) -> list[str]:
        """What is not done."""
        return ["it hung"]


def mirrored(store: Folder, happens: list[dict[str, Any]], **trackers: Recorder) -> list[str]:
    """Hand events to trackers; what is said at the end."""
    said: list[str] = []
    with Mirror("tiny", store, trackers, said.append) as mirror:
        mirror.patience = 2.0
        for event in happens:
            mirror.hear(event)
    return said


def test_one_tracker_harms_neither_the_run_nor_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that raises and one that hangs: a third hears all, and what is left is said; nothing waits."""
    hanging, good = Hanging(), Recorder()
    happens = [events.begun(), training("half"), epoch("half", 1), done("half"), ended("done")]
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        said = mirrored(events.store(tmp_path), happens, broken=Broken(), hanging=hanging, good=good)
    hanging.released.set()
    assert time.monotonic() - began < 10.0
    assert [call[0] for call in good.calls] == ["begin", "row", "end", "summarize", "close"]
    assert said == ["it hung", "recorded"]
    assert "broken failed; training goes on" in caplog.text
    assert "hanging did not finish in time and was left behind" in caplog.text


def test_a_stage_that_goes_on_is_told_with_what_it_told_before(tmp_path: Path) -> None:
    """Rows of its epochs, and the places within them that other drivers have told, up to where it goes on."""
    store, recorder = events.store(tmp_path), Recorder()
    with Events(store, "tiny", every=0.01) as log:
        for event in [training("half"), place("half", 5), epoch("half", 1), place("half", 15), place("half", 28)]:
            facts = {name: value for name, value in event.items() if name not in ("event", "stage", "at")}
            log._steps.clear()  # all of them are kept
            log.add(event["event"], event["stage"], **facts)
    mirrored(store, [events.begun(), resumed("half", 20), epoch("half", 3), resumed("half", 20)], recorder=recorder)
    first, _, again = [call for call in recorder.calls if call[0] in ("begin", "row")]
    assert [row.steps for row in first[2]] == [5, 10, 15, 20]
    assert [row.steps for row in again[2]] == [10, 20]


def test_names_of_a_row(tmp_path: Path) -> None:
    """By tensor NAME/TENSOR; numbers only, and the phase."""
    recorder = Recorder()
    mirrored(events.store(tmp_path), [events.begun(), training("half"), epoch("half", 2)], recorder=recorder)
    row: Row = recorder.calls[1][2]
    assert row.phase == "admm"
    assert {name for name in row.numbers if "/" not in name} == {
        *("epoch", "loss", "lr", "rho", "primal", "dual", "left", "sparsity", "churn", "val_error", "val_hits"),
        *("samples_per_second", "step_seconds", "waited", "memory_bytes", "seconds"),
    }
    assert {name.partition("/")[0] for name in row.numbers if "/" in name} == {
        *("primal", "dual", "left", "sparsity", "churn"),
    }
    assert row.histograms["weights/0.weight"] == Histogram(-1.0, 1.0, [2, 3, 5, 2])
    assert Histogram(3.0, 3.0, [4, 0]).edges() == [2.5, 3.0, 3.5]


def test_ends(tmp_path: Path) -> None:
    """What another run has trained is told with the rows of its artefact; two stages of one key are one."""
    store, recorder = events.store(tmp_path), Recorder()
    manifest = store.read_json(f"{DENSE}/{MANIFEST}")
    twin = {**done("dense"), "stage": "twin"}
    mirrored(store, [events.begun(), done("dense"), twin, failed("half"), ended("failed")], recorder=recorder)
    names = [(call[0], call[1].name) for call in recorder.calls[:-2]]
    assert names == [("begin", "dense"), ("end", "dense"), ("begin", "half"), ("end", "half")]
    end: End = recorder.calls[1][2]
    assert (end.manifest, end.metrics["advice"], end.failed) == (manifest, "more of it", None)
    assert recorder.calls[3][2] == End(failed="it broke")
    assert {row["stage"]: row["state"] for row in recorder.calls[-2][1].stages} == {"dense": "done", "half": "failed"}


def test_a_choice_is_told_as_made_from_what_it_took(tmp_path: Path) -> None:
    """Though it was never trained."""
    recorder = Recorder()
    chosen = {**done("half"), "chosen": "dense"}
    mirrored(events.store(tmp_path), [events.begun(), chosen], recorder=recorder)
    begin, end, _ = recorder.calls
    assert (begin[1].parents, begin[2]) == ((("dense", DENSE),), [])
    assert (end[1].key, end[2].metrics["chosen"]) == (HALF, "dense")
