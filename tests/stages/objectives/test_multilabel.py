"""Several labels against scikit-learn: mean average precision and ROC area from binned scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

from dualprune.stages.objectives.fields import IGNORED
from dualprune.stages.settings.base import SpecError
from tests.stages.objectives.common import made, values

GENERATOR = torch.Generator().manual_seed(3)
LOGITS = 4 * torch.randn(200, 4, generator=GENERATOR)
TARGET = (LOGITS + 4 * torch.randn(200, 4, generator=GENERATOR) > 2).long()


def rounded(logits: Tensor, bins: int) -> np.ndarray:
    """The number of each score's interval."""
    x = logits.double().numpy()
    return np.floor((x / (1 + np.abs(x)) + 1) * bins / 2)


@pytest.mark.parametrize("bins", [4, 64, 4096])
def test_metrics_are_scikit_learns_of_rounded_scores(bins: int) -> None:
    """Scores of one interval count as equal, as scikit-learn has equal scores."""
    found = values(made("multilabel", bins=bins), LOGITS, {"target": TARGET})
    scores = rounded(LOGITS, bins)
    assert found["map"] == pytest.approx(100 * metrics.average_precision_score(TARGET, scores), rel=1e-12)
    assert found["auc"] == pytest.approx(100 * metrics.roc_auc_score(TARGET, scores), rel=1e-12)


def test_by_default_they_are_those_of_the_scores() -> None:
    """But for what rounding does: a few hundredths of a point, of 200 samples."""
    found = values(made("multilabel"), LOGITS, {"target": TARGET})
    assert found["map"] == pytest.approx(100 * metrics.average_precision_score(TARGET, LOGITS), abs=0.05)
    assert found["auc"] == pytest.approx(100 * metrics.roc_auc_score(TARGET, LOGITS), abs=0.05)
    loss = nn.functional.binary_cross_entropy_with_logits(LOGITS, TARGET.float())
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("unknown", [IGNORED, float("nan")])
def test_unknown_labels_count_nowhere(unknown: float) -> None:
    """Each label of a sample on its own."""
    target = TARGET.float()
    target[:50, 1] = target[150:] = unknown
    found = values(made("multilabel"), LOGITS, {"target": target})
    scores = rounded(LOGITS, 4096)
    parts = [metrics.average_precision_score(TARGET[a:150, n], scores[a:150, n]) for n, a in enumerate((0, 50, 0, 0))]
    assert found["map"] == pytest.approx(100 * sum(parts) / 4, rel=1e-12)
    assert int(made("multilabel").good({"target": target})) == 150


def test_labels_that_nobody_has() -> None:
    """They are left out of the mean; where there are no others, there is no precision, and chance's area."""
    target = TARGET.clone()
    target[:, 0] = 0
    found = values(made("multilabel"), LOGITS, {"target": target})
    assert found["map"] == pytest.approx(100 * metrics.average_precision_score(TARGET[:, 1:], LOGITS[:, 1:]), abs=0.05)
    assert found["auc"] == pytest.approx(100 * metrics.roc_auc_score(TARGET[:, 1:], LOGITS[:, 1:]), abs=0.05)
    nobody = values(made("multilabel"), LOGITS, {"target": torch.zeros_like(target)})
    assert (nobody["map"], nobody["auc"]) == (0.0, 50.0)


def test_one_label_is_enough() -> None:
    """Targets and logits of [n], chosen by the area."""
    objective = made("multilabel", best="auc")
    assert objective.best == "auc"
    found = values(objective, LOGITS[:, 0], {"target": TARGET[:, 0]})
    assert found["auc"] == pytest.approx(100 * metrics.roc_auc_score(TARGET[:, 0], LOGITS[:, 0]), abs=0.05)


def test_distillation_is_two_sided_kl() -> None:
    """By hand, of two labels at a temperature of 2."""
    given, wanted = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 3.0]])
    p, q = (wanted / 2).sigmoid().double(), (given / 2).sigmoid().double()
    kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() * 4
    objective = made("multilabel")
    assert objective.distil is not None
    found = objective.distil(given, wanted, {"target": torch.ones(1, 2)}, 2.0)
    assert float(found) == pytest.approx(float(kl), rel=1e-5)


def test_targets_that_are_no_labels_are_refused() -> None:
    """Numbers to be predicted, say."""
    with pytest.raises(SpecError, match=r"objective.args.target: 'target' holds 0.25, and labels are 0, 1"):
        values(made("multilabel"), LOGITS, {"target": TARGET + 0.25})
