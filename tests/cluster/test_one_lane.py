"""A real Ray, and one lane of one worker: it comes up without a home and with a launcher's variables, though its leader
hangs at first; it is heard in order; and what is said when the actor that hears it is gone."""

from __future__ import annotations

import json
import re
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
from dualprune.cluster import errors, group, lanes, session
from dualprune.cluster.capacity import Shape

session.drop_launchers = lambda: None  # as if each node had been started by one
ROWS, MET = int(sys.argv[1]), os.path.abspath("met")

def work(payload, log, stopping):
    for number in range(ROWS):
        log({"number": number})
    return sorted(name for name in os.environ if name.startswith(("OMPI_", "PMI_", "SLURM_")))

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
opened._ray.kill(opened._mailbox)
try:
    while True:
        opened.take(1.0)
except errors.ClusterGone as gone:
    events.append(lanes.Event("failed", "", gone))
opened.close()
print(json.dumps([(event.kind, str(event.data)) for event in events]))
"""
FOREIGN = dict.fromkeys(("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "PMI_RANK", "SLURM_PROCID"), "7")
"""Of Open MPI, PMI and Slurm, to a process of theirs, which is none of ours; what Slurm gave the job, all may know."""


def test_a_leader_that_hangs_is_started_anew_and_rows_come_in_order(tmp_path: Path) -> None:
    """All rows before the end; sent as fast as it goes, Ray lets one in twenty of such calls overtake another."""
    environment = FOREIGN | {"SLURM_JOB_ID": "7", "HOME": "/dev/null/home"}
    with Running(tmp_path, str(ROWS), program=("-c", PROGRAM), environment=environment) as run:
        code, output = run.end()
    assert code == 0, "\n".join(output)
    assert (tmp_path / "met").exists()
    logged = [["log", str({"number": number})] for number in range(ROWS)]
    *heard, [_, gone] = json.loads(output[-1])
    assert heard == [*logged, ["done", str(["SLURM_JOB_ID"])]]
    assert re.match(
        r"the actor that lanes report to, on this machine, has ended \(.*\); the same command goes on$", gone
    )
