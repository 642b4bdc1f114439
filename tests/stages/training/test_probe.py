"""A batch tried before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.kinds.table import parse
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import StageSpec
from dualprune.stages.training.probe import probe

TABLE = {
    "splits": {
        "train": {
            "samples": 100,
            "format": "fields",
            "fields": {
                "x": {"kind": "npy", "dtype": "float32", "shape": [8]},
                "target": {"kind": "num", "dtype": "float32", "shape": []},
                "label": {"kind": "cls", "dtype": "int64", "shape": []},
                "input_ids": {"kind": "npy", "dtype": "int32", "shape": [], "longest": 30},
            },
        }
    },
    "labels": 4,
}
"""A manifest of numbers, a target, labels from 0 to 3, and tokens."""
Stage = Callable[..., StageSpec]


class Counted(nn.Module):
    """Embeds tokens, and gives its logits by name."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """[n, t] to `logits` [n, outputs]."""
        assert attention_mask is not None
        assert attention_mask.shape == input_ids.shape
        return {"hidden": input_ids, "logits": self.head(self.embedding(input_ids).mean(1))}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A function that makes settings of a stage with a small network."""
    monkeypatch.setitem(MODELS, "linear", lambda classes: nn.Linear(8, classes))
    monkeypatch.setitem(MODELS, "counted", Counted)

    def make(network: str, outputs: int, objective: Any) -> StageSpec:
        return parse(
            {
                "kind": "train",
                "model": {"name": network, "classes": outputs},
                "data": {"shards": "somewhere"},
                "objective": objective,
                "train": {"epochs": 1, "lr": 0.1},
            }
        )

    return make


@pytest.mark.parametrize(
    ("network", "outputs", "objective"),
    [
        ("linear", 1, "regress"),
        ("linear", 4, {"name": "classify", "args": {"inputs": ["x"]}}),
        ("counted", 4, "tokens"),
        (
            "counted",
            7,
            {"name": "classify", "args": {"inputs": {"input_ids": "input_ids", "attention_mask": "input_ids_mask"}}},
        ),
    ],
)
def test_what_fits_passes(stage: Stage, network: str, outputs: int, objective: Any) -> None:
    probe(stage(network, outputs, objective), TABLE)


@pytest.mark.parametrize(
    ("network", "outputs", "objective", "place", "said"),
    [
        ("linear", 3, "regress", "model", "outputs are [2, 3], and targets [2, 1]: one each is needed"),
        ("linear", 2, {"name": "classify", "args": {"inputs": ["x"]}}, "model", "Target 3 is out of bounds"),
        (
            "linear",
            1,
            {"name": "regress", "args": {"inputs": ["y"]}},
            "objective.args.inputs",
            "the data has no field 'y'",
        ),
        (
            "linear",
            1,
            {"name": "regress", "args": {"target": "y"}},
            "objective.args.target",
            "the data has no field 'y'",
        ),
        ("linear", 4, "classify", "objective.args.inputs", "the data has no field 'image'; it has x, target, label"),
        ("counted", 3, "tokens", "model", "Target 3 is out of bounds"),
        (
            "digits_cnn",
            4,
            {"name": "classify", "args": {"inputs": ["x"]}},
            "model",
            "a batch of x float32 [2, 8], target",
        ),
    ],
)
def test_what_does_not_fit_is_told(
    stage: Stage, network: str, outputs: int, objective: Any, place: str, said: str
) -> None:
    """With the batch that it fails on, where the fault may be the network's."""
    with pytest.raises(SpecError) as caught:
        probe(stage(network, outputs, objective), TABLE)
    ((path, text),) = caught.value.problems
    assert ".".join(map(str, path)) == place
    assert said in text


def test_what_depends_on_values_is_let_pass_in_large_networks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not run."""

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 10_000_000)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[:, : int(torch.count_nonzero(x).item()) + 1]

    monkeypatch.setitem(MODELS, "large", lambda classes: Large())
    probe(stage("large", 1, "regress"), TABLE)
