"""`python -m tests.killed FILE STAGE STEPS [SETTING=VALUE ...]`: a run in one process, which kills itself at a place.

It is `dualprune run FILE --inline`. Once an epoch of a stage ends with so many steps, or more, the stage stands still
for a while, in which all that it has told is written; then all of the run's processes die as by `kill -9`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import psutil

from dualprune.pipeline.cli.main import main
from dualprune.pipeline.run import driver

SETTLING = 6.0
"""Seconds that it stands still."""


def killing(stage: str, steps: int) -> Any:
    """What carries stages out until one of them is there."""

    def work(payload: dict[str, Any], log: Any, stopping: Any) -> Any:
        def heard(row: dict[str, Any]) -> None:
            log(row)
            if (payload["name"], row["event"]) == (stage, "epoch") and row["steps"] >= steps:
                time.sleep(SETTLING)
                for child in psutil.Process().children(recursive=True):
                    child.kill()
                os.kill(os.getpid(), signal.SIGKILL)

        return driver.work(payload, heard, stopping)

    return work


if __name__ == "__main__":
    file, name, number, *settings = sys.argv[1:]
    driver._load_work = lambda: killing(name, int(number))
    sys.exit(main(["run", file, "--inline", "--set", *settings]))
