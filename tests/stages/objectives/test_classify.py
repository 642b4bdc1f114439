"""Classification of anything: fields by name, what they are called where they lack, and few classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dualprune.stages.settings.base import SpecError
from tests.stages.objectives.common import made, values

BATCH = {"numbers": torch.randn(6, 4), "kind": torch.tensor([0, 1, 2, 0, 1, 2])}


def test_rows_of_a_table_are_classified() -> None:
    """By the names of their fields, of a network with fewer outputs than `classes` says."""
    objective = made("classify", inputs=["numbers"], target="kind")
    logits = objective.call(nn.Linear(4, 3), BATCH).detach()
    found = values(objective, logits, BATCH)
    right = 100 * float((logits.argmax(1) == BATCH["kind"]).double().mean())
    assert found == {
        "accuracy": pytest.approx(right),
        "loss": pytest.approx(float(nn.functional.cross_entropy(logits, BATCH["kind"])), rel=1e-5),
        "top5": 100.0,
    }


def test_fields_of_any_names_may_lie_beside() -> None:
    """They are no labels of mixed pictures."""
    objective = made("classify", inputs=["numbers"], target="kind")
    logits = torch.randn(6, 3)
    beside = {"other": torch.zeros(6, dtype=torch.long), "own": torch.tensor(0.5)}
    assert objective.loss(logits, {**BATCH, **beside}) == objective.loss(logits, BATCH)


@pytest.mark.parametrize(("args", "said"), [({}, "inputs"), ({"inputs": ["numbers"]}, "target")])
def test_a_field_that_is_not_there_is_named(args: dict[str, list[str]], said: str) -> None:
    objective = made("classify", **args)
    with pytest.raises(SpecError, match=rf"objective.args.{said}: the data has no field '\w+'; it has numbers, kind"):
        objective.loss(objective.call(nn.Linear(4, 3), BATCH), BATCH)
