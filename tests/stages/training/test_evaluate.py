"""Evaluation: every sample is counted exactly once, however ranks and batches share them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from dualprune.stages.data.format import read_manifest
from dualprune.stages.data.read.memory import Batches
from dualprune.stages.data.shards import Split, write
from dualprune.stages.settings.data import Data
from dualprune.stages.training.evaluate import Score, evaluate
from tests.stages.conftest import CLASSIFY, random_pictures
from tests.stages.objectives.common import made


@pytest.fixture
def batches(one_rank: None, tmp_path: Path) -> Batches:
    """Twenty-three random pictures of three classes."""
    pictures = random_pictures(23, (4, 4), seed=1)
    write(str(tmp_path), "random", dict.fromkeys(("train", "val", "test"), pictures))
    return Batches(
        Split(str(tmp_path), read_manifest(str(tmp_path))["splits"]["test"]),
        Data(source="digits"),
        0,
        torch.device("cpu"),
    )


def forward(pictures: Tensor) -> Tensor:
    """A fixed linear map to three logits."""
    weights = torch.randn(16, 3, generator=torch.Generator().manual_seed(2))
    return pictures.flatten(1) @ weights


def expected(batches: Batches) -> Score:
    """The score, in NumPy, sample by sample."""
    logits = forward(batches.plain(np.arange(23))[0]).numpy().astype(np.float64)
    labels = [i % 3 for i in range(23)]
    correct = sum(int(row.argmax()) == label for row, label in zip(logits, labels, strict=True))
    loss = sum(np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True))
    return Score({"accuracy": 100 * correct / 23, "loss": float(loss) / 23}, 23)


@pytest.mark.parametrize("size", [1, 5, 23, 256])
def test_one_rank_scores_all(batches: Batches, size: int) -> None:
    got, want = evaluate(forward, CLASSIFY, batches, size=size), expected(batches)
    assert (got.values["accuracy"], got.samples) == (want.values["accuracy"], 23)
    assert 0 < got.values["accuracy"] < 100
    assert got.values["loss"] == pytest.approx(want.values["loss"], rel=1e-5)


@pytest.mark.parametrize("world", [2, 3, 4, 25])
@pytest.mark.parametrize("size", [2, 256])
def test_ranks_count_each_sample_once_between_them(batches: Batches, world: int, size: int) -> None:
    """Each rank's own part, as the sum over this group of one leaves it alone; and as many rounds on each."""
    calls: list[int] = []

    def counted(pictures: Tensor) -> Tensor:
        calls[-1] += 1
        return forward(pictures)

    parts = []
    for rank in range(world):
        calls.append(0)
        parts.append(evaluate(counted, CLASSIFY, batches, rank, world, size))
    want = expected(batches)
    samples = [part.samples for part in parts]
    assert sum(samples) == want.samples == 23
    for name, value in want.values.items():
        mean = sum(part.values[name] * part.samples for part in parts if part.samples) / 23
        assert mean == pytest.approx(value, rel=1e-5)
    assert len(set(calls)) == 1


@pytest.mark.parametrize("world", [1, 2, 25])
def test_tensors_are_summed_over_ranks(batches: Batches, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that takes more than a number: R2 of 23 pictures, whatever ranks have of them; one may have none."""
    objective, kept = made("regress", inputs=["image"], target="label"), list[Tensor]()

    def first(pictures: Tensor) -> Tensor:
        return forward(pictures)[:, :1]

    def summed(flat: Tensor) -> None:
        kept.append(flat.clone())
        flat.copy_(torch.stack(kept).sum(0))

    monkeypatch.setattr("torch.distributed.all_reduce", summed)
    scores = [evaluate(first, objective, batches, rank, world, 2) for rank in range(world)]
    outputs = first(batches.plain(np.arange(23))[0])
    assert scores[-1].samples == 23
    assert scores[-1].values["r2"] == pytest.approx(metrics.r2_score([i % 3 for i in range(23)], outputs), rel=1e-6)


def test_no_gradient_is_kept(batches: Batches) -> None:
    weights = torch.randn(16, 3, requires_grad=True)
    seen: list[bool] = []

    def watched(pictures: Tensor) -> Tensor:
        logits = pictures.flatten(1) @ weights
        seen.append(logits.requires_grad)
        return logits

    evaluate(watched, CLASSIFY, batches)
    assert seen == [False]
