"""A real Ray, and one lane of one worker: it comes up, though its leader hangs at first, and is heard in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.running import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = 300
PROGRAM = """
import json
import os
import sys
import time
from ray.train import UserCallback
from dualprune.cluster import group, lanes
from dualprune.cluster.room import Shape

ROWS, MET = int(sys.argv[1]), os.path.abspath("met")

def work(payload, log, stopping):
    for number in range(ROWS):
        log({"number": number})
    return "result"

class Hangs(UserCallback):
    "In the first process that unpickles it, which is the leader's."

    def __reduce__(self):
        return arrive, ()

def arrive():
    try:
        os.mkdir(MET)
    except FileExistsError:
        return UserCallback()
    time.sleep(600)

group.teller = lambda mailbox, lane: Hangs()
lanes.STUCK = 20.0
opened = lanes.Lanes(lambda: work, Shape(1, 1, 1, 0), None, [], None, 1)
opened.submit("task", None)
events = []
while not {"done", "failed"} & {event.kind for event in events}:
    events += opened.take(1.0)
opened.close()
print(json.dumps([(event.kind, str(event.data)) for event in events]))
"""


def test_a_leader_that_hangs_is_started_anew_and_rows_come_in_order(tmp_path: Path) -> None:
    """All rows before the end; sent as fast as it goes, Ray lets one in twenty of such calls overtake another."""
    with Running(tmp_path, str(ROWS), program=("-c", PROGRAM)) as run:
        code, output = run.end()
    assert code == 0, "\n".join(output)
    assert (tmp_path / "met").exists()
    logged = [["log", str({"number": number})] for number in range(ROWS)]
    assert json.loads(output[-1]) == [*logged, ["done", "result"]]
