"""What the tests of `pipeline` share: a small configuration, shards and artefacts that hold no pictures or weights."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from dualprune.pipeline.config.load import Config, load
from dualprune.pipeline.config.problems import ConfigError, Problems
from dualprune.stages.artefacts.manifest import own_hash
from dualprune.stages.files.folder import Folder, sha256
from dualprune.stages.objectives.base import Batch, Metric, Objective
from dualprune.stages.objectives.measures import Measure, Measures
from dualprune.stages.settings.training import StageSpec

CONFIG = """\
name: tiny
store: {store}
cluster: {{workers: 1}}
monitor: {{wandb: disabled}}
model: {{name: digits_cnn}}
data: {{shards: {shards}}}
batch: 64
stages:
  - name: dense
    kind: train
    train: {{epochs: 2, lr: 4e-3}}
  - name: half
    kind: prune
    parent: dense
    constraints:
      - {{set: cardinality, tensors: "*", rate: 2}}
    admm: &admm {{updates: 1, lr: 2e-3, rho: 3e-3}}
    retrain: &retrain {{epochs: 1, lr: 2e-3}}
  - name: v1.5-quarter
    kind: prune
    parent: half
    constraints:  # of the third
      - {{set: cardinality, tensors: "*", rate: 4}}
    admm: *admm
    retrain: *retrain
  - name: other  # the fourth
    kind: prune
    parent: dense
    constraints:
      - {{set: cardinality, tensors: "8.*", rate: 2}}
    admm: *admm
    retrain: *retrain
"""
"""dense -> half -> v1.5-quarter, and dense -> other."""


def config(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write CONFIG, each change made once, with its shards and its store in `folder`. Returns the file's path."""
    text = CONFIG.format(store=folder / "store", shards=folder / "shards")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / "file.yaml"
    path.write_text(text)
    shards(folder / "shards")
    return path


def extended(folder: Path, entries: str, *changes: tuple[str, str]) -> Path:
    """Write CONFIG with more entries under `stages`, the changes made in the whole. Returns the file's path."""
    path = config(folder)
    text = path.read_text() + textwrap.indent(textwrap.dedent(entries), "  ")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path.write_text(text)
    return path


def loaded(folder: Path, *changes: tuple[str, str], overrides: list[str] | None = None) -> tuple[Config, Problems]:
    """CONFIG with changes, loaded."""
    return load(str(config(folder, *changes)), overrides)


def problems(path: Path, *overrides: str) -> list[str]:
    """What is wrong with a file that is expected to be refused."""
    with pytest.raises(ConfigError) as caught:
        load(str(path), list(overrides))
    return caught.value.problems


def line(path: Path, text: str) -> int:
    """Number of the one line of a file that holds `text`."""
    found = [number for number, row in enumerate(path.read_text().splitlines(), 1) if text in row]
    assert len(found) == 1, (text, found)
    return found[0]


def shards(folder: Path, content: str = "a") -> None:
    """A folder of shards as far as a plan looks at it: the manifest, and files of the right names."""
    splits = {}
    for split in ("train", "val", "test"):
        files = [f"{split}-000000.tar", f"{split}-index.npy"]
        entries = [{"file": file, "sha256": sha256(f"{content}{file}".encode())} for file in files]
        splits[split] = {"samples": 100, "shape": [1, 8, 8], "shards": entries[:1], "index": entries[1]}
        for file in files:
            Folder(str(folder)).write(file, b"")
    Folder(str(folder)).write_json("manifest.json", {"name": "hand-made", "splits": splits})


def manifest(data: bytes = b"weights", **own: float) -> dict[str, Any]:
    """What a finished stage's manifest has that `pipeline` reads, with `data` as its one file, and `own` metrics."""
    metrics = {
        "rate": 2.0,
        "nonzeros": 35304,
        "val_accuracy": 97.5,
        "test_accuracy": 96.25,
        "residual": 0.125,
        "seconds": 12.5,
        "steps": 44,
        **own,
    }
    whole = {
        "files": {"model.safetensors": {"sha256": sha256(data), "bytes": len(data)}},
        "metrics": metrics,
        "world": 1,
    }
    return whole | {"sha256": own_hash(whole)}


SCORE = Measures("score", {"score": Measure("", higher=False), "share": Measure()})
"""What a stage may be measured by that does not classify: less of the score is better."""


def scores(spec: StageSpec) -> Objective:
    """An objective of these metrics, as a line of the table of objectives; nothing is trained for it."""

    def summed(outputs: Any, batch: Batch) -> Tensor:
        total: Tensor = outputs.sum()
        return total

    return Objective(
        call=lambda network, batch: network(batch["image"]),
        loss=summed,
        good=lambda batch: batch["label"].numel() + batch["label"].new_zeros(()),
        metrics={name: Metric(summed, max, one.higher, one.unit) for name, one in SCORE.metrics.items()},
        best=SCORE.best,
    )


def scored(value: float, **own: float) -> dict[str, Any]:
    """The manifest of a stage of that objective."""
    found = manifest(val_score=value, test_score=value, **own)
    for name in ("val_accuracy", "test_accuracy"):
        del found["metrics"][name]
    return {**found, "objective": SCORE.said()}


def artefact(store: str, key: str, data: bytes = b"weights", **own: float) -> dict[str, Any]:
    """Put a finished stage into a store by hand; returns its manifest."""
    folder, whole = Folder(store) / key, manifest(data, **own)
    folder.write("model.safetensors", data)
    folder.write_json("manifest.json", whole)
    return whole
