"""Jobs in processes of their own: what one does to its process costs its own row alone."""

from __future__ import annotations

import os
import time

from tests.bench.apart import rows
from tests.bench.common import Row


def work(name: str, way: str) -> Row:
    if way == "dies":
        os._exit(1)
    if way == "sleeps":
        time.sleep(600)
    return {"network": name, "result": "ok", "process": os.getpid()}


def test_a_job_that_dies_or_takes_too_long_costs_its_row_alone() -> None:
    held = b"x" * (3 << 30)  # the parent's memory isn't the child's
    jobs = [("a", ""), ("b", ""), ("c", "dies"), ("d", "")]
    a, b, c, d = rows(work, jobs, 300)
    del held
    assert [row["result"] for row in (a, b, c, d)] == ["ok", "ok", "its process died", "ok"]
    assert a["process"] == b["process"] != d["process"]
    assert [row["result"] for row in rows(work, [("e", "sleeps")], 0.5)] == ["not finished in 0.5 s"]
