"""Regression against scikit-learn: R2, squared and absolute error; what is not known; a network that learns."""

from __future__ import annotations

import pytest
import torch
from sklearn import metrics
from torch import nn

from tests.stages.objectives.common import made, values

GENERATOR = torch.Generator().manual_seed(3)
OUTPUTS = torch.randn(50, 3, generator=GENERATOR)
TARGET = OUTPUTS * torch.tensor([1.0, 0.5, 2.0]) + 0.3 * torch.randn(50, 3, generator=GENERATOR)


@pytest.mark.parametrize("shift", [0.0, 1e3])
@pytest.mark.parametrize("width", [1, 3])
def test_metrics_are_scikit_learns(shift: float, width: int) -> None:
    """Of one number, as [n] too, and of several; a large mean takes away no digits."""
    outputs, target = OUTPUTS[:, :width] + shift, TARGET[:, :width] + shift
    for wanted in (target, target[:, 0]) if width == 1 else (target,):
        found = values(made("regress"), outputs, {"target": wanted})
        assert found == {
            "r2": pytest.approx(metrics.r2_score(target, outputs), rel=1e-6),
            "mse": pytest.approx(metrics.mean_squared_error(target, outputs), rel=1e-5),
            "mae": pytest.approx(metrics.mean_absolute_error(target, outputs), rel=1e-5),
        }


def test_unknown_numbers_count_nowhere() -> None:
    """Each number of a sample on its own: as if only the others were there."""
    target = TARGET.clone()
    target[:20, 1] = torch.nan
    target[40:] = torch.nan
    found = values(made("regress"), OUTPUTS, {"target": target})
    parts = [metrics.r2_score(TARGET[a:40, n], OUTPUTS[a:40, n]) for n, a in ((0, 0), (1, 20), (2, 0))]
    assert found["r2"] == pytest.approx(sum(parts) / 3, rel=1e-6)
    assert int(made("regress").good({"target": target})) == 40
    squares = (OUTPUTS - TARGET).square()
    mse = (squares[:20, [0, 2]].mean(1).sum() + squares[20:40].mean(1).sum()) / 40
    assert found["mse"] == pytest.approx(float(mse), rel=1e-5)


def test_numbers_that_are_always_the_same() -> None:
    """As scikit-learn: all is explained by who is right, nothing by who is not."""
    target = torch.full((6, 2), 5.0)
    outputs = torch.stack([torch.full((6,), 5.0), torch.arange(6.0)], 1)
    assert values(made("regress"), outputs, {"target": target})["r2"] == metrics.r2_score(target, outputs) == 0.5


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_losses_are_torchs(loss: str) -> None:
    way = {"mse": nn.MSELoss(), "mae": nn.L1Loss(), "huber": nn.HuberLoss()}[loss]
    found = made("regress", loss=loss).loss(OUTPUTS, {"target": TARGET})
    assert float(found) == pytest.approx(50 * float(way(OUTPUTS, TARGET)), rel=1e-5)


def test_whole_numbers_are_targets_too() -> None:
    """Labels of classes, say; none of them stands for what is not known."""
    found = made("regress").loss(torch.zeros(4, 1), {"target": torch.tensor([0, 1, -100, 3])})
    assert float(found) == 0 + 1 + 100**2 + 9


def test_what_does_not_fit_is_refused() -> None:
    """Broadcasting would make n x n differences of it."""
    with pytest.raises(ValueError, match=r"outputs are \[50, 3\], and targets \[50, 1\]"):
        made("regress").loss(OUTPUTS, {"target": TARGET[:, 0]})


def test_a_network_learns() -> None:
    """What a linear layer can: R2 goes to 1."""
    torch.manual_seed(0)
    network, objective = nn.Linear(3, 2), made("regress", inputs=["in"], target="out")
    x = torch.randn(64, 3)
    batch = {"in": x, "out": x[:, :2] * 2 - 1}
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (objective.loss(objective.call(network, batch), batch) / 64).backward()
        optimizer.step()
    assert values(objective, objective.call(network, batch).detach(), batch)["r2"] > 0.999
