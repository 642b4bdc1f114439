"""A data set and a network of one's own: the diabetes table of scikit-learn, and linear layers for tables."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes
from torch import nn

MEAN, STD = 152.0, 77.0
"""Of the progression of the disease, about: `mse` and `mae` are in units of that deviation, and its square."""


def samples() -> list[dict[str, Any]]:
    """442 patients: `x` [10], of mean 0 and variance 1, and `target`, the progression after a year, likewise."""
    table = load_diabetes()
    numbers = table.data * np.sqrt(len(table.data))
    return [{"x": x, "target": float((y - MEAN) / STD)} for x, y in zip(numbers, table.target, strict=True)]


def mlp(inputs: int, width: int = 64, depth: int = 2, outputs: int = 1) -> nn.Module:
    """`depth` hidden layers of that width: [n, inputs] to [n, outputs]."""
    sizes = [inputs, *[width] * depth]
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, outputs))
