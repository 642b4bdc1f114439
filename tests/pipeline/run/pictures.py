"""Pictures that are made by hand."""

from __future__ import annotations

from typing import Any

from dualprune.pipeline.run.picture import Picture, Stage, State
from dualprune.pipeline.run.work import Work

ADMM = Work(
    "training",
    True,
    asked=0.0,
    began=5.0,
    heard=95.0,
    phase="admm",
    epoch=9,
    epochs=20,
    done=0.35,
    ended=8,
    loss=0.1234,
    value=97.5,
    best="accuracy",
    unit="%",
    residuals=(0.8, 0.6, 0.4, 0.2, 0.1),
    seconds_left=80.0,
    samples_per_second=12345.0,
    waited=0.03,
    memory_bytes=1.5 * 2**30,
    world=2,
)
LOST = "its workers were lost; retry 1 of 3"


def stage(name: str, state: State, depth: int = 0, **more: Any) -> Stage:
    """One that is measured by accuracy."""
    return Stage(name, "prune", state, depth, **{"best": "accuracy", "unit": "%", **more})


def running(name: str, depth: int = 1, **more: Any) -> Stage:
    """One in the midst of ADMM."""
    return stage(name, "running", depth, **{"value": 97.5, "dense": 98.89, "work": ADMM, **more})


DENSE = stage("dense", "done", rate=1.0, value=98.89, seconds=14.2)
FEW = (
    DENSE,
    running("prune-4x", retries=(LOST,)),
    stage("prune-10x", "waiting", 2, work=Work(asked=58.0)),
    stage("prune-25x", "queued", 3, why="waits for prune-10x"),
    stage("other", "failed", 1, why="ValueError: it is\nno good \x1b[31m" + "x" * 300),
    stage("after", "skipped", 2, why="a stage before it failed"),
)
"""One of each state."""


def picture(*stages: Stage, **more: Any) -> Picture:
    """A run that began 90 seconds ago."""
    return Picture("digits", 100.0, stages, **{"began": 10.0, **more})


def many(number: int, at_work: int = 3) -> Picture:
    """Half of them done, then those at work, one that failed, and the rest queued; with long names."""
    found = [DENSE]
    for one in range(1, number):
        name = f"stage-{one}-of-a-ladder-that-has-very-many-rungs"
        if one < number // 2:
            found.append(stage(name, "done", 1, rate=2.0, value=97.0, dense=98.89, seconds=3.0))
        elif one < number // 2 + at_work:
            found.append(running(name))
        elif one == number - 5:
            found.append(stage(name, "failed", 1, why="RuntimeError: broke"))
        else:
            found.append(stage(name, "queued", 1, why="waits for its turn"))
    return picture(*found)
