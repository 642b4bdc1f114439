"""Whole runs in one process, without Ray: killed, interrupted, gone on with by either way, to the same bits."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.running import TWO_STAGES, Running, alive, bits, dualprune, json_of, title

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMMAND = ("run", "two.yaml", "--json", "--set", "stages.dense.train.epochs=30", "engine.checkpoint_steps=5")
INLINE = (*COMMAND, "--inline")
RAY = ("ray", "raylet", "gcs_server")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], list[str]]:
    """A run that nothing disturbed: its bits, and its output."""
    folder = tmp_path_factory.mktemp("inline")
    (folder / "two.yaml").write_text(TWO_STAGES)
    code, lines = dualprune(folder, *INLINE)
    assert code == 0, "\n".join(lines)
    return bits(folder), lines


def broken_off(folder: Path, end: Callable[[Running], None]) -> int:
    """A run that is ended while its first stage trains; its exit code. It has no process of Ray's, and leaves none."""
    (folder / "two.yaml").write_text(TWO_STAGES)
    with Running(folder, *INLINE) as run:
        run.wait_for("dense: training")
        run.wait_for_checkpoint(folder / "runs", 1)
        children = run.group()
        assert [title(child) for child in children if child.name() in RAY] == []
        end(run)
        code, _ = run.end()
    psutil.wait_procs(children, timeout=30)
    assert [title(child) for child in children if alive(child)] == []
    return code


def goes_on(folder: Path, command: tuple[str, ...]) -> dict[str, str]:
    """The same run again, which goes on from a checkpoint and ends; its bits."""
    code, lines = dualprune(folder, *command)
    assert code == 0, "\n".join(lines)
    assert any(line.startswith("dense: goes on after step") for line in lines)
    assert [row["state"] for row in json_of(lines)["stages"]] == ["done", "done"]
    return bits(folder)


def test_a_run_shows_what_others_show(reference: tuple[dict[str, str], list[str]]) -> None:
    """Its stages, and its rows; nothing of Ray, and nothing of the libraries below."""
    _, lines = reference
    assert "trains in this process, without Ray" in lines
    assert [row["state"] for row in json_of(lines)["stages"]] == ["done", "done"]
    words = ("warning", "deepspeed", "raylet", "info", "ray starts")
    assert [line for line in lines if any(word in line.lower() for word in words)] == []


def test_killed_and_gone_on_with_on_ray(reference: tuple[dict[str, str], list[str]], tmp_path: Path) -> None:
    """kill -9, and the same run without --inline: the rest of a stage and all of the next are trained by a worker of
    Ray's, and all bits are those of the run in one process."""
    assert broken_off(tmp_path, lambda run: run.process.send_signal(signal.SIGKILL)) == -signal.SIGKILL
    assert goes_on(tmp_path, COMMAND) == reference[0]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)])
def test_interrupted(reference: tuple[dict[str, str], list[str]], tmp_path: Path, number: signal.Signals) -> None:
    """It saves where it is and leaves, and goes on from there."""

    def end(run: Running) -> None:
        run.process.send_signal(number)
        run.wait_for("dense: stopped after step")

    assert broken_off(tmp_path, end) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert goes_on(tmp_path, INLINE) == reference[0]
