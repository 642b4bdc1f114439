"""A finished network measured from its artefact alone, in one plain process."""

from __future__ import annotations

import torch

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.files.folder import Folder
from dualprune.stages.settings.spec import Data
from dualprune.stages.training.evaluate import evaluate


def measure(url: str, shards: str) -> dict[str, float]:
    """Top-1 accuracy in percent on `val` and `test` of the artefact at `url`, on the shards at `shards`."""
    loaded = artefact.load(Folder(url))
    model = artefact.network(loaded)
    data = Data.model_validate(loaded.manifest["spec"]["data"])
    classes = loaded.manifest["spec"]["model"]["classes"]
    found = digest(read_manifest(shards))
    scores = {}
    for split in ("val", "test"):
        batches = open_split(shards, split, found, data, 0, torch.device("cpu"), classes)
        scores[f"{split}_accuracy"] = evaluate(model, batches).accuracy
    return scores
