"""When a callback updates and projects."""

from __future__ import annotations

import pytest
import torch

import dualprune
from dualprune.stages.library.pruner import Pruner
from dualprune.stages.library.schedule import Schedule
from tests.stages.library.loops import network, train


@pytest.mark.parametrize(("jump", "at"), [(1, [3, 6]), (2, [4, 6]), (5, [5, 10])])
def test_updates_come_at_their_steps_and_the_projection_with_the_last(jump: int, at: list[int]) -> None:
    """Or at the first step after it that is told of: not all are, where steps are of several optimizers."""
    model = network()
    pruner = Pruner(model, [dualprune.cardinality("*", rate=4)], rho=0.1, rho_growth=2.0)
    optimizer = pruner.wrap(torch.optim.SGD(model.parameters(), lr=0.01))
    schedule, rows = Schedule(every=3, updates=2), {}
    for step in range(jump, 13, jump):
        train(model, optimizer, range(step, step + 1))
        if row := schedule.stepped(pruner, step - jump, step):
            rows[step] = row
    update = {"pruning/residual", "pruning/change", "pruning/rho"}
    assert {step: set(row) for step, row in rows.items()} == {
        at[0]: update,
        at[1]: update | {"pruning/projected", "pruning/rate"},
    }
    assert [row["pruning/rho"] for row in rows.values()] == [0.2, 0.4]
    assert rows[at[1]]["pruning/rate"] == pruner.rate
    assert pruner.phase == "retrain"


def test_a_training_that_is_too_short_is_refused() -> None:
    Schedule(every=3, updates=2).check(6)
    Schedule(every=3, updates=2).check(float("inf"))
    with pytest.raises(ValueError, match="2 updates, one every 3 steps, take 6 steps, and this training has 5:"):
        Schedule(every=3, updates=2).check(5)
    for wrong in ({"every": 0, "updates": 1}, {"every": 1, "updates": 1.5}):
        with pytest.raises(ValueError, match=r"^(every|updates): must be a whole number above 0, not"):
            Schedule(**wrong)  # type: ignore[arg-type]
