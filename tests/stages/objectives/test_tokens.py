"""Sequences and their tokens: values by hand, padding that changes nothing, networks of several forms that learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.objectives.base import Batch
from dualprune.stages.objectives.fields import IGNORED
from dualprune.stages.settings.base import SpecError
from tests.stages.objectives.common import made, values

LENGTHS = torch.tensor([5, 3, 2, 4])
TASKS = ("sequence", "token", "masked", "language")


def sequences(longest: int, seed: int = 1) -> tuple[Tensor, Batch]:
    """Logits of 7 tokens and a batch of four sequences, padded with what would count if it were looked at."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 5, 7, generator=generator)
    ids = torch.randint(0, 7, (4, 5), generator=generator)
    labels = torch.randint(0, 7, (4, 5), generator=generator)
    mask = torch.arange(longest) < LENGTHS[:, None]
    pad = longest - 5
    padded = nn.functional.pad
    batch = {
        "input_ids": padded(ids, (0, pad), value=3),
        "input_ids_mask": mask,
        "labels": padded(labels, (0, pad), value=2),
        "label": torch.tensor([1, 6, 0, 2]),
    }
    return padded(logits, (0, 0, 0, pad), value=9.0), batch


def test_language_by_hand() -> None:
    """Each token is predicted from what stands before it; perplexity is over all tokens, loss over sequences."""
    logits, batch = sequences(5)
    objective = made("tokens", task="language")
    wanted, right = [], []
    for row, length in enumerate(LENGTHS.tolist()):
        chances = logits[row].double().softmax(1)
        places = range(length - 1)
        wanted.append([-math.log(float(chances[n, batch["input_ids"][row, n + 1]])) for n in places])
        right += [int(chances[n].argmax()) == int(batch["input_ids"][row, n + 1]) for n in places]
    every = [one for row in wanted for one in row]
    found = values(objective, logits, batch)
    assert objective.best == "perplexity"
    assert not objective.metrics["perplexity"].higher
    assert found["perplexity"] == pytest.approx(math.exp(sum(every) / len(every)), rel=1e-6)
    assert found["accuracy"] == pytest.approx(100 * sum(right) / len(right))
    assert found["loss"] == pytest.approx(sum(sum(row) / len(row) for row in wanted) / 4, rel=1e-5)


@pytest.mark.parametrize("task", ["token", "masked"])
def test_tokens_by_hand(task: str) -> None:
    """Padding is not looked at, nor what has the label -100."""
    logits, batch = sequences(5)
    batch["labels"][0, :2] = IGNORED
    known = [(row, n) for row, length in enumerate(LENGTHS.tolist()) for n in range(length) if (row, n) > (0, 1)]
    chances, labels = logits.double().log_softmax(2), batch["labels"]
    missed = [-float(chances[row, n, labels[row, n]]) for row, n in known]
    right = sum(int(logits[row, n].argmax()) == int(labels[row, n]) for row, n in known)
    found = values(made("tokens", task=task), logits, batch)
    assert found["accuracy"] == pytest.approx(100 * right / len(known))
    if task == "masked":
        assert found["perplexity"] == pytest.approx(math.exp(sum(missed) / len(missed)), rel=1e-6)


def test_sequences_by_hand() -> None:
    logits, batch = sequences(5)
    batch["label"][2] = IGNORED
    objective, first = made("tokens"), logits[:, 0]
    found = values(objective, first, batch)
    known = torch.tensor([0, 1, 3])
    assert found["accuracy"] == pytest.approx(100 * float((first.argmax(1) == batch["label"])[known].double().mean()))
    cross = nn.functional.cross_entropy(first[known], batch["label"][known])
    assert found["loss"] == pytest.approx(float(cross), rel=1e-5)
    assert int(objective.good(batch)) == 3


@pytest.mark.parametrize("task", TASKS)
def test_longer_padding_changes_nothing(task: str) -> None:
    """Neither losses nor metrics, nor what a teacher says, nor how many samples there are."""
    objective, found = made("tokens", task=task), []
    for longest in (5, 8):
        logits, batch = sequences(longest)
        teacher, _ = sequences(longest, seed=2)
        if task == "sequence":
            logits, teacher = logits[:, 0], teacher[:, 0]
        assert objective.distil is not None
        apart = float(objective.distil(logits, teacher, batch, 2.0))
        found.append([*values(objective, logits, batch).values(), apart, int(objective.good(batch))])
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0][-1] == 4


def test_a_targets_own_mask_goes_first() -> None:
    """Labels may be padded otherwise than tokens."""
    _, batch = sequences(5)
    own = {**batch, "labels_mask": torch.zeros(4, 5, dtype=torch.bool)}
    own["labels_mask"][0, 0] = True
    objective = made("tokens", task="token")
    assert int(objective.good(own)) == 1
    assert int(objective.good(batch)) == 4


@dataclass
class Given:
    """Outputs as transformers gives them."""

    hidden: Tensor
    logits: Tensor


class Reader(nn.Module):
    """The mean of embeddings of what the mask says, in one of the forms in which networks give their outputs."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.embedding, self.head, self.form = nn.Embedding(7, 8), nn.Linear(8, 3), form

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        x = self.embedding(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        assert mask.dtype == torch.long
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        logits = self.head(pooled)
        return {
            "tensor": logits,
            "tuple": (logits, x),
            "dict": {"hidden": x, "logits": logits},
            "dataclass": Given(x, logits),
            "other": {"hidden": x, "scores": logits},
        }[self.form]


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "dataclass", "other"])
@pytest.mark.parametrize("inputs", [["input_ids"], {"input_ids": "input_ids"}])
def test_a_network_learns(form: str, inputs: list[str] | dict[str, str]) -> None:
    """Whatever form its outputs have; padding does not reach it."""
    torch.manual_seed(0)
    more = {"output": "scores"} if form == "other" else {}
    network, objective = Reader(form), made("tokens", inputs=inputs, **more)
    _, batch = sequences(8)
    batch = {**batch, "label": torch.tensor([0, 1, 2, 1])}
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        objective.loss(objective.call(network, batch), batch).backward()
        optimizer.step()
    outputs = objective.call(network, batch).detach()
    assert values(objective, outputs, batch)["accuracy"] == 100
    other = {**batch, "input_ids": batch["input_ids"].masked_fill(~batch["input_ids_mask"], 5)}
    assert torch.equal(objective.call(network, other), outputs)


def test_a_network_without_a_mask() -> None:
    """It gets none where it is told so, or the data has none."""
    _, batch = sequences(5)
    network = Reader("tensor")
    alone = {"input_ids": batch["input_ids"], "label": batch["label"]}
    wanted = network(batch["input_ids"])
    for objective, given in ((made("tokens", mask_as=None), batch), (made("tokens"), alone)):
        assert torch.equal(objective.call(network, given), wanted)


@pytest.mark.parametrize("inputs", [["tokens"], {"input_ids": "tokens"}])
def test_a_mask_goes_with_its_field(inputs: list[str] | dict[str, str]) -> None:
    """Tokens by the name that tables give them have a mask by theirs."""
    _, batch = sequences(5)
    network = Reader("tensor")
    renamed = {name.replace("input_ids", "tokens"): values for name, values in batch.items()}
    found = made("tokens", inputs=inputs).call(network, renamed)
    assert torch.equal(found, made("tokens").call(network, batch))
    assert not torch.equal(found, network(batch["input_ids"]))


def test_what_is_not_there_is_told() -> None:
    """A field that the data has not; an output that the network has not."""
    _, batch = sequences(5)
    with pytest.raises(SpecError, match=r"objective\.args\.inputs: the data has no field 'ids'; it has input_ids, "):
        made("tokens", inputs=["ids"]).call(Reader("tensor"), batch)
    with pytest.raises(SpecError, match=r"objective\.args\.target: the data has no field 'class'; it has "):
        made("tokens", target="class").good(batch)
    for form, output in (("other", None), ("dict", "scores"), ("tuple", 2), ("dataclass", "scores")):
        with pytest.raises(SpecError, match=r"objective\.args\.output: the network gives a "):
            made("tokens", output=output).call(Reader(form), batch)
