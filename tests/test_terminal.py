"""A whole run, and `watch` beside it, each on a real terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.running import TWO_STAGES
from tests.terminal import Terminal, needs_tmux, picture

pytestmark = [pytest.mark.slow, needs_tmux]

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:[349]\d)")
"""What sets a colour; bold and dim are none."""


@pytest.mark.timeout(1200)
def test_a_run_and_its_watcher(tmp_path: Path) -> None:
    """At 80 columns and at 200, nothing of the picture or of the table at the end wraps; without colours if asked."""
    (tmp_path / "two.yaml").write_text(
        TWO_STAGES.replace("epochs: 2,", "epochs: 6,").replace("half", "half-of-a-long-name")
    )
    plain = {"NO_COLOR": "1", "WANDB_MODE": "disabled"}
    watching = ("-m", "dualprune", "watch", "two.yaml")
    with (
        Terminal(tmp_path, 200, 50, *watching) as watch,
        Terminal(tmp_path, 80, 24, "-m", "dualprune", "run", "two.yaml", **plain) as run,
    ):
        watch.wait_for(lambda seen: any("waits for one to begin" in line for line in seen), 300)
        seen: dict[str, list[list[str]]] = {"run": [], "watch": []}
        for name, terminal in (("run", run), ("watch", watch)):
            terminal.wait_for(lambda seen: any(line.startswith("◌ dense") for line in seen), 300)
            terminal.wait_for(lambda seen: any(line.startswith("▶ dense") and " %" in line for line in seen), 300)
            seen[name].append(terminal.seen())
            assert len(picture(terminal.seen("-J"))) == len(picture(terminal.seen()))
        run.wait_for(lambda seen: any(line.startswith("▶  half") for line in seen), 300)
        seen["run"].append(run.seen())
        assert not COLOUR.search(run.tmux("capture-pane", "-p", "-e"))
        assert COLOUR.search(watch.tmux("capture-pane", "-p", "-e"))
        ends = {name: one.wait_for(_ended, 600) for name, one in (("run", run), ("watch", watch))}
        for shown in seen["run"]:
            assert max(map(len, picture(shown))) < 80
            assert [line for line in picture(shown) if line.startswith(("✓ dense", "▶ dense"))]
        assert "samples/s" in "\n".join(seen["watch"][0])
        for name, width in (("run", 80), ("watch", 200)):
            table = [line for line in ends[name] if line.startswith(("stage", "dense ", "half-of"))]
            assert len(table) == 3
            assert max(map(len, table)) <= width
        joined = [line.rstrip() for line in run.tmux("capture-pane", "-p", "-J").splitlines()]
        assert next(line for line in joined if line.startswith("half-of")) in ends["run"]


def _ended(seen: list[str]) -> bool:
    return any(line == "ended with 0" for line in seen)
