"""A local Ray's start, where that fails: Ray's own start is stood in for."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dualprune.cluster.errors import ClusterError, NotStarted
from dualprune.cluster.session import STARTS, start


class Starts:
    """In place of Ray's start: the first ones fail, each with a node that is half there."""

    def __init__(self, patch: pytest.MonkeyPatch, failures: int) -> None:
        import ray
        from ray._private.node import Node

        self.failures, self.logs = failures, "/nowhere"
        self.told: list[str] = []
        starts = self

        class Half(Node):  # type: ignore[misc]
            def __init__(self) -> None:
                starts.told.append("init")
                if starts.told.count("init") <= starts.failures:
                    raise RuntimeError("timed out during startup")

            def kill_all_processes(self, *_: Any, **__: Any) -> None:
                starts.told.append("kill")

            def get_logs_dir_path(self) -> str:
                return starts.logs

        patch.setattr(ray, "init", lambda **options: (self.asked(options), Half()))
        patch.setattr(ray, "shutdown", lambda: self.told.append("shutdown"))
        patch.setattr("dualprune.cluster.session.reach", lambda address: None)

    def asked(self, options: dict[str, Any]) -> None:
        """Note what was asked for."""
        self.options = options


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search path that `start` hands on to workers is this test's alone."""
    monkeypatch.setenv("PYTHONPATH", "")


@pytest.mark.parametrize("failures", range(STARTS))
def test_a_local_ray_that_does_not_come_up_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failures: int
) -> None:
    """Once what there was of it is ended; the log says so."""
    starts = Starts(monkeypatch, failures)
    with caplog.at_level(logging.WARNING, "dualprune.cluster.session"):
        start(None, [])
    assert starts.told == ["init", "kill", "shutdown"] * failures + ["init"]
    assert starts.options["address"] == "local"
    assert [record.getMessage() for record in caplog.records] == [
        "a local Ray did not come up, and is started again: timed out during startup"
    ] * failures


def test_a_local_ray_that_never_comes_up_is_told_with_its_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of its last start, with what its processes said, and no guess at why; nothing is left of that either."""
    starts = Starts(monkeypatch, STARTS)
    text = r"^a local Ray did not come up in 3 tries: timed out during startup; "
    with pytest.raises(NotStarted, match=text + "what its processes logged is in /nowhere$"):
        start(None, [])
    assert starts.told == ["init", "kill", "shutdown"] * STARTS
    (tmp_path / "raylet.err").write_text("terminate called\n  what():  Resource temporarily unavailable\n")
    starts.told, starts.logs = [], str(tmp_path)
    said = r"Ray's raylet said: terminate called what\(\): Resource temporarily unavailable; the rest is in /.*"
    with pytest.raises(NotStarted, match=text + said):
        start(None, [])


def test_a_cluster_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What turns us away there has its reason."""
    starts = Starts(monkeypatch, 1)
    with pytest.raises(ClusterError, match=r"^no Ray cluster lets us in at 10\.0\.0\.1:6379: timed out"):
        start("10.0.0.1:6379", [])
    assert starts.told == ["init"]


def test_a_signal_while_ray_starts_is_answered_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own handler, which it puts in the place of ours meanwhile, leaves without a word."""
    Starts(monkeypatch, 0)

    def ours(*_: object) -> None:
        raise KeyboardInterrupt

    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.signal(signal.SIGTERM, ours)
    try:
        monkeypatch.setattr("ray.init", init)
        with pytest.raises(KeyboardInterrupt):
            start(None, [])
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_ray_that_lacks_what_is_used_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is to be started here, or is a cluster that waits to be connected to."""
    starts = Starts(monkeypatch, 0)
    monkeypatch.setattr("ray._private.state.state", object())
    text = r"^Ray \S+ lacks ray\._private\.state\.state\.available_resources_per_node, "
    for address in (None, "10.0.0.1:6379"):
        with pytest.raises(ClusterError, match=text):
            start(address, [])
    assert starts.told == []
