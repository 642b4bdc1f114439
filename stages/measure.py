"""A finished network measured from its artefact alone, in one plain process."""

from __future__ import annotations

import torch

from dualprune.stages import artefact
from dualprune.stages.data.batches import open_split
from dualprune.stages.data.manifest import digest, read_manifest
from dualprune.stages.evaluate import evaluate
from dualprune.stages.files import Folder
from dualprune.stages.spec import Data


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
