"""A whole run, and `watch` beside it, each on a real terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.running import TWO_STAGES
from tests.terminal import Terminal, needs_tmux, picture

pytestmark = [pytest.mark.slow, needs_tmux]

LONG = "half-of-a-long-name"
PATIENCE = 900.0
"""Seconds for a busy machine."""
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:[34][0-8]|9\d)[;m]")
"""What sets a colour; bold and dim are none, nor is what ends one."""


@pytest.mark.timeout(2400)
def test_a_run_and_its_watcher(tmp_path: Path) -> None:
    """At 80 columns and at 200, nothing of the picture or of the table at the end wraps; without colours if asked."""
    config = TWO_STAGES.replace("train: {epochs: 2,", "train: {epochs: 150,").replace("epochs: 1,", "epochs: 60,")
    (tmp_path / "two.yaml").write_text(config.replace("half", LONG))
    # Ray's workers give way to all else that a machine does, for minutes on one that does much.
    plain = {"NO_COLOR": "1", "WANDB_MODE": "disabled", "RAY_worker_niceness": "0"}
    watching = ("-m", "dualprune", "watch", "two.yaml")
    with (
        Terminal(tmp_path, 200, 50, *watching) as watch,
        Terminal(tmp_path, 80, 24, "-m", "dualprune", "run", "two.yaml", **plain) as run,
    ):
        watch.wait_for(lambda seen: any("waits for one to begin" in line for line in seen), PATIENCE)
        seen: dict[str, list[list[str]]] = {"run": [], "watch": []}
        for mark in ("◌ dense", "▶ dense", "▶  half"):
            # A watcher looks every two seconds: it may miss what is short.
            for name, terminal in (("run", run), ("watch", watch))[: 2 if mark == "▶ dense" else 1]:
                seen[name].append(terminal.wait_for(lambda seen, mark=mark: _begin(seen, mark), PATIENCE))
                assert len(picture(terminal.seen("-J"))) == len(picture(terminal.seen()))
        assert not COLOUR.search(run.tmux("capture-pane", "-p", "-e"))
        assert COLOUR.search(watch.tmux("capture-pane", "-p", "-e"))
        ends = {name: one.wait_for(_ended, PATIENCE) for name, one in (("run", run), ("watch", watch))}
        assert all(len(line) < 80 for shown in seen["run"] for line in picture(shown))
        assert "samples/s" in "\n".join(seen["watch"][0])
        for name, width in (("run", 80), ("watch", 200)):
            table = [line for line in ends[name] if line.startswith(("stage", "dense ", f"{LONG} "))]
            assert len(table) == 3
            assert max(map(len, table)) <= width
        joined = [line.rstrip() for line in run.tmux("capture-pane", "-p", "-J").splitlines()]
        assert next(line for line in joined if line.startswith(f"{LONG} ")) in ends["run"]


def _begin(seen: list[str], mark: str) -> bool:
    return any(line.startswith(mark) and (mark[0] == "◌" or " %" in line) for line in seen)


def _ended(seen: list[str]) -> bool:
    return any(line == "ended with 0" for line in seen)
