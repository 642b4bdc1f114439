"""Networks of a user's own made smaller in whole runs: killed, resumed, cached, measured, built without parents."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dualprune.stages.artefacts.manifest import read
from dualprune.stages.files.folder import Folder
from tests.processes import PATH
from tests.running import Running, bits, dualprune, json_of, stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NET = """
import torch
from torch import nn
from torch.nn import functional as F


class Two(nn.Module):
    \"\"\"Numbers and tokens to a number, by name, beside another output.\"\"\"

    def __init__(self, width=24):
        super().__init__()
        self.table, self.numbers = nn.Embedding(16, width), nn.Linear(6, width)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
                                      for _ in range(3)))
        self.value, self.other = nn.Linear(width, 1), nn.Linear(width, 4)

    def forward(self, x, words):
        y = self.numbers(x) + self.table(words).mean(1)
        for block in self.blocks:
            y = y + block(y)
        return {"value": self.value(y).squeeze(1), "other": self.other(y)}


class Encoder(nn.Module):
    \"\"\"Padded tokens to classes, by attention of four heads.\"\"\"

    def __init__(self, width=16):
        super().__init__()
        self.heads, self.size = 4, width // 4
        self.table = nn.Embedding(16, width)
        self.query, self.key, self.worth = (nn.Linear(width, width) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 32), nn.Linear(32, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, self.size).transpose(1, 2)

    def forward(self, input_ids, attention_mask):
        x = self.table(input_ids)
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.worth))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask[:, None, None] > 0)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        kept = attention_mask[..., None]
        return {"logits": self.head((x * kept).sum(1) / kept.sum(1))}
"""
DATA = """
import numpy as np


def samples():
    draw = np.random.default_rng(0)
    found = []
    for _ in range(400):
        words, x = draw.integers(0, 16, draw.integers(3, 9)), draw.normal(size=6).astype(np.float32)
        found.append({"x": x, "words": draw.integers(0, 16, 5), "target": float(x[0] * x[1]), "input_ids": words,
                      "label": int(words.max() // 4)})
    return found
"""
CONFIG = """
name: own
cluster: {workers: 2}
monitor: {wandb: disabled}
model: &two {name: "mynets:Two"}
objective: {name: regress, args: {inputs: {x: x, words: words}, output: value}}
data: {source: "mydata:samples", cut: {val: 0.2, test: 0.2}}
batch: 24
engine: {checkpoint_steps: 3}
stages:
  - {name: dense, kind: train, train: {epochs: 2, lr: 0.01}}
  - name: cut
    kind: prune
    parent: dense
    constraints: [{set: row, tensors: "*", rate: 2, coupled: true}]
    admm: {updates: 2, lr: 0.005, rho: 0.05}
    retrain: {epochs: 0, lr: 0.01}
  - {name: small, kind: shrink, parent: cut, blocks: {remove: 1}, retrain: {epochs: 8, lr: 0.005}}
  - name: thin
    kind: prune
    parent: small
    constraints: [{set: cardinality, tensors: "*", rate: 2}]
    admm: null
    retrain: {epochs: 1, lr: 0.005}
  - name: words
    kind: train
    model: &encoder {name: "mynets:Encoder"}
    objective: &tokens {name: tokens, args: {output: logits}}
    train: {epochs: 2, lr: 0.01}
  - name: heads
    kind: shrink
    parent: words
    model: *encoder
    objective: *tokens
    constraints: [{set: head, tensors: "*", keep: 0.5, coupled: true}]
    retrain: {epochs: 1, lr: 0.01}
"""
BUILT = """
import sys, torch
from dualprune.stages.artefacts import artefact
from dualprune.stages.files.folder import Folder

network = artefact.network(artefact.load(Folder(sys.argv[1])))
found = network(torch.zeros(3, 6), torch.ones(3, 5, dtype=torch.long))
print(sorted(found), sum(1 for block in network.blocks if list(block.parameters())), found["value"].shape[0])
"""


def put(folder: Path, text: str = CONFIG) -> Path:
    """Write the configuration and the modules into a new folder."""
    folder.mkdir(exist_ok=True)
    for name, content in (("own.yaml", text), ("mynets.py", NET), ("mydata.py", DATA)):
        (folder / name).write_text(content)
    return folder


def states(folder: Path) -> dict[str, str]:
    """What a plan says of the stages."""
    code, lines = dualprune(folder, "plan", "own.yaml", "--json")
    assert code == 0, lines
    return {row["name"]: row["state"] for row in json_of(lines)["stages"]}


def test_from_plan_to_artefact(tmp_path: Path) -> None:
    calm, folder = put(tmp_path / "calm"), put(tmp_path / "own")
    code, lines = dualprune(calm, "run", "own.yaml", "--json")
    assert code == 0, lines
    rows = {row["name"]: row for row in json_of(lines)["stages"]}
    assert {row["state"] for row in rows.values()} == {"done"}
    small = read(Folder(str(calm / "runs" / rows["small"]["key"])))
    assert small is not None
    assert len(small["shrunk"]["blocks"]) == 1
    assert all(left * 2 == size for size, left in small["shrunk"]["units"].values())
    assert rows["thin"]["macs"] == rows["small"]["macs"] < 0.5 * rows["small"]["dense_macs"]
    assert rows["cut"]["macs"] == rows["small"]["dense_macs"]
    assert rows["cut"]["dense_macs"] is None
    heads = read(Folder(str(calm / "runs" / rows["heads"]["key"])))
    assert heads is not None
    assert list(heads["shrunk"]["units"].values()) == [[4, 2]]

    with Running(folder, "run", "own.yaml") as run:
        run.wait_for("small: training")
        run.wait_for_checkpoint(folder / "runs" / rows["small"]["key"])
        run.cut_power()
    assert states(folder)["small"] == "resume"
    code, lines = dualprune(folder, "run", "own.yaml", "--json")
    assert code == 0, lines
    assert stage(lines, "cut")["state"] == "cached"
    assert bits(folder) == bits(calm)
    assert set(states(folder).values()) == {"cached"}

    code, lines = dualprune(folder, "evaluate", "own.yaml", "--json")
    assert code == 0, lines
    for row in json_of(lines)["stages"]:
        name = "val_r2" if "val_r2" in row else "val_accuracy"
        assert row[name] == pytest.approx(rows[row["name"]][name], rel=1e-6), row["name"]
    store = str(folder / "runs")
    assert dualprune(folder, "store", "verify", "--store", store)[0] == 0
    shown = "\n".join(dualprune(folder, "store", "show", rows["small"]["key"], "--store", store)[1])
    assert "taken out" in shown
    assert "block gone; loss on validation" in shown

    for name in ("dense", "cut"):
        shutil.rmtree(folder / "runs" / rows[name]["key"])
    said = subprocess.run(
        [sys.executable, "-c", BUILT, str(folder / "runs" / rows["small"]["key"])],
        cwd=folder,
        env={"PYTHONPATH": f"{PATH}:{folder}"},
        capture_output=True,
        text=True,
    )
    assert said.stdout.split("\n")[0] == "['other', 'value'] 2 3", said.stderr
    put(calm, CONFIG.replace("keep: 0.5", "keep: 0.75"))
    assert states(calm) == dict.fromkeys(rows, "cached") | {"heads": "run"}
    (calm / "mynets.py").write_text(NET.replace("width=24", "width=32"))
    assert json.dumps(states(calm)).count("run") == len(rows)
