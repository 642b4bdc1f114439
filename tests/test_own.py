"""Whole runs of a network, a data set and an objective of a user's own, from a folder that holds nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import TWO_STAGES, Running, bits, dualprune, json_of, stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NET = """
from torch import nn
from myparts import convolution


def small(width, classes=10):
    head = nn.Linear(2 * width * 16, 128), nn.ReLU(), nn.Linear(128, classes)
    return nn.Sequential(*convolution(1, width), *convolution(width, 2 * width), nn.MaxPool2d(2), nn.Flatten(), *head)
"""
PARTS = """
from torch import nn


def convolution(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()
"""
DATA = """
import numpy as np
from sklearn.datasets import load_digits


def samples(most):
    data = load_digits()
    pictures = np.round(data.images * (255 / 16)).astype(np.uint8)
    more = {"x": 0.5}
    return [{"image": p, "label": int(y), "words": [1] * (y + 1), **more} for p, y in zip(pictures, data.target)][:most]
"""
TASK = """
import torch
from torch.nn import functional as F
from dualprune.stages.objectives.base import Metric, Objective


def digits(share=1.0):
    return Objective(
        call=lambda network, batch: network(batch["image"]).float(),
        loss=lambda outputs, batch: share * F.cross_entropy(outputs, batch["label"], reduction="sum"),
        good=lambda batch: torch.tensor(len(batch["label"])),
        metrics={"misses": Metric(misses, lambda total, count: total / count, higher=False, unit="")},
        best="misses",
    )


def misses(outputs, batch):
    return (outputs.argmax(1) != batch["label"]).sum()
"""
OWN = (
    TWO_STAGES.replace("workers: 1", "workers: 2")
    .replace("epochs: 1, lr: 0.002", "epochs: 8, lr: 0.002")
    .replace("{name: digits_cnn}", '{name: "mynet:small", args: {width: 16}}')
    .replace(
        "data: {source: digits,",
        "objective: {name: 'mytask:digits', args: {share: 0.5}}\ndata: {source: 'mydata:samples', args: {most: 1700},",
    )
)


def put(folder: Path, **changed: str) -> Path:
    """Write the configuration and the modules into a new folder, or those that have changed."""
    files = {"mynet": NET, "myparts": PARTS, "mydata": DATA, "mytask": TASK}
    folder.mkdir(exist_ok=True)
    (folder / "own.yaml").write_text(OWN)
    for name, text in (files | changed).items():
        (folder / f"{name}.py").write_text(text)
    return folder


def states(folder: Path) -> list[tuple[str, str]]:
    """What a plan says of the stages, and why."""
    code, lines = dualprune(folder, "plan", "own.yaml", "--json")
    assert code == 0, lines
    return [(row["state"], row["why"]) for row in json_of(lines)["stages"]]


def test_from_plan_to_artefact(tmp_path: Path) -> None:
    """Planned, run on two ranks, killed, resumed to the bits of a run in peace, measured; what changes is noticed."""
    calm, folder = put(tmp_path / "calm"), put(tmp_path / "own")
    assert states(folder) == [("run", "not run yet")] * 2
    code, lines = dualprune(calm, "run", "own.yaml", "--json")
    assert code == 0, lines
    rows = json_of(lines)["stages"]
    assert [row["state"] for row in rows] == ["done", "done"]
    assert all(row["val_misses"] < 0.2 for row in rows)
    assert not [name for row in rows for name in row if "accuracy" in name]

    with Running(folder, "run", "own.yaml") as run:
        run.wait_for("half: training")
        run.wait_for_checkpoint(folder / "runs" / stage(lines, "half")["key"])
        run.cut_power()
    assert [state for state, _ in states(folder)] == ["cached", "resume"]
    code, lines = dualprune(folder, "run", "own.yaml", "--json")
    assert code == 0, lines
    assert bits(folder) == bits(calm)

    code, lines = dualprune(folder, "evaluate", "own.yaml", "--json")
    assert code == 0, lines
    found = json_of(lines)["stages"]
    assert [one["val_misses"] for one in found] == [row["val_misses"] for row in rows]
    assert "half: val_misses" in "\n".join(lines)

    changed = "the code of its {} changed"
    for module, old, new, why in (
        ("mydata", "", "# a comment", None),
        ("mydata", '"x": 0.5', '"x": 0.25', "its data changed"),
        ("mynet", "128", "96", changed.format("network")),
        ("myparts", "", "# a comment", changed.format("network")),
        ("mytask", "1.0", "2.0", changed.format("objective")),
    ):
        text = {"mydata": DATA, "mynet": NET, "myparts": PARTS, "mytask": TASK}[module]
        put(folder, **{module: text.replace(old, new) if old else text + new})
        dense, half = states(folder)
        if why is None:
            assert (dense[0], half[0]) == ("cached", "cached")
        else:
            assert (dense, half[0]) == (("run", why), "run")
