"""A whole run on sixteen lanes of a real Ray, whose ranks train nothing, and die now and then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = """
import json, sys
from pathlib import Path
from tests.bench import lanes
lanes.DIES = 10
print(json.dumps(lanes.many(Path(sys.argv[1]), 90)))
"""


def test_sixteen_lanes_lose_no_stage(tmp_path: Path) -> None:
    """Each is opened, those that die are given their stages again, and each stage is committed once."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    row = json.loads(ended.stdout.splitlines()[-1])
    assert row["lanes"] == 16
    assert row["at once"] > 8
    assert row["lanes that died"] >= 4
    assert row["done"] == row["stages"]
    assert row["each once"]
