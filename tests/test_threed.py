"""Depth, width and resolution chosen together in a whole run: killed, resumed, and asked for another budget."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from dualprune.stages.artefacts.manifest import read
from dualprune.stages.export.machine import machine
from dualprune.stages.files.folder import Folder
from tests.running import Running, bits, dualprune, json_of, stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NET = """
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.last = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x):
        return (x + self.last(self.two(self.norm(self.one(x)).relu()))).relu()


class Net(nn.Module):
    def __init__(self, classes=10, width=12):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(width) for _ in range(3)))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
"""
CONFIG = """
name: three
monitor: {wandb: disabled}
model: {name: "mynet:Net"}
data: {source: digits}
batch: 64
stages:
  - name: dense
    kind: train
    train: {epochs: 5, lr: 0.01}
  - name: half
    kind: shrink
    parent: dense
    threed: {budget: {macs: 0.5}, depth: [1, 2], width: [0.75, 0.5], resolution: [7, 6], step: {epochs: 1, lr: 0.005}}
    retrain: {epochs: 2, lr: 0.005}
"""


def put(folder: Path, text: str = CONFIG) -> Path:
    """Write the configuration and the network into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "own.yaml").write_text(text)
    (folder / "mynet.py").write_text(NET)
    return folder


def decision(folder: Path, lines: list[str], name: str) -> dict[str, Any]:
    """What the choice says of how it fell."""
    found = read(Folder(str(folder / "runs" / stage(lines, name)["key"])))
    assert found is not None
    return dict(found["decision"])


def test_from_plan_to_another_budget(tmp_path: Path) -> None:
    calm, folder = put(tmp_path / "calm"), put(tmp_path / "own")
    code, lines = dualprune(calm, "run", "own.yaml", "--json")
    assert code == 0, lines
    half, dense = stage(lines, "half"), stage(lines, "dense")
    found = decision(calm, lines, "half")
    assert 0.3 < half["macs"] / dense["macs"] <= 0.5
    assert len(found["samples"]) == 7
    assert found["resolution"] == 8
    assert {one["resolution"] for one in found["samples"]} == {None, 7, 6}
    by = {(one["depth"], one["resolution"]): one["cost"]["macs"] for one in found["samples"] if one["width"] == 1}
    assert by[1, None] == pytest.approx(0.67, abs=0.03)
    assert by[0, 6] == pytest.approx((6 / 8) ** 2, abs=0.01)
    assert any("error between samples" in line for line in lines)

    with Running(folder, "run", "own.yaml") as run:
        run.wait_for("half@width-0.75: done")
        run.process.send_signal(signal.SIGKILL)
        run.end()
    code, again = dualprune(folder, "run", "own.yaml", "--json")
    assert code == 0, again
    assert bits(folder) == bits(calm)
    assert decision(folder, again, "half") == found

    more = """
  - name: third
    kind: shrink
    parent: dense
    threed: {budget: {macs: 0.35}, depth: [1, 2], width: [0.75, 0.5], resolution: [7, 6], step: {epochs: 1, lr: 0.005}}
    retrain: {epochs: 2, lr: 0.005}
"""
    put(folder, CONFIG + more)
    code, lines = dualprune(folder, "plan", "own.yaml", "--json")
    assert code == 0, lines
    (third,) = (row for row in json_of(lines)["stages"] if row["name"] == "third")
    assert "tries depth-1 -> depth-2; width-0.75 -> width-0.5; resolution-7 -> resolution-6" in third["notes"][0]
    code, lines = dualprune(folder, "run", "own.yaml", "--json")
    assert code == 0, lines
    assert stage(lines, "third")["macs"] / dense["macs"] <= 0.35
    trained = [line for line in lines if line.endswith(": training")]
    assert len(trained) == 1, trained
    assert "third@best" in trained[0]

    where = "latency: 0.95}, latency: {machine: %s, backend: torch}"
    timed = more.replace("third", "quick").replace("macs: 0.35}", where)
    put(folder, CONFIG + more + timed % "elsewhere")
    code, lines = dualprune(folder, "run", "own.yaml", "--json")
    assert code == 2, lines
    assert any(f"this machine's is {machine()!r}" in line for line in lines), lines
    put(folder, CONFIG + more + timed % json.dumps(machine()))
    code, lines = dualprune(folder, "run", "own.yaml", "--json")
    assert code == 0, lines
    trained = [line for line in lines if line.endswith(": training")]
    assert len(trained) <= 1, trained
    latency = decision(folder, lines, "quick")["latency"]
    assert latency["machine"] == machine()
    assert 0 < latency["share"] < 1.2, "measured beside the parent, whatever the machine is busy with"
    assert any("times 7 networks (torch on" in line for line in lines)
