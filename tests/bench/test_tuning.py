"""Successive halving of a stage's settings: who goes on, from what, and what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.bench.tuning import halved, of, values

STAGES = [
    {"name": "dense", "kind": "train", "train": {"epochs": 1, "lr": 0.004}},
    {
        "name": "pruned",
        "kind": "prune",
        "parent": "dense",
        "constraints": [{"set": "cardinality", "tensors": "*", "rate": 4}],
        "admm": None,
        "retrain": {"epochs": 9, "lr": 0.002},
    },
    {"name": "after", "kind": "train", "parent": "pruned", "train": {"epochs": 9, "lr": 0.002}},
]


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A file of three stages, of which the middle one is searched."""
    given = {
        "name": "small",
        "store": str(tmp_path / "store"),
        "cluster": {"workers": 1},
        "model": {"name": "digits_cnn"},
        "data": {"source": "digits"},
        "batch": 256,
        "stages": STAGES,
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(given))
    return str(path)


def test_the_better_half_goes_on_and_the_best_is_chosen(config: str, tmp_path: Path) -> None:
    search = of(config, "pruned", ["seed=3"])
    assert search.before == ("dense",)
    tries, rounds = {"retrain.lr": [1e-6, 1e-4, 0.004]}, {"retrain.epochs": [1, 2]}
    found = halved(search, tries, rounds, inline=True)
    first, second = ([row for row in found.rows if row["round"] == number] for number in (1, 2))
    assert [row["retrain.lr"] for row in first] == tries["retrain.lr"]
    assert {row["retrain.epochs"] for row in first} == {1}
    assert {row["retrain.epochs"] for row in second} == {2}
    best = sorted(first, key=lambda row: -row["val_accuracy"])[:2]
    assert [row["goes_on"] for row in first].count("yes") == len(second) == 2
    assert {row["retrain.lr"] for row in second} == {row["retrain.lr"] for row in best}
    last = max(second, key=lambda row: row["val_accuracy"])
    assert found.settings == {"retrain.lr": last["retrain.lr"], "retrain.epochs": 2}
    assert found.metrics["val_accuracy"] == last["val_accuracy"]
    assert "test_accuracy" in found.metrics
    assert not any("test" in name for row in found.rows for name in row)
    done = len(list((tmp_path / "store").glob("*/manifest.json")))
    assert done == 6
    assert halved(search, tries, rounds, inline=True) == found
    assert len(list((tmp_path / "store").glob("*/manifest.json"))) == done


def test_what_cannot_be_searched_is_said(config: str) -> None:
    with pytest.raises(ValueError, match="no entry 'prune'"):
        of(config, "prune")
    with pytest.raises(ValueError, match="one for each round"):
        halved(of(config, "pruned"), {"retrain.lr": [0.1]}, {"retrain.epochs": [1, 2], "retrain.sam": [None]}, True)
    assert values("retrain.lr=0.1,1e-3") == ("retrain.lr", [0.1, 1e-3])
    with pytest.raises(ValueError, match="must read"):
        values("retrain.lr=")
