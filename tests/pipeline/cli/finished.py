"""A store of finished stages for the verbs that take some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.make.builtin import digits
from dualprune.stages.data.shards import write
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.table import parse
from dualprune.stages.networks.builtin import MODELS

KEYS = {"dense": "d" * 16, "half": "a" * 16, "quarter": "b" * 16}


def chain(folder: Path) -> None:
    """In `store`: digits, and dense -> half -> quarter, in the order of their pruning."""
    url = str(folder / "store")
    Folder(url).establish()
    write(f"{url}/data/digits", "digits", {split: list(samples)[:20] for split, samples in digits(None).items()})
    made(folder, "dense", None, 1.0)
    made(folder, "half", "dense", 2.0)
    made(folder, "quarter", "half", 4.0)


def made(folder: Path, name: str, parent: str | None, rate: float) -> None:
    """A finished stage, as `stages.training.outcome` leaves it, as far as anybody looks here."""
    common = {"model": {"name": "digits_cnn"}, "data": {"source": "digits"}, "batch": 8}
    if parent is None:
        own: dict[str, Any] = {"kind": "train", "train": {"epochs": 1, "lr": 0.01}}
    else:
        own = {
            "kind": "prune",
            "constraints": [{"set": "cardinality", "tensors": "*", "rate": rate}],
            "admm": {"updates": 1, "lr": 0.01, "rho": 0.01},
            "retrain": {"epochs": 1, "lr": 0.01},
        }
    torch.manual_seed(0)
    network = MODELS["digits_cnn"](10)
    weights = dict(network.state_dict())
    held = {tensor: value for tensor, value in weights.items() if value.ndim > 1}
    for value in held.values():
        value[torch.rand_like(value) < 1 - 1 / rate] = 0
    size, left = sum(w.numel() for w in held.values()), sum(int((w != 0).sum()) for w in held.values())
    sets = [] if parent is None else ["cardinality"]
    manifest = {
        "name": name,
        "key": KEYS[name],
        "spec": parse(common | own).model_dump(mode="json"),
        "data": digest(read_manifest(f"{folder}/store/data/digits")),
        "parents": [] if parent is None else [{"name": parent, "key": KEYS[parent]}],
        "tensors": {tensor: {"sets": sets} for tensor in held},
        "fixed": {},
        "metrics": {"rate": size / left, "network_rate": size / left, "bytes": 4 * left},
        "rows": [],
    }
    artefact.commit(Folder(f"{folder}/store/{KEYS[name]}"), manifest, weights, {}, {})
