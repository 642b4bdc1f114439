"""Which input a network is looked at by, how its outputs are read, and what is refused, with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.objectives.fields import IGNORED
from dualprune.stages.saliency.errors import NotShown
from dualprune.stages.saliency.inputs import found
from dualprune.stages.saliency.outputs import Reading, checked, reading
from dualprune.stages.settings.objective import Named
from tests.stages.saliency.common import aimed, linear

LABEL = {"label": torch.zeros(2, dtype=torch.long)}
NUMBERS = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])


class Of(nn.Module):
    """A network that is a function."""

    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call, self.table = call, nn.Parameter(torch.randn(4, 3))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Whatever the function gives."""
        return self.call(self, *inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "call",
    [
        lambda self, x: self.table[x].sum(1),
        lambda self, x: F.embedding(x, self.table).sum(1),
        lambda self, x: F.embedding(input=x, weight=self.table).sum(1),
        lambda self, x: (F.embedding(x, self.table) + F.embedding(torch.arange(4), self.table)).sum(1),
        lambda self, x: F.embedding(x, self.table).sum(1) + F.embedding(x, self.table).amax(1),
    ],
    ids=["index", "embedding", "by name", "and places", "twice in one table"],
)
def test_lookups(call: Any) -> None:
    of = found(Of(call), aimed(), {"x": NUMBERS, **LABEL})
    assert (of.field, of.kind, of.looked_up) == ("x", "tokens", True)


def test_kinds() -> None:
    letters = F.one_hot(NUMBERS, 4).float()
    for x, kind, axis in (
        (torch.randn(2, 3, 4, 5), "picture", 1),
        (letters, "sequence", 1),  # as many places as letters: along both axes each has one
        (F.one_hot(NUMBERS, 5).float(), "sequence", 2),
        (F.one_hot(NUMBERS, 5).float().transpose(1, 2), "sequence", 1),
        (torch.randn(2, 3, 9), "sequence", 1),
        (torch.randn(2, 9, 3), "sequence", 2),
    ):
        of = found(linear(x[0].numel()), aimed(), {"x": x, **LABEL})
        assert (of.kind, of.axis) == (kind, axis), x.shape


def test_the_first_input_of_a_known_kind() -> None:
    """A table beside a picture stays as it is."""
    network = Of(lambda self, table, image: torch.cat([table, image.flatten(1)], 1) @ torch.ones(6, 3))
    batch = {"table": torch.randn(2, 2), "image": torch.randn(2, 1, 2, 2), **LABEL}
    assert found(network, aimed(inputs=["table", "image"]), batch).field == "image"


@pytest.mark.parametrize(
    ("call", "x", "said"),
    [
        (lambda self, x: x @ self.table, torch.randn(2, 4), "x is 4 a sample: maps are of pictures"),
        (lambda self, x: x.sum((2, 3, 4)) @ self.table, torch.randn(2, 4, 2, 2, 2), "and not of tables or volumes"),
        (lambda self, x: x.float() @ self.table, NUMBERS, "no input has a gradient"),
        (lambda self, x: F.embedding(x + 0, self.table).sum(1), NUMBERS, r"whole numbers \(x, label\)"),
        (
            lambda self, x: (F.embedding(x, self.table) + F.embedding(x, self.table + 1)).sum(1),
            NUMBERS,
            "looks x up in more than one table",
        ),
        (lambda self, x: self.table[x], NUMBERS, "call gives 4 x 3 a sample, and scores of two classes"),
        (lambda self, x: self.table[x].sum((1, 2), keepdim=True)[:, 0], NUMBERS, "call gives 1 a sample"),
    ],
)
def test_refused_inputs(call: Any, x: Tensor, said: str) -> None:
    with pytest.raises(NotShown, match=said):
        found(Of(call), aimed(), {"x": x, **LABEL})


def test_objectives() -> None:
    assert reading(Named(name="classify")) == Reading("label")
    assert reading(Named(name="classify", args={"target": "kind"})) == Reading("kind")
    assert reading(Named(name="multilabel")) == Reading("target", several=True)
    assert reading(Named(name="tokens")) == Reading("label")
    assert reading(Named(name="mine:objective")) == Reading(None)
    for name, args, said in (
        ("regress", {}, "the objective regress gives numbers and no classes"),
        ("landmarks", {}, "the objective landmarks gives numbers"),
        ("tokens", {"task": "language"}, "tokens with task: language answers for each token"),
    ):
        with pytest.raises(NotShown, match=said):
            reading(Named.model_validate({"name": name, "args": args}))


def test_scores() -> None:
    assert checked(torch.zeros(3, 2), several=False).shape == (3, 2)
    assert checked(torch.zeros(3), several=True).shape == (3, 1)
    for wrong in ({"logits": 1}, torch.zeros(3, 2, dtype=torch.long)):
        with pytest.raises(NotShown, match=r"scores \[n, classes\] are needed"):
            checked(wrong, several=False)


def test_answers_of_labels() -> None:
    """Of several labels those count that are known, and maps are of the strongest of them."""
    how = Reading("target", several=True)
    scores = torch.tensor([[2.0, -1.0, 3.0], [-1.0, -2.0, 5.0], [0.5, 4.0, 0.0]])
    target = torch.tensor([[1.0, 0.0, torch.nan], [0.0, torch.nan, IGNORED], [torch.nan] * 3])
    right = how.right({"target": target})
    assert right is not None
    assert right.tolist() == [[1, 0, IGNORED], [0, IGNORED, IGNORED], [IGNORED] * 3]
    assert how.classes(scores, right).tolist() == [0, 0, 1]
    assert how.answers(scores).tolist() == [[1, 0, 1], [0, 0, 1], [1, 1, 0]]
    other = how.answers(-scores)
    assert how.same(how.answers(scores), other, right).tolist() == [False, False, True]
    assert how.same(how.answers(scores), right, right).tolist() == [True, True, True]


def test_answers_of_classes() -> None:
    how = Reading("label")
    scores = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    right = how.right({"label": torch.tensor([0, IGNORED])})
    assert right is not None
    assert how.classes(scores, right).tolist() == how.answers(scores).tolist() == [0, 1]
    assert how.same(torch.tensor([0, 1]), right, right).tolist() == [True, False]
    assert Reading(None).right({"label": right}) is None
