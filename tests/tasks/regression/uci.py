"""Tables of the UCI repository with the splits of a Bayesian benchmark: concrete, energy, wine-quality-red."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sample = dict[str, Any]


def samples(folder: str, table: str, split: int = 0) -> dict[str, list[Sample]]:
    """The rows of a table as `x` and `target`, of mean 0 and variance 1 over those of train; val is to be cut out."""
    place = Path(folder) / table
    rows = np.loadtxt(place / "data.txt")
    x, y = rows[:, _numbers(place / "index_features.txt")], rows[:, _numbers(place / "index_target.txt")].reshape(-1)
    train, test = (_numbers(place / f"index_{part}_{split}.txt") for part in ("train", "test"))
    x, y = _scaled(x, train), _scaled(y, train)
    return {
        name: [{"x": x[n], "target": float(y[n])} for n in part] for name, part in (("train", train), ("test", test))
    }


def _scaled(values: NDArray[np.float64], train: NDArray[np.int64]) -> NDArray[np.float64]:
    spread = values[train].std(0)
    return (values - values[train].mean(0)) / np.where(spread > 0, spread, 1)


def _numbers(file: Path) -> NDArray[np.int64]:
    return np.loadtxt(file, ndmin=1).astype(np.int64)
