"""How the work of planning and driving grows with the number of stages: in calls, so the same on any machine."""

from __future__ import annotations

import itertools
import math
import sys
import threading
from pathlib import Path
from typing import Any

from tests.bench.scale import STEPS, measured


def calls(folder: Path, size: int) -> dict[str, Any]:
    """Function calls of each step, those into the interpreter's own functions among them."""
    count = itertools.count()

    def counting(frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            next(count)

    threading.setprofile(counting)
    sys.setprofile(counting)
    try:
        return measured(folder, size, lambda: float(next(count)))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def test_no_step_grows_faster_than_n_log_n(tmp_path: Path) -> None:
    """From some forty to some hundred and seventy stages; anything quadratic would grow three times faster."""
    found = []
    for size in (21, 42, 168):
        (tmp_path / str(size)).mkdir()
        found.append(calls(tmp_path / str(size), size))
    _, small, large = found  # The first one has paid for imports.
    a, b = small["stages"], large["stages"]
    assert b > 3.9 * a
    allowed = b * math.log(b) / (a * math.log(a))
    growth = {step: large[step] / small[step] for step in STEPS}
    assert all(times <= allowed for times in growth.values()), (allowed, growth)
    assert all(large[step] > b for step in STEPS), "a step that calls less than once a stage is not the step"
