"""What a rank tells comes in order: a real Ray, a lane of one worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.running import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = 300
PROGRAM = f"""
import json
from cluster.lanes import Lanes
from cluster.room import Shape

def work(payload, log, stopping):
    for number in range({ROWS}):
        log({{"number": number}})
    return "result"

lanes = Lanes(lambda: work, Shape(1, 1, 1, 0), None, [], None, 1)
lanes.submit("task", None)
events = []
while "done" not in [event.kind for event in events]:
    events += lanes.take(1.0)
lanes.close()
print(json.dumps([(event.kind, event.data) for event in events]))
"""


def test_rows_come_in_the_order_in_which_they_were_logged_and_before_the_end(tmp_path: Path) -> None:
    """Sent as fast as it goes, Ray lets one in twenty of such calls overtake another."""
    with Running(tmp_path, program=("-c", PROGRAM)) as run:
        code, output = run.end()
    assert code == 0, "\n".join(output)
    logged = [["log", {"number": number}] for number in range(ROWS)]
    assert json.loads(output[-1]) == [*logged, ["done", "result"]]
