"""What stages tell while they are at work: as facts, as a line, and through the store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dualprune.pipeline.run.work import KEPT, Work, clock, kept, told
from dualprune.pipeline.store.progress import Left
from tests.pipeline.run.pictures import ADMM


def epoch(number: int, **more: Any) -> dict[str, Any]:
    """What is told after an epoch of ten."""
    facts = {"event": "epoch", "phase": "admm", "epoch": number, "epochs": 10, "loss": 0.5, "seconds_left": 60.0}
    return {**facts, "val_accuracy": 97.5, "best": "accuracy", "unit": "%", **more}


STEPS = {"event": "steps", "phase": "admm", "epoch": 2, "epochs": 10, "done": 0.25, "loss": 0.4, "seconds_left": 50.0}
STEPS |= {"samples_per_second": 100.0, "waited": 0.1, "memory_bytes": 2.0**30, "lr": 0.1, "step_seconds": 0.01}


def test_a_stage_from_its_beginning() -> None:
    """Within an epoch the last one's metric stays; time is when it was told."""
    work = Work(asked=1.0).begins(
        "training", {"event": "training", "steps": 0, "world": 4, "epochs": 10, "rows": []}, 2.0
    )
    assert (work.trains, work.world, work.share, work.line) == (True, 4, None, "training")
    work = work.after(epoch(1), 3.0)
    assert (work.share, work.within, work.ended, work.heard, work.value) == (0.1, False, 1, 3.0, 97.5)
    assert work.line == "admm epoch 1/10  loss 0.5000  val 97.50 %  1:00 left"
    work = work.after(STEPS, 5.0)
    assert (work.share, work.within, work.ended, work.heard, work.value) == (0.125, True, 1, 5.0, 97.5)
    assert (work.samples_per_second, work.waited, work.memory_bytes, work.world) == (100.0, 0.1, 2.0**30, 4)
    assert work.line == "admm epoch 2/10 25 %  loss 0.4000  val 97.50 %  0:50 left"


def test_residuals_are_of_admms_updates() -> None:
    """The last of them; epochs without an update add none."""
    work = Work()
    for number in range(1, 101):
        work = work.after(epoch(number, **({"residual": 1 / number} if number % 2 else {})), 0.0)
    assert len(work.residuals) == 50
    assert work.residuals[-1] == 1 / 99
    assert "residual 0.010" in work.line
    for number in range(100):
        work = work.after(epoch(number, residual=0.5), 0.0)
    assert len(work.residuals) == KEPT


def test_one_that_goes_on() -> None:
    """Knows what was before, by the rows that its checkpoint has."""
    rows = [
        {"epoch": n, "phase": "admm", "steps": n, "loss": 0.3, "val_accuracy": 90.0 + n, "residual": 1 / n}
        for n in (1, 2)
    ]
    row = {"event": "resumed", "steps": 2, "world": 2, "epochs": 10, "rows": rows, "best": "accuracy", "unit": "%"}
    work = Work().begins("goes on after step 2", row, 7.0)
    assert (work.residuals, work.value, work.unit, work.epoch, work.share) == ((1.0, 0.5), 92.0, "%", 2, 0.2)
    assert work.began == 7.0


def test_one_that_is_tried_again() -> None:
    """Waits as at first, with what is known of it; what was told before is not counted twice."""
    before = Work(asked=1.0).begins("training", {"world": 2}, 2.0).after(epoch(1, residual=0.5), 3.0)
    again = before.again(9.0)
    assert (again.trains, again.asked, again.share, again.line) == (False, 9.0, None, "waits for its workers")
    rows = [{"epoch": 1, "loss": 0.5, "val_accuracy": 97.5, "residual": 0.5}]
    on = again.begins("goes on after step 1", {"event": "resumed", "epochs": 10, "rows": rows}, 10.0)
    assert (on.residuals, on.share) == ((0.5,), 0.1)


def test_facts_through_the_store() -> None:
    """As they were."""
    works = {"half": ADMM, "other": Work(asked=3.0)}
    found = json.loads(
        json.dumps({"lines": {name: f"{name}: {work.line}" for name, work in works.items()}, "works": kept(works)})
    )
    assert told(Left(**found)) == works


@pytest.mark.parametrize("facts", [None, 3, [], {"epoch": "many"}, {"residuals": 5}, {"said": None}])
def test_facts_of_another_version(facts: Any) -> None:
    """Are not taken for ours: its line is shown."""
    left = Left(
        lines={"half": "half: admm epoch 1/2"}, since={"half": ""}, works={} if facts is None else {"half": facts}
    )
    assert told(left) == {"half": Work("admm epoch 1/2", trains=True)}


def test_more_facts_than_are_known() -> None:
    """Harm nothing, nor do fewer."""
    left = Left(lines={"half": "half: x"}, works={"half": {"epoch": 3, "epochs": 4, "weather": "fine"}})
    assert told(left)["half"] == Work(epoch=3, epochs=4)


def test_the_share_is_never_out_of_bounds() -> None:
    """Whatever was told."""
    shares = [
        Work(epoch=e, epochs=n, done=d).share for e, n, d in ((None, 3, 0.0), (1, 0, 0.5), (9, 3, 1.0), (0, 3, 0.0))
    ]
    assert shares == [None, None, 1.0, 0.0]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3725, "1:02:05"), (-3, "0:00")])
def test_a_clock(seconds: float, text: str) -> None:
    """Hours where there are any; never below zero."""
    assert clock(seconds) == text


def test_a_clock_without_a_time() -> None:
    """A pace of nothing has no end."""
    assert clock(float("inf")) == clock(float("nan")) == "-"
